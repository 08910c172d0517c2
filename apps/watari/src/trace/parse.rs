//! What people write for the ends of a packet.

use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use anyhow::{Context as _, bail};

/// An end: who, and which port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub who: Who,
    pub port: Option<u16>,
}

/// Who an end is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Address(IpAddr),
    /// A node, or `[NAMESPACE/]NAME` of a pod.
    Name(String),
}

impl FromStr for Named {
    type Err = anyhow::Error;

    /// `NAME`, `NAMESPACE/NAME`, an address; each with `:PORT`, an IPv6 address then in brackets.
    fn from_str(text: &str) -> anyhow::Result<Self> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']').context("the `]` is missing")?;
            let address: Ipv6Addr = inside
                .parse()
                .with_context(|| format!("{inside:?} is no IPv6 address"))?;
            let port = match after {
                "" => None,
                _ => Some(port(
                    after
                        .strip_prefix(':')
                        .context("want `:PORT` after the `]`")?,
                )?),
            };
            return Ok(Self::address(address.into(), port));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::address(address, None));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, number)) => (name, Some(port(number)?)),
            None => (text, None),
        };
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Self::address(address, port));
        }
        let good = |part: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
            let edge = |c: char| c.is_ascii_alphanumeric();
            part.starts_with(edge) && part.ends_with(edge) && part.chars().all(inner)
        };
        let parts: Vec<&str> = name.split('/').collect();
        if parts.len() > 2 || !parts.iter().all(|part| good(part)) {
            bail!("want an address, a node, or [NAMESPACE/]NAME of a pod; with :PORT or without");
        }
        let who = Who::Name(name.to_owned());
        Ok(Self { who, port })
    }
}

impl Named {
    fn address(address: IpAddr, port: Option<u16>) -> Self {
        let who = Who::Address(address.to_canonical());
        Self { who, port }
    }
}

fn port(text: &str) -> anyhow::Result<u16> {
    match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => bail!(
            "{text:?} is no port (want 1 to 65535; an IPv6 address with a port is [ADDRESS]:PORT)"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Named {
        text.parse().unwrap()
    }

    fn address(text: &str, port: Option<u16>) -> Named {
        Named::address(text.parse().unwrap(), port)
    }

    fn name(text: &str, port: Option<u16>) -> Named {
        let who = Who::Name(text.to_owned());
        Named { who, port }
    }

    #[test]
    fn addresses_and_names_with_ports_and_without() {
        assert_eq!(read("10.0.0.1"), address("10.0.0.1", None));
        assert_eq!(read("10.0.0.1:80"), address("10.0.0.1", Some(80)));
        assert_eq!(read("fd00::1"), address("fd00::1", None));
        assert_eq!(read("fd00::1:80"), address("fd00::1:80", None));
        assert_eq!(read("[fd00::1]"), address("fd00::1", None));
        assert_eq!(read("[fd00::1]:80"), address("fd00::1", Some(80)));
        assert_eq!(read("::ffff:10.0.0.1"), address("10.0.0.1", None));
        assert_eq!(read("web-1"), name("web-1", None));
        assert_eq!(read("web-1:8080"), name("web-1", Some(8080)));
        assert_eq!(read("shop/web-1:8080"), name("shop/web-1", Some(8080)));
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in [
            "",
            ":80",
            "web:",
            "web:0",
            "web:65536",
            "web:http",
            "a/b/c",
            "a/",
            "/a",
            "a b",
            "[fd00::1",
            "[fd00::1]80",
            "[10.0.0.1]:80",
            "fd00::1:80:",
            "../x",
        ] {
            assert!(text.parse::<Named>().is_err(), "{text:?}");
        }
    }
}
