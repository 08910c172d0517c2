//! What was dropped: how much, why, whose, and what the last one looked like.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use watari_abi::{DropEvent, DropKey, Reason};
use watari_bpf::Drops as Counted;

use crate::names::Names;
use crate::packet::Headers;

/// Examples that are kept; the link that was heard of longest ago gives way.
const EXAMPLES: usize = 256;

/// The last packet that was dropped at a link for a reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Example {
    /// Its headers.
    pub headers: Headers,
    /// The same in one line.
    pub line: String,
    /// Its length in bytes.
    pub length: u32,
    /// Its first bytes, as hexadecimal digits.
    pub bytes: String,
    /// Seconds since it was dropped.
    pub seconds_ago: f64,
}

/// How many packets were dropped at a link for a reason.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Why.
    pub reason: String,
    /// The link; absent for the whole node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
    /// The pod behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// Where they were seen: `from_pod`, `to_pod`, `from_uplink`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hook: Option<String>,
    /// How many.
    pub packets: u64,
    /// How long, together.
    pub bytes: u64,
    /// The last one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub example: Option<Example>,
}

/// All that was dropped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Drops {
    /// The version of this answer.
    pub schema: u32,
    /// By reason, since the datapath was loaded.
    pub totals: Vec<Dropped>,
    /// By link and reason; links that are gone, and those seldom heard of, may be missing.
    pub links: Vec<Dropped>,
}

/// The last packet for each link, reason and hook.
#[derive(Debug, Default)]
pub struct Examples(BTreeMap<DropKey, DropEvent>);

fn key_of(event: &DropEvent) -> DropKey {
    DropKey {
        ifindex: event.ifindex,
        reason: event.reason,
        hook: event.hook,
        pad: 0,
    }
}

impl Examples {
    /// Keeps an event.
    pub fn keep(&mut self, event: &DropEvent) {
        let key = key_of(event);
        if self.0.len() >= EXAMPLES && !self.0.contains_key(&key) {
            let oldest = self.0.iter().min_by_key(|(_, event)| event.time);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                self.0.remove(&oldest);
            }
        }
        self.0.insert(key, *event);
    }

    /// The last packet of a link, reason and hook.
    pub fn of(&self, key: &DropKey, now: u64) -> Option<Example> {
        self.0.get(key).map(|event| example(event, now))
    }

    /// The last packet of a reason.
    fn of_reason(&self, reason: Reason, now: u64) -> Option<Example> {
        let of_reason = self
            .0
            .values()
            .filter(|event| event.reason == reason as u16);
        let last = of_reason.max_by_key(|event| event.time)?;
        Some(example(last, now))
    }
}

/// The bytes of an event that are the packet's.
pub fn captured(event: &DropEvent) -> &[u8] {
    let kept = usize::from(event.captured).min(event.headers.len());
    &event.headers[..kept]
}

fn example(event: &DropEvent, now: u64) -> Example {
    let bytes = captured(event);
    let headers = Headers::read(bytes);
    Example {
        line: headers.line(),
        headers,
        length: event.length,
        bytes: hexadecimal(bytes),
        seconds_ago: crate::flows::seconds(now.saturating_sub(event.time)),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

impl Drops {
    /// From the datapath's tables and what was kept.
    pub fn new(dropped: &Counted, examples: &Examples, names: &Names, now: u64) -> Self {
        let reasons = dropped.totals.iter();
        let totals = reasons
            .filter(|(_, tally)| tally.packets > 0)
            .map(|(reason, tally)| Dropped {
                reason: reason.name().to_owned(),
                link: None,
                pod: None,
                hook: None,
                packets: tally.packets,
                bytes: tally.bytes,
                example: examples.of_reason(*reason, now),
            });
        let links = dropped.by_link.iter().map(|at| {
            let key = DropKey {
                ifindex: at.ifindex,
                reason: at.reason.map_or(0, |reason| reason as u16),
                hook: at.hook.map_or(0, |hook| hook as u8),
                pad: 0,
            };
            let pod = at.link.as_ref().and_then(|link| names.behind(link));
            let gone = || format!("#{}", at.ifindex);
            Dropped {
                reason: at.reason.map_or("unknown", Reason::name).to_owned(),
                pod: pod.map(str::to_owned),
                link: Some(at.link.as_ref().map_or_else(gone, ToString::to_string)),
                hook: at.hook.map(|hook| hook.program().to_owned()),
                packets: at.tally.packets,
                bytes: at.tally.bytes,
                example: examples.of(&key, now),
            }
        });
        let mut drops = Self {
            schema: crate::flows::SCHEMA,
            totals: totals.collect(),
            links: links.collect(),
        };
        drops.links.sort_by(|one, other| {
            (&one.reason, &one.link, &one.hook).cmp(&(&other.reason, &other.link, &other.hook))
        });
        drops
    }
}

#[cfg(test)]
mod tests {
    use watari_abi::{HEADER_BYTES, Hook, Tally};
    use watari_bpf::DropsAt;

    use super::*;

    fn event(ifindex: u32, time: u64) -> DropEvent {
        DropEvent {
            time,
            ifindex,
            length: 98,
            reason: Reason::SpoofedAddress as u16,
            hook: Hook::FromPod as u8,
            captured: 14,
            rule: 0,
            headers: [0; HEADER_BYTES],
        }
    }

    #[test]
    fn the_last_example_of_a_link_is_kept_and_the_oldest_gives_way() {
        let mut examples = Examples::default();
        let links = u32::try_from(EXAMPLES).unwrap() + 1;
        for ifindex in 0..links {
            examples.keep(&event(ifindex, u64::from(ifindex)));
        }
        examples.keep(&event(5, 9_000_000_000));
        assert!(examples.of(&key_of(&event(0, 0)), 0).is_none());
        let five = examples.of(&key_of(&event(5, 0)), 9_500_000_000).unwrap();
        assert!((five.seconds_ago - 0.5).abs() < 1e-9);
        assert_eq!(five.bytes.len(), 28);
        let tally = Tally {
            packets: 2,
            bytes: 9,
        };
        let dropped = Counted {
            totals: vec![
                (Reason::SpoofedAddress, tally),
                (Reason::Tagged, Tally::default()),
            ],
            by_link: vec![DropsAt {
                ifindex: 7,
                link: None,
                hook: Some(Hook::FromPod),
                reason: Some(Reason::SpoofedAddress),
                tally,
            }],
        };
        let drops = Drops::new(&dropped, &examples, &Names::default(), 9_500_000_000);
        assert_eq!(drops.totals.len(), 1);
        assert_eq!(drops.totals[0].example.as_ref(), Some(&five));
        assert_eq!(drops.links[0].link.as_deref(), Some("#7"));
        assert!(drops.links[0].example.is_some());
    }

    #[test]
    fn more_than_was_kept_is_not_read() {
        let mut long = event(1, 0);
        long.captured = 255;
        assert_eq!(captured(&long).len(), HEADER_BYTES);
    }
}
