//! Connections as rows, and which of them somebody wants to see.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use watari_abi::{
    Connection, ConnectionKey, Direction, Flow, FlowEvent, FlowEventKind, Side, State,
    TranslationKind, Verdict, flags,
};

use crate::names::{Names, Who};
use crate::packet::{Headers, flag_letters, protocol_name};

/// The version of every line that is told here.
pub const SCHEMA: u32 = 1;

/// One end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Its port; ICMP echo's identifier; zero for protocols without.
    pub port: u16,
    /// Whose it is.
    #[serde(flatten)]
    pub who: Who,
}

/// One direction of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Way {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
    /// Seconds since the first was seen; absent if none was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_seconds_ago: Option<f64>,
    /// Seconds since the last was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seconds_ago: Option<f64>,
    /// All TCP flags seen, as letters.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub tcp_flags: String,
    /// `allowed`, `denied` or `unjudged`.
    pub verdict: String,
    /// The rule that decided; zero for none.
    pub rule: u32,
    /// The policy revision that it was judged under.
    pub revision: u32,
}

/// How one end believes the connection to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Translated {
    /// `destination` or `source`.
    pub kind: String,
    /// The address that it stands for.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The Service; zero for none.
    pub service: u32,
}

/// A connection as it is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `seen`, `created`, `closed` or `dropped`.
    pub event: String,
    /// `tcp`, `udp`, …, or a number.
    pub protocol: String,
    /// Who opened it.
    pub source: End,
    /// Whom it was opened to.
    pub destination: End,
    /// `new`, `established`, …; of a dropped packet why.
    pub state: String,
    /// `direct`, past the stack, or `stack`.
    pub road: String,
    /// What is special: `picked-up`, `not-promoted`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
    /// From who opened it.
    pub original: Way,
    /// Back.
    pub reply: Way,
    /// Its translation.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub translation: Option<Translated>,
    /// Seconds until it counts as gone if nothing more is seen.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_in_seconds: Option<f64>,
}

/// What somebody wants to see; everything by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Filter {
    /// Of this pod, `NAMESPACE/NAME`.
    pub pod: Option<String>,
    /// Of this address.
    pub address: Option<IpAddr>,
    /// Of this port, on either side.
    pub port: Option<u16>,
    /// Of this protocol, by name or number.
    pub protocol: Option<String>,
    /// `allowed`, `denied` or `dropped`.
    pub verdict: Option<String>,
}

/// The name of a state.
pub fn state_name(state: u8) -> &'static str {
    match State::of(state) {
        Some(State::New) => "new",
        Some(State::Replied) => "replied",
        Some(State::Established) => "established",
        Some(State::Closing) => "closing",
        Some(State::TimeWait) => "time-wait",
        Some(State::Closed) => "closed",
        Some(State::PickedUp) => "picked-up",
        None => "unknown",
    }
}

fn verdict_name(verdict: u8) -> &'static str {
    match Verdict::of(verdict) {
        Some(Verdict::Allowed) => "allowed",
        Some(Verdict::Denied) => "denied",
        Some(Verdict::Unjudged) | None => "unjudged",
    }
}

/// Nanoseconds as seconds: nobody looks closer than microseconds.
#[allow(
    clippy::cast_precision_loss,
    reason = "seconds with six decimals, for people"
)]
pub fn seconds(nanos: u64) -> f64 {
    (nanos / 1000) as f64 / 1e6
}

fn way(direction: &Direction, now: u64) -> Way {
    let ago = |time: u64| (time != 0).then(|| seconds(now.saturating_sub(time)));
    Way {
        packets: direction.packets,
        bytes: direction.bytes,
        first_seconds_ago: ago(direction.first),
        last_seconds_ago: ago(direction.last),
        tcp_flags: flag_letters(direction.tcp_flags),
        verdict: verdict_name(direction.verdict).to_owned(),
        rule: direction.rule,
        revision: direction.revision,
    }
}

