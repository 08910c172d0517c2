//! What a node's kernel should hold, as plain, ordered, comparable values.
//!
//! `desired == observed` is the definition of health.

mod datapath;
mod masquerade;
mod ranges;

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watari_model::{IfName, MacAddr};

pub use datapath::{Datapath, Hook, HookAt, LocalEndpoint};
pub use masquerade::Masquerade;
pub use ranges::Ranges;

/// One veth pair with all that belongs to it: the tables of one attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The side in the node's namespace.
    pub host: LinkTables,
    /// The side in the container's namespace.
    pub pod: LinkTables,
}

/// One link and what is configured on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTables {
    /// Its name.
    pub name: IfName,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// `IFLA_IFALIAS`: what operators see beside the link; empty for none.
    pub alias: String,
    /// Addresses; none of them makes the kernel add a prefix route, none waits for duplicate
    /// address detection.
    pub addresses: BTreeSet<IpNet>,
    /// Routes over this link.
    pub routes: BTreeSet<Route>,
    /// Permanent neighbours on this link.
    pub neighbours: BTreeSet<Neighbour>,
    /// Addresses that this link answers neighbour solicitations for (`ip neigh add proxy`).
    pub proxies: BTreeSet<IpAddr>,
    /// Settings under `/proc/sys/net/ipv{4,6}/conf/<link>/` or `…/neigh/<link>/`.
    pub sysctls: BTreeSet<Sysctl>,
}

/// A unicast route of the main table with `proto static`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// What it is for; the prefix length 0 is the default route.
    pub destination: IpNet,
    /// The next hop; without one the destination is on the link.
    pub via: Option<IpAddr>,
}

/// A permanent neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Neighbour {
    /// Whose MAC it is.
    pub address: IpAddr,
    /// The MAC.
    pub mac: MacAddr,
}

/// One setting of a link, by the path of its family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Sysctl {
    /// Where it stands.
    pub table: SysctlTable,
    /// The setting's name, as `proxy_arp`.
    pub key: String,
    /// The value as the kernel prints it, without the end of line.
    pub value: String,
}

/// A directory of per-link settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SysctlTable {
    /// `/proc/sys/net/ipv4/conf/<link>/`.
    Ipv4Conf,
    /// `/proc/sys/net/ipv6/conf/<link>/`.
    Ipv6Conf,
    /// `/proc/sys/net/ipv4/neigh/<link>/`.
    Ipv4Neigh,
    /// `/proc/sys/net/ipv6/neigh/<link>/`.
    Ipv6Neigh,
}

impl SysctlTable {
    /// The directory, without the link's name.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Ipv4Conf => "/proc/sys/net/ipv4/conf",
            Self::Ipv6Conf => "/proc/sys/net/ipv6/conf",
            Self::Ipv4Neigh => "/proc/sys/net/ipv4/neigh",
            Self::Ipv6Neigh => "/proc/sys/net/ipv6/neigh",
        }
    }
}
