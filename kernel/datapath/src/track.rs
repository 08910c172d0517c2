//! Connections: found, made, and taken from state to state.

use watari_abi::{
    ConnectionKey, Counter, Flow, FlowEvent, FlowEventKind, Hook, Side, State, TranslationKind,
    Verdict as Judged, config_flags, flags,
};

use crate::packet::{Packet, Part, Plan};
use crate::state::{self, Next, REFRESH};
use crate::{Entry, Env, Step, Table};

/// A place where packets are seen, and what becomes there of those that begin a connection.
pub(crate) trait Spot {
    /// Which place.
    const HOOK: Hook;

    /// How the packet opens a connection. `None`: it opens none, and the stack has it.
    fn opening<E: Env>(env: &mut E, packet: &Packet) -> Option<Opening>;
}

/// How a connection begins.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Opening {
    /// Past the stack.
    Direct,
    /// By the stack; the packet counts where it is seen.
    Stack,
    /// By the stack, to a pod of this node, where it counts.
    StackToPod,
    /// By the stack, which delivers it here.
    FromStack,
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Way {
    /// Past the stack.
    Direct,
    /// By the stack.
    Stack,
    /// Past the stack, and it is translated.
    Translated,
}

/// Finds the packet's connection, or makes it, and takes it to its next state.
#[inline(never)]
pub(crate) fn track<S: Spot, E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    packet.plan.replaces = false;
    if packet.has_handshake()
        && let Some(entry) = env.connection(Table::Established, &packet.key)
    {
        if let Some(state) = alive(&entry, packet.now)
            && let Some(way) = pass::<S, E>(env, packet, &entry, Table::Established, state)
        {
            return way;
        }
        packet.plan.replaces = true;
    }
    if let Some(entry) = env.connection(Table::Transient, &packet.key)
        && let Some(state) = alive(&entry, packet.now)
        && let Some(way) = pass::<S, E>(env, packet, &entry, Table::Transient, state)
    {
        return way;
    }
    let Some(opening) = S::opening(env, packet) else {
        env.step(Step::Untracked);
        return Way::Stack;
    };
    if packet.is_stray() || packet.part == Part::Later {
        env.step(Step::Untracked);
    } else {
        plan(packet, opening);
        open(env, packet, S::HOOK);
    }
    match opening {
        Opening::Direct => Way::Direct,
        Opening::Stack | Opening::StackToPod | Opening::FromStack => Way::Stack,
    }
}

/// The entry of a connection that is alive, for who only asks.
#[inline(always)]
pub(crate) fn find<E: Env>(env: &mut E, key: &ConnectionKey, now: u64) -> Option<E::Entry> {
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, key)
        && alive(&entry, now).is_some()
    {
        return Some(entry);
    }
    env.connection(Table::Transient, key)
        .filter(|entry| alive(entry, now).is_some())
}

/// Its state, unless it expired.
#[inline(always)]
fn alive<T: Entry>(entry: &T, now: u64) -> Option<State> {
    if entry.expires() <= now {
        return None;
    }
    State::of(entry.state())
}

/// Which way the packets of that side go.
#[inline(always)]
pub(crate) const fn flow_of(bits: u16, side: Side) -> Flow {
    let low_opened = bits & flags::LOW_IS_ORIGINATOR != 0;
    if low_opened == matches!(side, Side::Low) {
        Flow::Original
    } else {
        Flow::Reply
    }
}

/// The flag that this direction was seen at its source.
#[inline(always)]
const fn seen_flag(flow: Flow) -> u16 {
    match flow {
        Flow::Original => flags::SEEN_AT_SOURCE,
        Flow::Reply => flags::REPLY_SEEN_AT_SOURCE,
    }
}

const fn other(flow: Flow) -> Flow {
    match flow {
        Flow::Original => Flow::Reply,
        Flow::Reply => Flow::Original,
    }
}