impl Row {
    /// A connection at the moment `now`, in ns of `CLOCK_MONOTONIC`.
    pub fn of(
        event: &str,
        key: &ConnectionKey,
        connection: &Connection,
        now: u64,
        names: &Names,
    ) -> Self {
        let low_opened = connection.flow(Side::Low) == Flow::Original;
        let opener = if low_opened { Side::Low } else { Side::High };
        let tuple = key.tuple(opener);
        let end = |address: watari_abi::Address, port: u16| {
            let address = IpAddr::from(address);
            End {
                address,
                port: u16::from_be(port),
                who: names.of(address),
            }
        };
        let has = |flag| connection.flags & flag != 0;
        let mut notes = Vec::new();
        for (flag, name) in [
            (flags::PICKED_UP, "picked-up"),
            (flags::NOT_PROMOTED, "not-promoted"),
        ] {
            if has(flag) {
                notes.push(name.to_owned());
            }
        }
        let [original, reply] = &connection.directions;
        Self {
            schema: SCHEMA,
            event: event.to_owned(),
            protocol: protocol_name(key.protocol),
            source: end(tuple.source, tuple.source_port),
            destination: end(tuple.destination, tuple.destination_port),
            state: state_name(connection.state).to_owned(),
            road: if has(flags::VIA_STACK) {
                "stack"
            } else {
                "direct"
            }
            .to_owned(),
            notes,
            original: way(original, now),
            reply: way(reply, now),
            translation: translated(connection),
            expires_in_seconds: Some(seconds(connection.expires.saturating_sub(now))),
        }
    }

    /// What an event tells.
    pub fn of_event(event: &FlowEvent, names: &Names) -> Self {
        let what = if event.kind == FlowEventKind::Closed as u32 {
            "closed"
        } else {
            "created"
        };
        Self::of(what, &event.key, &event.connection, event.time, names)
    }

    /// A dropped packet; none if it names no two ends.
    pub fn of_drop(reason: &str, length: u32, headers: &Headers, names: &Names) -> Option<Self> {
        let end = |address: IpAddr, port: Option<u16>| End {
            address,
            port: port.unwrap_or_default(),
            who: names.of(address),
        };
        let nothing = way(&Direction::default(), 0);
        Some(Self {
            schema: SCHEMA,
            event: "dropped".to_owned(),
            protocol: headers.protocol.map_or("arp".to_owned(), protocol_name),
            source: end(headers.source?, headers.source_port),
            destination: end(headers.destination?, headers.destination_port),
            state: reason.to_owned(),
            road: "none".to_owned(),
            notes: Vec::new(),
            original: Way {
                packets: 1,
                bytes: length.into(),
                tcp_flags: headers.tcp_flags.clone(),
                verdict: "dropped".to_owned(),
                ..nothing.clone()
            },
            reply: nothing,
            translation: None,
            expires_in_seconds: None,
        })
    }

    /// Whether a filter wants it.
    pub fn passes(&self, filter: &Filter) -> bool {
        let ends = [&self.source, &self.destination];
        let pod = |wanted: &String| ends.iter().any(|end| end.who.pod.as_ref() == Some(wanted));
        let verdict = |wanted: &String| {
            let ways = [&self.original.verdict, &self.reply.verdict];
            match wanted.as_str() {
                // The way back of what nobody answered is judged by nobody.
                "allowed" => *ways[0] == "allowed" && *ways[1] != "denied",
                other => ways.iter().any(|way| *way == other),
            }
        };
        filter.pod.as_ref().is_none_or(pod)
            && filter
                .address
                .is_none_or(|wanted| ends.iter().any(|end| end.address == wanted))
            && filter
                .port
                .is_none_or(|wanted| ends.iter().any(|end| end.port == wanted))
            && filter
                .protocol
                .as_ref()
                .is_none_or(|wanted| self.protocol.eq_ignore_ascii_case(wanted))
            && filter.verdict.as_ref().is_none_or(verdict)
    }
}

fn translated(connection: &Connection) -> Option<Translated> {
    let translation = &connection.translation;
    let kind = match TranslationKind::of(translation.kind)? {
        TranslationKind::None => return None,
        TranslationKind::Destination => "destination",
        TranslationKind::Source => "source",
    };
    Some(Translated {
        kind: kind.to_owned(),
        address: translation.address.into(),
        port: u16::from_be(translation.port),
        service: translation.service,
    })
}

