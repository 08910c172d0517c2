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
    packet: &Packet,
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
    match next {
        Next::To(to, closed) => {
            env.step(Step::State {
                from: state as u8,
                to: to as u8,
            });
            entry.set_closed(closed);
            entry.set_state(to as u8);
            changed(env, packet, key, entry, table);
        }
        _ => refresh(env, packet.now, key, entry, state),
    }
    true
}

/// Finds the packet among the translated connections, from whichever of their sides it comes;
/// counts it, and leaves in [`Packet::to`] what it becomes. False: it is of none.
#[inline(always)]
pub(crate) fn known<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let key = packet.key;
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, &key)
        && pass(env, packet, &key, &entry, Table::Established)
    {
        return true;
    }
    if let Some(entry) = env.connection(Table::Transient, &key)
        && pass(env, packet, &key, &entry, Table::Transient)
    {
        return true;
    }
    false
}

#[inline(never)]
fn pass<E: Env>(
    env: &mut E,
    packet: &mut Packet,
    key: &ConnectionKey,
    entry: &E::Entry,
    table: Table,
) -> bool {
    if alive(entry, packet.now).is_none() {
        return false;
    }
    let (bits, translation) = (entry.flags(), entry.translation());
    let flow = flow_of(bits, packet.side);
    if bits & flags::ALIAS != 0 {
        if flow == Flow::Reply {
            return false;
        }
        packet.to = translation.tuple(key.protocol);
        env.step(Step::Alias {
            near: packet.tuple,
            far: packet.to,
        });
        return env.follow(packet);
    }
    if flow == Flow::Original || !Translation::rewrites(translation.kind) {
        return false;
    }
    packet.to = translation.tuple(key.protocol).reversed();
    packet.beyond = true;
    advance::<true, E>(env, packet, key, entry, table)
}
