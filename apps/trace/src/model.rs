//! What a trace says; `--json` prints it.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::Packet;

/// The version of what `--json` prints.
pub const SCHEMA: u32 = 1;

/// What happens to a packet, and to its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trace {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Who sends it.
    pub from: Party,
    /// Whom it is for.
    pub to: Party,
    /// The packet's way.
    pub way: Journey,
    /// Its answer's.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reply: Option<Journey>,
}

/// One end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// What it is.
    pub kind: Kind,
    /// `NAMESPACE/NAME` of a pod, or the name of a node.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// The node that it is, or is on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub node: Option<String>,
}

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A pod.
    Pod,
    /// A node itself.
    Node,
    /// Somebody else.
    Outside,
}

/// The way of one packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Journey {
    /// The packet, as it was sent.
    pub packet: Packet,
    /// The places where it was decided upon, in order.
    pub hops: Vec<Hop>,
    /// What became of it.
    pub end: End,
}

/// A place where it is decided what becomes of a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hop {
    /// On which node.
    pub node: String,
    /// At which interface; empty for what the node itself sends.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// The hook, which is the program's name; none for what the node itself sends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hook: Option<String>,
    /// Whether the program is attached there.
    pub attached: bool,
    /// The packet, as it came.
    pub came: Packet,
    /// How it was decided.
    pub steps: Vec<Told>,
    /// What was decided.
    pub verdict: Decided,
    /// What the stack does, if it was given the packet.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stack: Option<Stack>,
    /// The packet, as it went on.
    pub went: Packet,
    /// What else is to be known.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// A step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// The table that was asked, or what was looked at.
    pub table: String,
    /// For what.
    pub key: String,
    /// What it held.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub held: Option<String>,
    /// What follows.
    pub decided: String,
}

/// What a program decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "verdict")]
pub enum Decided {
    /// Straight into the pod behind an interface of this node.
    #[serde(rename_all = "camelCase")]
    Deliver {
        /// The host-side interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// The pod.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pod: Option<String>,
    },
    /// Straight out of an interface to a neighbour.
    #[serde(rename_all = "camelCase")]
    Forward {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// The neighbour.
        next_hop: IpAddr,
    },
    /// On into the pod that the stack delivered it to.
    Pass,
    /// Away.
    #[serde(rename_all = "camelCase")]
    Drop {
        /// Why: the name of a reason, as `watari drops` shows it.
        reason: String,
    },
    /// The stack has it.
    Stack,
}

/// What the stack does with a packet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "stack")]
pub enum Stack {
    /// It is for the node itself.
    Local,
    /// It goes out of an interface.
    #[serde(rename_all = "camelCase")]
    Out {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// The next hop; none if the destination is on the link.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        via: Option<IpAddr>,
        /// It is masqueraded: the node's address that it gets.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        masqueraded: Option<IpAddr>,
        /// What else it translates.
        #[serde(skip_serializing_if = "Changed::is_none", default)]
        changed: Changed,
    },
    /// To many.
    Group,
    /// It goes nowhere.
    #[serde(rename_all = "camelCase")]
    Refused {
        /// Why.
        why: String,
    },
}

/// What the stack's connection tracking makes of a packet's ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// It answers what was masqueraded: the pod that it is for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unmasqueraded: Option<IpAddr>,
    /// It is for a host port: the pod's port behind it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host_port: Option<SocketAddr>,
    /// It answers what was for a host port: that port, from which it now comes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from_host_port: Option<SocketAddr>,
}

impl Changed {
    /// Nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What became of a packet in the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "end")]
pub enum End {
    /// A pod has it.
    #[serde(rename_all = "camelCase")]
    Delivered {
        /// On which node.
        node: String,
        /// The pod's name, if it is known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pod: Option<String>,
    },
    /// It never leaves the pod that sends it, and no program sees it.
    #[serde(rename_all = "camelCase")]
    Loopback {
        /// On which node.
        node: String,
        /// The pod's name, if it is known.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        pod: Option<String>,
    },
    /// A node itself has it.
    #[serde(rename_all = "camelCase")]
    Node {
        /// Which.
        node: String,
    },
    /// It left the nodes that can be asked.
    #[serde(rename_all = "camelCase")]
    Left {
        /// The last one.
        node: String,
        /// By which interface.
        interface: String,
        /// To which neighbour.
        next_hop: IpAddr,
    },
    /// A program dropped it.
    #[serde(rename_all = "camelCase")]
    Dropped {
        /// On which node.
        node: String,
        /// Why.
        reason: String,
    },
    /// It gets no further.
    #[serde(rename_all = "camelCase")]
    NoWay {
        /// On which node.
        node: String,
        /// Why.
        why: String,
    },
}

impl End {
    /// Delivered, or handed on.
    pub const fn is_well(&self) -> bool {
        matches!(
            self,
            Self::Delivered { .. } | Self::Loopback { .. } | Self::Node { .. } | Self::Left { .. }
        )
    }
}

impl Trace {
    /// The packet, and its answer if that was asked for, get through as far as can be seen.
    pub fn is_well(&self) -> bool {
        self.way.end.is_well() && self.reply.as_ref().is_none_or(|reply| reply.end.is_well())
    }
}

/// A question to a node: what becomes of a packet that arrives there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ask {
    /// What arrived there before, in order: it left its marks in the tables.
    pub before: Vec<Arrival>,
    /// What arrives.
    pub now: Arrival,
}

/// A packet that arrives at a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    /// Where.
    pub place: Place,
    /// The packet.
    pub packet: Packet,
    /// It answers a packet that the stack translated: how.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub translated: Option<Translated>,
}

/// How the stack translates a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "by")]
pub enum Translated {
    /// A pod has a node's address outside.
    #[serde(rename_all = "camelCase")]
    Masquerade {
        /// The pod.
        pod: IpAddr,
        /// The address that it has outside.
        outside: IpAddr,
    },
    /// A port of a node leads to a pod.
    #[serde(rename_all = "camelCase")]
    HostPort {
        /// The pod's port.
        pod: SocketAddr,
        /// The node's.
        node: SocketAddr,
    },
}

/// Where a packet comes to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "from")]
pub enum Place {
    /// From a pod of it.
    #[serde(rename_all = "camelCase")]
    Pod {
        /// The pod's address.
        address: IpAddr,
    },
    /// From the network, by the uplink that has this address.
    #[serde(rename_all = "camelCase")]
    Uplink {
        /// An address of the node.
        address: IpAddr,
    },
    /// From the node itself.
    Node,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The places at it.
    pub hops: Vec<Hop>,
    /// What follows.
    pub next: Next,
    /// How the stack translated it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub translated: Option<Translated>,
}

/// Where a packet goes from a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "next")]
pub enum Next {
    /// Nowhere: this is the end.
    End(End),
    /// Into the network.
    #[serde(rename_all = "camelCase")]
    Leaves {
        /// By which interface.
        interface: String,
        /// To which neighbour.
        next_hop: IpAddr,
        /// The node that owns the destination, as the datapath knows it.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        owner: Option<IpAddr>,
        /// As what.
        packet: Packet,
    },
}
