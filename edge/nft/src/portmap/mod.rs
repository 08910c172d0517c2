//! Port mappings of a node: one table, a constant number of rules, one element a mapping.
//!
//! # The table `inet watari-portmap`
//! Destination rewriting at `prerouting` and `output` (priority -100), for addresses of the node
//! only, by the maps `hostports4` and `hostports6` (`protocol . port : address . port`), and
//! before them, being more specific, `boundports4` and `boundports6`, whose key starts with the
//! host address. At `postrouting` (priority 100) what was so rewritten is masqueraded if the set
//! `snat4` or `snat6` holds its `source . destination`: the pod to itself (hairpin), and the
//! node's own 127.0.0.1 to the pod; or if `masqall4` or `masqall6` holds the destination.
//!
//! # Why data maps
//! A verdict map with a chain for each mapping does the same, but the kernel validates all jumps
//! of a table whose verdicts change, so a transaction walks the map. Measured (kernel 6.18, nine
//! times each) with 1,000 mappings in place, the transaction that adds one more takes 0.50 ms
//! with a verdict map and 0.07 ms with a data map, which has no verdicts to walk. An ADD of one
//! TCP mapping of both families takes 0.03 ms in the kernel, alone or beside 1,000 others.
//!
//! # Who owns an element
//! Its comment: `network/container/interface`, which `nft list table inet watari-portmap` shows.
//! A part longer than 100 bytes is replaced by `~` and 40 hexadecimal digits of its SHA-256.
//! The set `owners` holds 15 digits of the comment's SHA-256 for each owner, so that a DEL that
//! is not told the mappings (most pods have none) need not read the maps to find that there are
//! none.
//!
//! # Several writers
//! Plugins run side by side, without a lock. An ADD is one transaction whose elements must not
//! exist yet, so the kernel decides who gets a port. Everything that reads before it writes names
//! the generation of the ruleset that it read; the kernel refuses the transaction if another
//! came between, and the reading starts again. So a late repeated DEL never removes a mapping
//! that its port was given to meanwhile.
//!
//! # What a removal waits for
//! The kernel frees removed elements after a grace period of RCU, and closing a netfilter socket
//! waits for that, 5 to 20 ms, as it does for `nft`. The mapping is gone before: it is the end of
//! the process that waits.
//!
//! # 127.0.0.1
//! A packet of the node from 127.0.0.1 leaves by the pod's link only if that link has
//! `route_localnet`, which also makes the kernel accept 127.0.0.0/8 *from* that link: a pod could
//! then reach what listens on the node's loopback alone. The chain `guard` drops what comes in by
//! a link from or to 127.0.0.0/8, as the kernel does without the setting. IPv6 has no such
//! setting, and what is rewritten from `::1` is lost even if masqueraded (tried on 6.18). So `::1`
//! is left alone: a program that tries it first is refused at once and goes on to 127.0.0.1.

mod layout;
mod owner;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;

use watari_model::Protocol;

pub use owner::Owner;
pub use table::PortMaps;

/// The table's name; its family is `inet`.
pub const TABLE_NAME: &str = "watari-portmap";

/// Where on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The node's address; none for any. An unspecified one means any of its family.
    pub address: Option<IpAddr>,
    /// The port, not 0.
    pub port: u16,
}

impl HostPort {
    /// Whether it serves targets of the family of `target`.
    pub fn serves(&self, target: IpAddr) -> bool {
        self.address
            .is_none_or(|address| address.is_ipv4() == target.is_ipv4())
    }
}

impl std::fmt::Display for HostPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            None => write!(f, "{}/{}", self.port, self.protocol),
            Some(IpAddr::V4(v4)) => write!(f, "{v4}:{}/{}", self.port, self.protocol),
            Some(IpAddr::V6(v6)) => write!(f, "[{v6}]:{}/{}", self.port, self.protocol),
        }
    }
}

/// A port of the node and what it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mapping {
    /// Where on the node.
    pub host: HostPort,
    /// The container's address.
    pub target: IpAddr,
    /// The container's port.
    pub target_port: u16,
}

/// Whose source address becomes the node's on the way to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Masquerade {
    /// Nobody's.
    Nothing,
    /// The container's own, and 127.0.0.1: without it their replies never come back.
    #[default]
    Local,
    /// Everybody's.
    Everything,
}

/// What one attachment should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Whose it is.
    pub owner: Owner,
    /// The mappings; each host port once a family.
    pub mappings: BTreeSet<Mapping>,
    /// Whose source address is rewritten.
    pub masquerade: Masquerade,
}

/// Why port mappings could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] crate::Error),
    /// Another attachment has the port. Nothing was changed.
    #[error("host port {port} is taken by {holder}")]
    Taken {
        /// The port.
        port: HostPort,
        /// The comment of the element: the holder as [`Owner`] writes it.
        holder: String,
    },
    /// Others changed the ruleset all the time.
    #[error(
        "cannot {what}: nf_tables changed between reading and writing {attempts} times in a row"
    )]
    Busy {
        /// What was tried.
        what: &'static str,
        /// How often.
        attempts: u32,
    },
}