/// Lets a packet pass along its connection. `None`: the connection is over, and this begins another.
#[inline(always)]
fn pass<S: Spot, E: Env>(
    env: &mut E,
    packet: &Packet,
    entry: &E::Entry,
    table: Table,
    state: State,
) -> Option<Way> {
    let mut bits = entry.flags();
    let flow = flow_of(bits, packet.side);
    env.step(Step::Connection {
        key: packet.key,
        table,
        flow,
        state: state as u8,
        flags: bits,
    });
    let at_end = matches!(S::HOOK, Hook::ToPod);
    let from_stack = bits & flags::FROM_STACK != 0;
    if from_stack && !at_end && flow == Flow::Original {
        // Another's packet, with the tuple that the stack made for this connection.
        return Some(Way::Stack);
    }
    let next = next(packet, entry, state, flow);
    if next == Next::Restart {
        return None;
    }
    if at_end && bits & flags::VIA_STACK == 0 && flow == Flow::Original {
        bits = taken_over(packet, entry, bits);
    }
    let direct = bits & flags::VIA_STACK == 0;
    if !direct && !from_stack {
        follow(env, entry, at_end, packet.local, bits, flow);
    }
    if direct || at_end || !packet.local || from_stack {
        entry.add(flow, env.length(), packet.now, packet.tcp_flags());
    }
    match next {
        Next::To(state, closed) => {
            env.step(Step::State {
                from: entry.state(),
                to: state as u8,
            });
            entry.set_closed(closed);
            entry.set_state(state as u8);
            changed(env, packet, entry, table, S::HOOK);
        }
        _ => refresh(env, packet, entry, state),
    }
    Some(if !direct {
        Way::Stack
    } else if entry.translation_kind() == TranslationKind::None as u8 {
        Way::Direct
    } else {
        Way::Translated
    })
}

/// The stack delivers what opens a direct connection without a handshake: a sender uses one port
/// both straight and by a translation of the stack's. From now on the stack has it all, for it
/// alone can tell the two apart.
#[inline(always)]
fn taken_over<T: Entry>(packet: &Packet, entry: &T, bits: u16) -> u16 {
    if packet.has_handshake() {
        return bits;
    }
    let bits = bits | flags::VIA_STACK | flags::FROM_STACK;
    entry.set_flags(bits);
    bits
}

/// What the packet makes of the state.
#[inline(always)]
fn next<T: Entry>(packet: &Packet, entry: &T, state: State, flow: Flow) -> Next {
    if packet.part == Part::Later && packet.has_handshake() {
        return Next::Keep;
    }
    let event = state::Event {
        kind: packet.kind,
        control: packet.control,
        flow,
        answered: state != State::PickedUp || entry.has(other(flow)),
    };
    state::next(&event, state, entry.closed())
}

/// A packet of a connection that the stack delivers: proof that it translates nothing is a packet
/// that is delivered with the very tuple with which it entered, in the same direction.
#[inline(always)]
fn follow<E: Env>(env: &mut E, entry: &E::Entry, at_end: bool, local: bool, bits: u16, flow: Flow) {
    let seen = seen_flag(flow);
    if at_end {
        if bits & seen != 0 {
            let both = flags::SEEN_AT_SOURCE | flags::REPLY_SEEN_AT_SOURCE;
            entry.set_flags(bits & !(flags::VIA_STACK | both));
            env.step(Step::Proven);
        }
    } else if local && bits & seen == 0 {
        entry.set_flags(bits | seen);
    }
}

/// Keeps a connection that is used. One that is over keeps its end.
#[inline(always)]
fn refresh<E: Env>(env: &mut E, packet: &Packet, entry: &E::Entry, state: State) {
    if matches!(state, State::TimeWait | State::Closed) {
        return;
    }
    let expires = packet.now + state::timeout(packet.key.protocol, state);
    if expires > entry.expires() + REFRESH {
        entry.set_expires(expires);
        if entry.flags() & flags::NOT_PROMOTED != 0 {
            promote(env, &packet.key, entry);
        }
    }
}

/// What follows from a new state. A function of its own in the object: few packets need it.
#[inline(never)]
fn changed<E: Env>(env: &mut E, packet: &Packet, entry: &E::Entry, table: Table, hook: Hook) {
    let key = &packet.key;
    let Some(state) = State::of(entry.state()) else {
        return;
    };
    entry.set_expires(packet.now + state::timeout(key.protocol, state));
    if !state::has_handshake(key.protocol) {
        return;
    }
    match state {
        State::Established if table == Table::Transient => promote(env, key, entry),
        State::TimeWait | State::Closed => {
            if env.config().flags & config_flags::QUIET == 0 {
                env.closed(hook, key, entry, packet.now);
            }
            if table == Table::Established {
                env.shift(key, entry, Table::Transient);
            }
        }
        _ => {}
    }
}

