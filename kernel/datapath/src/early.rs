//! At the driver of an uplink, before the stack has made anything of a packet: what a Service takes
//! from outside to another node, and its answers, turned around as early as can be.
//!
//! It is a short cut and nothing else. Whatever is not plainly for it is left as it is, entries and
//! bytes, and [`crate::from_uplink`] decides. So all that may go otherwise is asked before anything is
//! changed: there is no way back from a packet that is half translated.

use watari_abi::{Counter, Endpoint, Hook, Reason, config_flags, frontend_flags};
use watari_wire::{ETHERNET, Family, HopLimit, Kind, V4, V6, ethertype};

use crate::packet::Packet;
use crate::send::{endpoint, remote};
use crate::service::alias::{Known, is_known, is_near, sort};
use crate::service::serve::{is_translated_port, need, own};
use crate::service::{Need, Whose};
use crate::track::{NOWHERE, Way, find_in};
use crate::{Dropped, Env, RouteQuery};

/// Where the type of the frame stands.
const KIND: u32 = 12;

/// A way that needs nobody else: the link that the packet came by, and both MACs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The link to send by.
    pub ifindex: u32,
    /// The neighbour's MAC.
    pub to: [u8; 6],
    /// The link's own.
    pub from: [u8; 6],
}

/// What becomes of a packet at the driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Early {
    /// It goes on to the stack, and to [`crate::from_uplink`], unchanged.
    Pass,
    /// It leaves by the link that it came by.
    Back,
    /// It is dropped: it could not be written.
    Drop,
}

/// What was found of the packet's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Peeked {
    /// Nothing: it may begin one.
    Nothing = 0,
    /// It is not for here.
    Pass = 1,
    /// Its connection is a translated one; [`Packet::to`] is what it becomes.
    Known = 2,
}

impl Peeked {
    /// By its number; not for here for none.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Nothing,
            2 => Self::Known,
            _ => Self::Pass,
        }
    }
}

/// What a driver has that no other place has.
pub trait Driver: Env + Sized {
    /// The way by the node's routes, if it is the link that the packet came by, its neighbour's MAC is
    /// known, and the frame was for that link.
    fn hop(&mut self, query: &RouteQuery) -> Option<Hop>;

    /// Reads the packet; false if it is not for here. The kernel has a function of its own for this and
    /// the next ones, as for those of [`Env`].
    #[inline(always)]
    fn read(&mut self, packet: &mut Packet) -> bool {
        read(self, packet)
    }

    /// Asks whether the packet is of a translated connection.
    #[inline(always)]
    fn peek(&mut self, packet: &mut Packet) -> Peeked {
        peek(self, packet)
    }

    /// Picks a Service's backend for a connection that begins. False: it is not for here.
    #[inline(always)]
    fn start(&mut self, packet: &mut Packet) -> bool {
        start(self, packet)
    }

    /// Whether there is a way for what the packet becomes; left with the packet.
    #[inline(always)]
    fn look_ahead(&mut self, packet: &mut Packet) -> bool {
        look_ahead(self, packet)
    }
}

/// A packet that has just entered by an uplink.
#[inline(always)]
pub fn at_driver<E: Driver>(env: &mut E, packet: &mut Packet) -> Early {
    if env.config().flags & config_flags::SERVICES == 0 {
        return Early::Pass;
    }
    packet.hook = Hook::FromUplink as u8;
    if !env.read(packet) || !is_taken(env, packet) {
        return Early::Pass;
    }
    // From here on it is ours.
    let left = if packet.to.destination.is_mapped() {
        leave::<V4, E>(env, packet)
    } else {
        leave::<V6, E>(env, packet)
    };
    match left {
        Ok(()) => {
            env.count(Counter::Forwarded);
            Early::Back
        }
        Err(reason) => {
            env.dropped(&Dropped {
                reason,
                hook: Hook::FromUplink,
                rule: 0,
            });
            Early::Drop
        }
    }
}

/// Reads what is plain TCP or UDP; false for all else.
#[inline(always)]
pub fn read<E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    match env.fixed::<u16>(KIND) {
        Some(ethertype::IPV4) => is_ours::<V4, E>(env, packet),
        Some(ethertype::IPV6) => is_ours::<V6, E>(env, packet),
        _ => false,
    }
}

/// Reads it; false unless it is plain TCP or UDP, with a hop left, and for no pod of this node.
#[inline(always)]
fn is_ours<F: Family, E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    let Some(header) = env.fixed::<F::Header>(ETHERNET) else {
        return false;
    };
    if !F::is_plain(&header) || F::hops(&header) == HopLimit::Expired {
        return false;
    }
    packet.begin::<F>(&header);
    let destination = packet.tuple.destination;
    if F::check(&header).is_err() || F::is_group(&destination) || F::is_local(&destination) {
        return false;
    }
    packet.now = env.now();
    packet.read::<F, E>(env, &header).is_ok() && matches!(packet.kind, Kind::Tcp | Kind::Udp)
}

