//! Connections that their opener knows by another tuple.
//!
//! A translated connection is kept under its far side: the tuple between this node and the backend.
//! An alias under the near side leads there.

use watari_abi::{ConnectionKey, Flow, Translation, Tuple, flags};

use crate::packet::Packet;
use crate::state;
use crate::track::{alive, changed, flow_of, next, refresh};
use crate::{Entry, Env, Step, Table};

use crate::state::Next;

/// Goes to the connection that an alias leads to: [`Packet::to`] is its tuple. Counts the packet
/// there, and takes it to its next state. False: that is no such connection any more, or the packet
/// begins another.
#[inline(always)]
pub fn follow<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let far = packet.to;
    let (key, side) = far.key();
    let near = packet.tuple;
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, &key)
        && is_near(&entry, &near, packet.now)
        && advance::<false, E>(env, packet, &key, &entry, Table::Established)
    {
        (packet.key, packet.side) = (key, side);
        return true;
    }
    if let Some(entry) = env.connection(Table::Transient, &key)
        && is_near(&entry, &near, packet.now)
        && advance::<false, E>(env, packet, &key, &entry, Table::Transient)
    {
        (packet.key, packet.side) = (key, side);
        return true;
    }
    false
}

/// Whether it is alive, and its opener uses that tuple.
#[inline(always)]
pub(crate) fn is_near<T: Entry>(entry: &T, near: &Tuple, now: u64) -> bool {
    if alive(entry, now).is_none() || entry.flags() & flags::ALIAS != 0 {
        return false;
    }
    let kept = entry.translation();
    Translation::rewrites(kept.kind) && kept.tuple(near.protocol) == *near
}

/// A packet of a translated connection. False: it begins another.
#[inline(never)]
fn advance<const REPLY: bool, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    key: &ConnectionKey,
    entry: &E::Entry,
    table: Table,
) -> bool {
    let flow = if REPLY { Flow::Reply } else { Flow::Original };
    let Some(state) = alive(entry, packet.now) else {
        return false;
    };
    env.step(Step::Connection {
        key: *key,
        table,
        flow,
        state: state as u8,
        flags: entry.flags(),
    });
    let next = next(packet, entry, state, flow);
    if next == Next::Restart {
        return false;
    }
    entry.add(flow, env.length(), packet.now, packet.tcp_flags());
    packet.moves = match next {
        Next::To(to, closed) => {
            env.step(Step::State {
                from: state as u8,
                to: to as u8,
            });
            entry.set_closed(closed);
            entry.set_state(to as u8);
            changed(env, packet, key, entry, table)
        }
        _ => refresh(env, packet.now, key, entry, state),
    };
    true
}

/// What is known of a packet at an uplink.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Known {
    /// It is of no translated connection.
    Nothing = 0,
    /// It is an answer: [`Packet::to`] is what it becomes.
    Answer = 1,
    /// An alias leads to its connection: [`Packet::to`] is where.
    Alias = 2,
}

impl Known {
    /// By its number; nothing for none.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Answer,
            2 => Self::Alias,
            _ => Self::Nothing,
        }
    }
}

/// Finds the packet among the translated connections, from whichever of their sides it comes. An
/// answer is counted.
#[inline(always)]
pub fn known<E: Env>(env: &mut E, packet: &mut Packet) -> Known {
    let key = packet.key;
    if packet.has_handshake()
        && let Some(entry) = env.connection(Table::Established, &key)
    {
        let known = sort(&entry, packet);
        if known == Known::Alias {
            return known;
        }
        if known == Known::Answer
            && advance::<true, E>(env, packet, &key, &entry, Table::Established)
        {
            return known;
        }
    }
    if let Some(entry) = env.connection(Table::Transient, &key) {
        let known = sort(&entry, packet);
        if known == Known::Alias {
            return known;
        }
        if known == Known::Answer && advance::<true, E>(env, packet, &key, &entry, Table::Transient)
        {
            return known;
        }
    }
    Known::Nothing
}

/// What the entry under the packet's key is to it.
#[inline(always)]
pub(crate) fn sort<T: Entry>(entry: &T, packet: &mut Packet) -> Known {
    if alive(entry, packet.now).is_none() {
        return Known::Nothing;
    }
    let bits = entry.flags();
    let flow = flow_of(bits, packet.side);
    let protocol = packet.tuple.protocol;
    if bits & flags::ALIAS != 0 {
        if flow == Flow::Reply {
            return Known::Nothing;
        }
        packet.to = entry.translation().tuple(protocol);
        return Known::Alias;
    }
    if flow == Flow::Original || !Translation::rewrites(entry.translation_kind()) {
        return Known::Nothing;
    }
    packet.to = entry.translation().tuple(protocol).reversed();
    packet.beyond = true;
    Known::Answer
}

/// Whether the packet is of a translated connection, from whichever side.
#[inline(always)]
pub(crate) fn is_known<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    match env.known(packet) {
        Known::Nothing => false,
        Known::Answer => true,
        Known::Alias => {
            env.step(Step::Alias {
                near: packet.tuple,
                far: packet.to,
            });
            packet.plan.replaces = true;
            env.follow(packet)
        }
    }
}
