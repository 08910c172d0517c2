use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use watari_model::{IfName, MacAddr};

/// What the datapath of a node should hold, beside what it learns of its connections by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datapath {
    /// Pods of this node, by address.
    pub endpoints: BTreeMap<IpAddr, LocalEndpoint>,
    /// Pods of other nodes: the address of the node that owns a range. Of the range's family.
    pub remotes: BTreeMap<IpNet, IpAddr>,
    /// Where programs stand.
    pub hooks: BTreeSet<HookAt>,
}

/// A pod of this node, as the datapath knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalEndpoint {
    /// Its host-side link.
    pub link: IfName,
    /// The MAC of its interface.
    pub mac: MacAddr,
    /// The MAC of its host-side link.
    pub host_mac: MacAddr,
}

/// A program at a link of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HookAt {
    /// The link.
    pub link: IfName,
    /// Which program, and which way the packets go.
    pub hook: Hook,
}

/// The places at which the datapath sees packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// Ingress of a host-side veth: from the pod.
    FromPod,
    /// Egress of a host-side veth: from the stack to the pod.
    ToPod,
    /// Ingress of an uplink.
    FromUplink,
}
