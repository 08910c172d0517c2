use watari_abi::{
    Address, ConnectionKey, Endpoint, Flow, FragmentKey, FragmentPorts, Link, Remote, Translation,
    Tuple,
};

use crate::{Route, RouteQuery, Table};

/// A step of a decision: which table was asked, what it said, and what follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The packet, as it was read.
    Packet {
        /// Its ends.
        tuple: Tuple,
    },
    /// The pods of this node were asked for an address.
    Endpoint {
        /// Which.
        address: Address,
        /// What is known.
        found: Option<Endpoint>,
    },
    /// The host-side links were asked.
    Link {
        /// Which.
        ifindex: u32,
        /// What is known.
        found: Option<Link>,
    },
    /// The nodes were asked who owns an address.
    Remote {
        /// Which.
        address: Address,
        /// Who.
        found: Option<Remote>,
    },
    /// The fragments were asked for a datagram.
    Fragment {
        /// Which.
        key: FragmentKey,
        /// What its first fragment had.
        found: Option<FragmentPorts>,
    },
    /// The connection was found.
    Connection {
        /// Its key.
        key: ConnectionKey,
        /// Where.
        table: Table,
        /// Which way the packet goes.
        flow: Flow,
        /// Its [`watari_abi::State`] before this packet.
        state: u8,
        /// Its [`watari_abi::flags`] before this packet.
        flags: u16,
    },
    /// The connection was made.
    Opened {
        /// Its key.
        key: ConnectionKey,
        /// Its [`watari_abi::flags`].
        flags: u16,
    },
    /// The packet is of no connection, and makes none.
    Untracked,
    /// The connection takes another [`watari_abi::State`].
    State {
        /// The one before.
        from: u8,
        /// The one now.
        to: u8,
    },
    /// The stack delivered unchanged what was seen at its source: it is direct from now on.
    Proven,
    /// A pod's port may be translated by the stack, so it decides.
    StackPort {
        /// The pod.
        address: Address,
        /// Its port, network order.
        port: u16,
    },
    /// The packet was translated.
    Translated {
        /// How.
        translation: Translation,
        /// Its ends from now on.
        tuple: Tuple,
    },
    /// The node's routes were asked.
    Route {
        /// What.
        query: RouteQuery,
        /// What they said.
        answer: Route,
    },
    /// Its time to live ends here: the stack tells the sender.
    HopsExpired,
}