#[cfg(test)]
mod tests {
    use watari_abi::Tuple;

    use super::*;

    fn tuple() -> Tuple {
        let address = |text: &str| text.parse::<IpAddr>().unwrap().into();
        Tuple {
            source: address("10.240.0.9"),
            destination: address("10.240.0.6"),
            source_port: 40_000u16.to_be(),
            destination_port: 80u16.to_be(),
            protocol: 6,
            pad: [0; 3],
        }
    }

    fn connection() -> (ConnectionKey, Connection) {
        let (key, side) = tuple().key();
        let mut connection = Connection {
            created: 1_000_000_000,
            expires: 9_000_000_000,
            state: State::Established as u8,
            family: 4,
            ..Connection::default()
        };
        if side == Side::Low {
            connection.flags |= flags::LOW_IS_ORIGINATOR;
        }
        connection.directions[0] = Direction {
            packets: 3,
            bytes: 300,
            first: 1_000_000_000,
            last: 2_000_000_000,
            tcp_flags: 0x12,
            verdict: Verdict::Allowed as u8,
            ..Direction::default()
        };
        (key, connection)
    }

    #[test]
    fn a_row_starts_at_who_opened_the_connection() {
        let (key, connection) = connection();
        let row = Row::of("seen", &key, &connection, 3_000_000_000, &Names::default());
        assert_eq!((row.source.port, row.destination.port), (40_000, 80));
        assert_eq!(row.source.address.to_string(), "10.240.0.9");
        assert_eq!(
            (row.protocol.as_str(), row.state.as_str()),
            ("tcp", "established")
        );
        assert_eq!(row.original.last_seconds_ago, Some(1.0));
        assert_eq!(row.original.tcp_flags, "SA");
        assert_eq!(row.reply.first_seconds_ago, None);
        assert_eq!(row.expires_in_seconds, Some(6.0));
        assert_eq!(
            (row.road.as_str(), row.translation.is_none()),
            ("direct", true)
        );
        let text = serde_json::to_string(&row).unwrap();
        assert_eq!(serde_json::from_str::<Row>(&text).unwrap(), row);
    }

    #[test]
    fn filters_look_at_both_ends() {
        let (key, connection) = connection();
        let mut row = Row::of("seen", &key, &connection, 0, &Names::default());
        row.destination.who.pod = Some("shop/web".to_owned());
        let passes = |text: &str| row.passes(&serde_json::from_str(text).unwrap());
        for (wanted, other) in [
            (r#"{"pod":"shop/web"}"#, r#"{"pod":"shop/db"}"#),
            (r#"{"address":"10.240.0.6"}"#, r#"{"address":"10.240.0.7"}"#),
            (r#"{"address":"10.240.0.9"}"#, r#"{"address":"::1"}"#),
            (r#"{"port":80}"#, r#"{"port":81}"#),
            (r#"{"protocol":"TCP"}"#, r#"{"protocol":"udp"}"#),
            (r#"{"verdict":"allowed"}"#, r#"{"verdict":"denied"}"#),
            ("{}", r#"{"port":80,"protocol":"udp"}"#),
        ] {
            assert!(passes(wanted), "{wanted}");
            assert!(!passes(other), "{other}");
        }
    }

    #[test]
    fn a_dropped_packet_is_a_row_of_its_own() {
        let headers = Headers {
            source: Some("10.0.0.1".parse().unwrap()),
            destination: Some("10.0.0.2".parse().unwrap()),
            protocol: Some(17),
            destination_port: Some(53),
            ..Headers::default()
        };
        let row = Row::of_drop("spoofed-address", 90, &headers, &Names::default()).unwrap();
        let dropped = Filter {
            verdict: Some("dropped".to_owned()),
            ..Filter::default()
        };
        assert!(row.passes(&dropped));
        assert_eq!(
            (row.state.as_str(), row.original.bytes),
            ("spoofed-address", 90)
        );
        let none = Headers::default();
        assert_eq!(Row::of_drop("tagged", 90, &none, &Names::default()), None);
    }
}
