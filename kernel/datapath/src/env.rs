use core::ops::Deref;

use watari_abi::{
    Address, Config, ConnectionKey, Counter, Endpoint, Flow, FlowEvent, FragmentKey, FragmentPorts,
    Hook, Link, Reason, Remote, StackPort, Translation,
};
use watari_wire::Frame;

use crate::Step;

/// The two tables of connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// TCP and SCTP after their handshake; evicts nothing.
    Established,
    /// All others; evicts the least recently used.
    Transient,
}

/// A connection where it is kept. Others may change it at any moment, so each field is read and
/// written on its own; what is lost when two write one field at once is said where it matters.
pub trait Entry: Clone {
    /// As [`watari_abi::Connection::expires`].
    fn expires(&self) -> u64;
    /// Sets it.
    fn set_expires(&self, time: u64);
    /// As [`watari_abi::Connection::flags`].
    fn flags(&self) -> u16;
    /// Sets them.
    fn set_flags(&self, flags: u16);
    /// As [`watari_abi::Connection::state`].
    fn state(&self) -> u8;
    /// Sets it.
    fn set_state(&self, state: u8);
    /// As [`watari_abi::Connection::closed`].
    fn closed(&self) -> u8;
    /// Sets it.
    fn set_closed(&self, closed: u8);
    /// Whether a packet was counted in this direction.
    fn has(&self, flow: Flow) -> bool;
    /// As [`watari_abi::Translation::kind`].
    fn translation_kind(&self) -> u8;
    /// How it is translated.
    fn translation(&self) -> Translation;
    /// Counts a packet of so many bytes; no packet of another CPU is lost by it.
    fn add(&self, flow: Flow, bytes: u32, now: u64, tcp_flags: u8);
}

/// Where the node's routes should lead a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RouteQuery {
    /// Its source.
    pub source: Address,
    /// Whom to find the way to: the node that owns the destination.
    pub next_hop: Address,
    /// IANA protocol number.
    pub protocol: u8,
    /// The version of IP.
    pub version: u8,
    /// Bytes from the network header on, of one segment.
    pub length: u16,
}

/// Where they lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Out of that link, to that neighbour.
    Via {
        /// The link.
        ifindex: u32,
        /// The neighbour; its MAC need not be known yet.
        next_hop: Address,
    },
    /// The packet is longer than the way allows.
    TooLong,
    /// Nowhere that the programs may send to.
    None,
}

/// A packet is dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Dropped {
    /// Why.
    pub reason: Reason,
    /// Where it was seen.
    pub hook: Hook,
    /// The policy rule that decided; zero for none.
    pub rule: u32,
}

/// What the decisions reach the world through: the packet, the tables, the time.
pub trait Env: Frame {
    /// A connection in its table.
    type Entry: Entry;
    /// A value in its table, which is replaced whole and never changed.
    type Value<T: Copy + 'static>: Copy + Deref<Target = T>;

    /// The link at which the packet is seen.
    fn ifindex(&self) -> u32;
    /// Bytes of payload in each segment; zero when it is one packet.
    fn segment(&self) -> u32;
    /// The packet has an 802.1Q tag that the kernel keeps beside it.
    fn tagged(&self) -> bool;
    /// The frame is for the MAC of the link at which it is seen.
    fn for_this_host(&self) -> bool;

    /// Now, in ns of `CLOCK_MONOTONIC`; a few milliseconds late at most.
    fn now(&self) -> u64;

    /// A pod of this node.
    fn endpoint(&self, address: &Address) -> Option<Self::Value<Endpoint>>;
    /// A host-side link.
    fn link(&self, ifindex: u32) -> Option<Self::Value<Link>>;
    /// The node that owns an address.
    fn remote(&self, address: &Address) -> Option<Self::Value<Remote>>;
    /// What holds for the node.
    fn config(&self) -> Config;

    /// A connection, expired or not.
    fn connection(&self, table: Table, key: &ConnectionKey) -> Option<Self::Entry>;
    /// Makes a connection in [`Table::Transient`], in the place of what is there. `fill` is given
    /// zeros, and fills in the whole event, with key and connection. False: no room.
    fn open(&mut self, fill: impl FnOnce(&mut FlowEvent), event: bool) -> bool;
    /// Copies a connection to the other table, and removes it where it was. False, and as it was:
    /// no room.
    fn shift(&mut self, key: &ConnectionKey, entry: &Self::Entry, to: Table) -> bool;
    /// Forgets a connection.
    fn remove(&mut self, table: Table, key: &ConnectionKey);
    /// Tells of the end of a connection.
    fn closed(&mut self, hook: Hook, key: &ConnectionKey, entry: &Self::Entry, now: u64);

    /// What is known of a datagram in fragments.
    fn fragment(&self, key: &FragmentKey) -> Option<Self::Value<FragmentPorts>>;
    /// Remembers it.
    fn remember_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts);
    /// When a pod last used that port towards somebody whom the stack may translate.
    fn stack_port(&self, port: &StackPort) -> Option<Self::Value<u64>>;
    /// Remembers it.
    fn remember_stack_port(&mut self, port: &StackPort, now: u64);

    /// The way by the node's routes.
    fn route(&mut self, query: &RouteQuery) -> Route;

    /// Counts the packet.
    fn count(&mut self, counter: Counter);
    /// Counts and tells a drop.
    fn dropped(&mut self, dropped: &Dropped);

    /// A step of the decision was made; for who wants to know why. The kernel does not.
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}