/// Whether the packet goes from here: then it is counted, and [`Packet::to`] is what it becomes.
#[inline(always)]
fn is_taken<E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    packet.plan.replaces = false;
    // In the order of `visit`: so both find the same.
    if is_translated_port(env, packet) {
        return env.peek(packet) == Peeked::Known && is_resumed(env, packet);
    }
    // A pod's packets pay for one look-up, here and there.
    if endpoint(env, &packet.tuple.destination).is_some() || env.ask(packet) != Whose::Service {
        return false;
    }
    match env.peek(packet) {
        Peeked::Known => is_resumed(env, packet),
        // One after the other, and not each in the one before: that would take too much stack.
        Peeked::Nothing => {
            env.start(packet) && env.look_ahead(packet) && env.begin(packet) == Way::Translated
        }
        Peeked::Pass => false,
    }
}

/// Asks whether the packet is of a translated connection, and leaves with it what it becomes. The
/// connection does not hear of it yet.
#[inline(always)]
pub fn peek<E: Driver>(env: &mut E, packet: &mut Packet) -> Peeked {
    let (key, near, now) = (packet.key, packet.tuple, packet.now);
    let Some((entry, _)) = find_in(env, &key, now) else {
        return Peeked::Nothing;
    };
    match sort(&entry, packet) {
        Known::Nothing => Peeked::Pass,
        Known::Answer => Peeked::Known,
        Known::Alias => {
            let (key, _) = packet.to.key();
            match find_in(env, &key, now) {
                Some((entry, _)) if is_near(&entry, &near, now) => Peeked::Known,
                _ => Peeked::Pass,
            }
        }
    }
}

/// There is a way for what the packet becomes, and its connection has counted it.
#[inline(always)]
fn is_resumed<E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    if !env.look_ahead(packet) {
        return false;
    }
    // One that is over is begun anew elsewhere; and another CPU may have put another in its place.
    let to = packet.to;
    is_known(env, packet) && packet.to == to
}

/// Picks the backend of a connection that begins outside; false if it is not for here.
///
/// Only where [`crate::from_uplink`] would choose the same backend: on a ring, or among one. Else those
/// that this leaves to it because they are local would be chosen twice, and some backends too often.
#[inline(always)]
pub fn start<E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    let frontend = packet.frontend;
    let has = |flag| frontend.flags & flag != 0;
    let certain = frontend.ring != 0 || env.set(frontend.outside).count == 1;
    if !packet.opens()
        || !certain
        || has(frontend_flags::CLUSTER_ADDRESS | frontend_flags::DIRECT_RETURN)
        || remote(env, &packet.tuple.source).is_some()
        || env.pick(packet) != Way::Translated
    {
        return false;
    }
    let own = own(&env.config(), &packet.tuple.source);
    if packet.to.destination == own {
        return false;
    }
    if need(env, packet, &own) == Need::Address {
        packet.to.source = own;
    }
    packet.beyond = true;
    true
}

/// Asks for the way of what the packet becomes. What is for this node itself has none.
#[inline(always)]
pub fn look_ahead<E: Driver>(env: &mut E, packet: &mut Packet) -> bool {
    let to = packet.to;
    if endpoint(env, &to.destination).is_some() {
        return false;
    }
    let next_hop = match remote(env, &to.destination) {
        Some(owner) => owner.next_hop,
        None if packet.beyond => to.destination,
        None => return false,
    };
    let query = RouteQuery {
        source: to.source,
        next_hop,
        protocol: to.protocol,
        version: if to.destination.is_mapped() { 4 } else { 6 },
        length: packet.segment_length(env),
    };
    let Some(hop) = env.hop(&query) else {
        return false;
    };
    // As a pod's endpoint: link and MACs in the order of a frame.
    packet.target = Endpoint {
        ifindex: hop.ifindex,
        mac: hop.to,
        host_mac: hop.from,
        ..Endpoint::default()
    };
    true
}

/// Gives the packet its ends, one hop less, and the MACs of its way.
#[inline(always)]
fn leave<F: Family, E: Driver>(env: &mut E, packet: &mut Packet) -> Result<(), Reason> {
    if packet.moves != NOWHERE {
        env.move_alias(packet);
    }
    if !env.turn(packet) {
        return Err(Reason::of(packet.reason).unwrap_or(Reason::RewriteFailed));
    }
    let header: F::Header = env.fixed(ETHERNET).ok_or(Reason::RewriteFailed)?;
    let [_, first, second, third, ..]: [u32; 6] = zerocopy::transmute!(packet.target);
    F::decrement(env, &header)
        .and_then(|()| env.store_fixed(0, [first, second, third]))
        .map_err(|_| Reason::RewriteFailed)
}
