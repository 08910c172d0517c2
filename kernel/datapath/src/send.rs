//! The way out: into a pod, to another node, or to the stack.

use watari_abi::{Address, Counter, Endpoint, Reason, Remote};
use watari_wire::{ETHERNET, Family, HopLimit, V4, V6};

use crate::packet::Packet;
use crate::{Env, Route, RouteQuery, Step};

/// What becomes of a packet; where it goes stands in [`Packet`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum End {
    Stack,
    Deliver,
    Forward,
    Drop,
    Pass,
}

#[inline(always)]
pub(crate) fn endpoint<E: Env>(env: &mut E, address: &Address) -> Option<E::Value<Endpoint>> {
    let found = env.endpoint(address);
    env.step(Step::Endpoint {
        address: *address,
        found: found.map(|found| *found),
    });
    found
}

#[inline(always)]
pub(crate) fn remote<E: Env>(env: &mut E, address: &Address) -> Option<E::Value<Remote>> {
    let found = env.remote(address);
    env.step(Step::Remote {
        address: *address,
        found: found.map(|found| *found),
    });
    found
}

/// Drops the packet.
#[inline(always)]
pub(crate) fn refuse(packet: &mut Packet, reason: Reason) -> End {
    packet.reason = reason as u16;
    End::Drop
}

/// Asks whether the packet is for a pod of this node. The answer is kept with the packet: most are
/// sent there, and a second look-up would cost more than the copy.
#[inline(always)]
pub(crate) fn seek<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let found = endpoint(env, &packet.tuple.destination);
    packet.local = found.is_some();
    if let Some(found) = found {
        packet.target = *found;
    }
    packet.local
}

/// To its destination: a pod here, as [`seek`] found, a pod elsewhere, or what the stack knows.
#[inline(never)]
pub(crate) fn send<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    match (packet.local, packet.tuple.destination.is_mapped()) {
        (true, true) => deliver::<V4, E>(env, packet),
        (true, false) => deliver::<V6, E>(env, packet),
        (false, true) => abroad::<V4, E>(env, packet),
        (false, false) => abroad::<V6, E>(env, packet),
    }
}

/// The same, for a packet that nobody asked about, or whose ends are others by now.
#[inline(always)]
pub(crate) fn seek_and_send<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    seek(env, packet);
    send(env, packet)
}

/// To a pod of this node: one hop less, the MACs of its link.
#[inline(always)]
fn deliver<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let Some(header) = env.fixed::<F::Header>(ETHERNET) else {
        return refuse(packet, Reason::Malformed);
    };
    if F::hops(&header) == HopLimit::Expired {
        return expired(env);
    }
    // Both MACs as they stand in an Ethernet header, in words.
    let [_, first, second, third, ..]: [u32; 6] = zerocopy::transmute!(packet.target);
    if F::decrement(env, &header).is_err() || env.store_fixed(0, [first, second, third]).is_err() {
        return refuse(packet, Reason::RewriteFailed);
    }
    packet.out = packet.target.ifindex;
    End::Deliver
}

/// To the node that owns the destination, by the way of this node's routes.
#[inline(always)]
fn abroad<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let Some(owner) = remote(env, &packet.tuple.destination) else {
        return End::Stack;
    };
    let Some(header) = env.fixed::<F::Header>(ETHERNET) else {
        return refuse(packet, Reason::Malformed);
    };
    if F::hops(&header) == HopLimit::Expired {
        return expired(env);
    }
    let query = RouteQuery {
        source: packet.tuple.source,
        next_hop: owner.next_hop,
        protocol: packet.tuple.protocol,
        version: F::VERSION,
        length: packet.segment_length(env),
    };
    let answer = env.route(&query);
    env.step(Step::Route { query, answer });
    match answer {
        Route::Via { ifindex, next_hop } => {
            packet.out = ifindex;
            packet.next_hop = next_hop;
            if F::decrement(env, &header).is_err() {
                return refuse(packet, Reason::RewriteFailed);
            }
            End::Forward
        }
        Route::TooLong => {
            env.count(Counter::TooLong);
            End::Stack
        }
        Route::None => {
            env.count(Counter::NoRoute);
            End::Stack
        }
    }
}

/// The stack tells the sender.
#[inline(always)]
fn expired<E: Env>(env: &mut E) -> End {
    env.step(Step::HopsExpired);
    env.count(Counter::TtlExpired);
    End::Stack
}
