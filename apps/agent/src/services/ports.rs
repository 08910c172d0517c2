use std::fmt;
use std::str::FromStr;

use anyhow::{Context as _, Result, bail};

/// The fewest ports that are of use: towards one backend's port so many connections may have their
/// source translated.
const FEWEST: u32 = 256;

/// Ports that sources are translated to, both ends among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

impl Default for PortRange {
    /// What Linux leaves above its own (`net.ipv4.ip_local_port_range`).
    fn default() -> Self {
        Self {
            first: 61_000,
            last: 65_535,
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no range of ports, as 61000-65535");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let port = |text: &str| text.trim().parse::<u16>().map_err(|_| wrong());
        let range = Self {
            first: port(first)?,
            last: port(last)?,
        };
        if range.first < 1024 || range.first > range.last {
            return Err(format!("{text:?}: from 1024 on, the first before the last"));
        }
        if range.count() < FEWEST {
            return Err(format!("{text:?}: at least {FEWEST} ports are needed"));
        }
        Ok(range)
    }
}

impl PortRange {
    fn count(self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

/// The ports to use of those that are wanted: the node gives ports of `local` to its own
/// connections, but for those of `reserved` (as `net.ipv4.ip_local_port_range` and
/// `ip_local_reserved_ports` read), and a reply to one must not be taken for a reply to the other. The
/// longest stretch without them, and what is to be said of it.
pub fn source_ports(
    wanted: PortRange,
    local: &str,
    reserved: &str,
) -> Result<(PortRange, Option<String>)> {
    let mut ends = local.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (ends.next(), ends.next()) else {
        bail!("net.ipv4.ip_local_port_range reads {local:?}");
    };
    let mut kept = Vec::new();
    for part in reserved.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let read = |text: &str| {
            let port = text.trim().parse::<u16>();
            port.with_context(|| format!("net.ipv4.ip_local_reserved_ports reads {reserved:?}"))
        };
        kept.push(read(first)?..=read(last)?);
    }
    let is_nodes =
        |port: u16| (low..=high).contains(&port) && !kept.iter().any(|range| range.contains(&port));
    let mut best: Option<PortRange> = None;
    let mut here: Option<PortRange> = None;
    for port in wanted.first..=wanted.last {
        here = match here {
            _ if is_nodes(port) => None,
            Some(range) => Some(PortRange {
                last: port,
                ..range
            }),
            None => Some(PortRange {
                first: port,
                last: port,
            }),
        };
        if let Some(range) = here
            && best.is_none_or(|best| range.count() > best.count())
        {
            best = Some(range);
        }
    }
    let local = format!("{low}-{high}");
    match best {
        Some(best) if best == wanted => Ok((best, None)),
        Some(best) if best.count() >= FEWEST => Ok((
            best,
            Some(format!(
                "of the source ports {wanted} only {best} are used: the others are the node's own \
                 (net.ipv4.ip_local_port_range is {local}; net.ipv4.ip_local_reserved_ports takes some out \
                 of it)"
            )),
        )),
        _ => bail!(
            "the source ports {wanted} are the node's own (net.ipv4.ip_local_port_range is {local}), \
             so replies to translated connections could not be told from replies to it: choose \
             others by --source-ports, or take them out by net.ipv4.ip_local_reserved_ports"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_mistakes_told() {
        let range = PortRange::from_str("61000-65535").unwrap();
        assert_eq!(range, PortRange::default());
        assert_eq!(range.to_string(), "61000-65535");
        for wrong in [
            "",
            "61000",
            "a-b",
            "65535-61000",
            "80-9000",
            "61000-61010",
            "1-70000",
        ] {
            assert!(PortRange::from_str(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_of_the_node_are_left_to_it() {
        let wanted = PortRange::default();
        let of = |local: &str, reserved: &str| source_ports(wanted, local, reserved);
        assert_eq!(of("32768\t60999\n", "\n").unwrap(), (wanted, None));
        let (some, note) = of("32768 61999", "").unwrap();
        assert_eq!(some.to_string(), "62000-65535");
        assert!(note.unwrap().contains("only 62000-65535"));
        let error = of("1024 65535", "").unwrap_err().to_string();
        assert!(error.contains("--source-ports"), "{error}");
        assert_eq!(
            of("1024 65535", "61000-65535,8080").unwrap(),
            (wanted, None)
        );
        let (some, _) = of("1024 65535", "61000-61500,62000-65000").unwrap();
        assert_eq!(some.to_string(), "62000-65000");
        assert!(of("x", "").is_err() && of("1 2", "z").is_err());
    }
}