/// Moves it among the established; when they are full it stays, and is tried again later.
#[inline(never)]
fn promote<E: Env>(env: &mut E, key: &ConnectionKey, entry: &E::Entry) {
    let bits = entry.flags();
    entry.set_flags(bits & !flags::NOT_PROMOTED);
    if env.shift(key, entry, Table::Established) {
        return;
    }
    entry.set_flags(bits | flags::NOT_PROMOTED);
    if bits & flags::NOT_PROMOTED == 0 {
        env.count(Counter::NotPromoted);
    }
}

/// How the connection begins that this packet opens. It is left in the packet, and a function of its
/// own in the object: so the verifier, which would follow each combination of all this through
/// [`open`], knows nothing of it there.
#[inline(never)]
fn plan(packet: &mut Packet, opening: Opening) {
    let flow = if packet.answers() {
        Flow::Reply
    } else {
        Flow::Original
    };
    let state = if packet.has_handshake() && !packet.opens() {
        State::PickedUp
    } else {
        State::New
    };
    let mut bits = match opening {
        Opening::Direct => 0,
        Opening::Stack => flags::VIA_STACK,
        Opening::StackToPod => flags::VIA_STACK | seen_flag(flow),
        // Of a connection found mid-stream nobody knows; it may prove itself.
        Opening::FromStack if state == State::PickedUp => flags::VIA_STACK,
        Opening::FromStack => flags::VIA_STACK | flags::FROM_STACK,
    };
    let low_sent = matches!(packet.side, Side::Low);
    if low_sent == matches!(flow, Flow::Original) {
        bits |= flags::LOW_IS_ORIGINATOR;
    }
    if matches!(state, State::PickedUp) {
        bits |= flags::PICKED_UP;
    }
    packet.plan = Plan {
        timeout: state::timeout(packet.key.protocol, state),
        flags: bits,
        state: state as u8,
        answers: flow == Flow::Reply,
        counts: opening != Opening::StackToPod,
        replaces: packet.plan.replaces,
    };
}

/// Makes a connection of a packet that belongs to none, as [`plan`] said. A function of its own in
/// the object: few packets need it.
#[inline(never)]
fn open<E: Env>(env: &mut E, packet: &Packet, hook: Hook) {
    let plan = &packet.plan;
    env.step(Step::Opened {
        key: packet.key,
        flags: plan.flags,
    });
    let config = env.config();
    let (length, ifindex) = (env.length(), env.ifindex());
    let now = packet.now;
    let fill = |event: &mut FlowEvent| {
        event.time = now;
        event.kind = FlowEventKind::Created as u32;
        event.hook = hook as u32;
        event.key = packet.key;
        let connection = &mut event.connection;
        connection.created = now;
        connection.expires = now + plan.timeout;
        connection.flags = plan.flags;
        connection.state = plan.state;
        connection.family = if packet.key.low.is_mapped() { 4 } else { 6 };
        connection.ifindex = ifindex;
        let [original, reply] = &mut connection.directions;
        for direction in [&mut *original, &mut *reply] {
            direction.verdict = judge() as u8;
            direction.revision = config.revision;
        }
        if plan.counts {
            let direction = if plan.answers { reply } else { original };
            direction.packets = 1;
            direction.bytes = u64::from(length);
            direction.first = now;
            direction.last = now;
            direction.tcp_flags = packet.tcp_flags();
        }
    };
    let made = env.open(fill, config.flags & config_flags::QUIET == 0);
    if plan.replaces {
        env.remove(Table::Established, &packet.key);
    }
    env.count(if made {
        Counter::Opened
    } else {
        Counter::Untracked
    });
    if made && plan.state == State::PickedUp as u8 {
        env.count(Counter::PickedUp);
    }
}

/// What policy says of a direction. There is none yet; each is allowed, and its entry has room for
/// what will be decided.
#[inline(always)]
const fn judge() -> Judged {
    Judged::Allowed
}
