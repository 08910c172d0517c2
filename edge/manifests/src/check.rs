//! Fields of Kubernetes objects, one by one: what they may hold, and what is said when they hold
//! something else.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_model::Protocol;

use crate::object::Refusal;

/// What a field cannot be, with its path.
pub(crate) fn refuse<T>(path: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err((path.into(), reason.into()))
}

/// As much of a text as an error has room for.
pub(crate) fn shown(text: &str) -> String {
    let start: String = text.chars().take(80).collect();
    format!("{start:?}")
}

/// An address of either family.
pub(crate) fn address(path: &str, text: &str) -> Result<IpAddr, Refusal> {
    let parsed: Result<IpAddr, _> = text.parse();
    parsed
        .map(|address| address.to_canonical())
        .map_err(|_| (path.to_owned(), format!("{} is no IP address", shown(text))))
}

/// An address that packets between hosts can have: none of a host's own, of a link or of a group.
pub(crate) fn unicast(path: &str, text: &str) -> Result<IpAddr, Refusal> {
    let address = address(path, text)?;
    let link_local = match address {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    let what = if address.is_unspecified() {
        "the unspecified address"
    } else if address.is_loopback() {
        "a loopback address"
    } else if address.is_multicast() {
        "a multicast address"
    } else if link_local {
        "a link-local address"
    } else {
        return Ok(address);
    };
    refuse(path, format!("{address} is {what}"))
}

/// A range of addresses; bits beyond its length are no mistake.
pub(crate) fn cidr(path: &str, text: &str) -> Result<IpNet, Refusal> {
    let parsed: Result<IpNet, _> = text.parse();
    parsed.map(|net| net.trunc()).map_err(|_| {
        let reason = format!("{} is no CIDR, as 10.244.1.0/24", shown(text));
        (path.to_owned(), reason)
    })
}

/// A port, 1 to 65535.
pub(crate) fn port(path: &str, value: i32) -> Result<u16, Refusal> {
    match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => refuse(path, format!("{value} is no port: want 1 to 65535")),
    }
}

/// A transport protocol; TCP when not said.
pub(crate) fn protocol(path: &str, text: Option<&str>) -> Result<Protocol, Refusal> {
    match text {
        None | Some("" | "TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => none_of(path, other, &["TCP", "UDP", "SCTP"]),
    }
}

/// Says what would have been right.
pub(crate) fn none_of<T>(path: &str, given: &str, right: &[&str]) -> Result<T, Refusal> {
    let right = right.join(", ");
    refuse(path, format!("{} is none of {right}", shown(given)))
}

/// `Cluster` or `Local`; true for the latter.
pub(crate) fn is_local(path: &str, text: Option<&str>) -> Result<bool, Refusal> {
    match text {
        None | Some("" | "Cluster") => Ok(false),
        Some("Local") => Ok(true),
        Some(other) => none_of(path, other, &["Cluster", "Local"]),
    }
}

/// The name of a container's port (`IANA_SVC_NAME`, RFC 6335): 15 letters, digits and '-' at most,
/// a letter among them.
pub(crate) fn port_name(path: &str, text: &str) -> Result<(), Refusal> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let well = text.len() <= 15
        && text.starts_with(edge)
        && text.ends_with(edge)
        && text.chars().all(|c| edge(c) || c == '-')
        && text.contains(|c: char| c.is_ascii_lowercase())
        && !text.contains("--");
    if well {
        return Ok(());
    }
    let reason = format!("{} is neither a port nor a port's name", shown(text));
    refuse(path, reason)
}

/// An RFC 1123 label, or several with dots between them.
pub(crate) fn name(path: &str, name: &str, longest: usize, dots: bool) -> Result<(), Refusal> {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let label = |label: &str| {
        label.starts_with(edge)
            && label.ends_with(edge)
            && label.chars().all(|c| edge(c) || c == '-')
    };
    let well = name.len() <= longest
        && if dots {
            name.split('.').all(label)
        } else {
            label(name)
        };
    if well {
        return Ok(());
    }
    let shown = shown(name);
    refuse(
        path,
        format!("{shown} is not a name of at most {longest} lower-case letters, digits and '-'"),
    )
}

/// The path of an annotation.
pub(crate) fn annotation(name: &str) -> String {
    format!("metadata.annotations['{name}']")
}

/// The annotations of ours that nobody knows here: most often a typing mistake.
pub(crate) fn unknown_annotations(
    all: Option<&BTreeMap<String, String>>,
    known: &[&str],
) -> Vec<String> {
    let names = all.into_iter().flat_map(BTreeMap::keys);
    names
        .filter(|name| name.starts_with("watari.io/") && !known.contains(&name.as_str()))
        .map(|name| annotation(name))
        .collect()
}

/// `watari.io/weight`, 1 to 100; 1 when there is none.
pub(crate) fn weight(annotations: Option<&BTreeMap<String, String>>) -> Result<u8, Refusal> {
    let Some(text) = annotations.and_then(|all| all.get(crate::WEIGHT)) else {
        return Ok(1);
    };
    match text.trim().parse() {
        Ok(weight @ 1..=100) => Ok(weight),
        _ => refuse(
            annotation(crate::WEIGHT),
            format!("{} is no weight: want 1 to 100", shown(text)),
        ),
    }
}
