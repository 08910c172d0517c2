//! Connections: found, made, and taken from state to state.

use watari_abi::{
    ConnectionKey, Counter, Flow, FlowEvent, FlowEventKind, Hook, Side, State, Translation,
    Verdict as Judged, config_flags, flags, translation,
};

use crate::packet::{Packet, Part, Plan};
use crate::socket::asked;
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
    /// The same; it is for no pod that is known, and may be for a Service.
    Beyond,
    /// By the stack, to a pod of this node, where it counts.
    StackToPod,
    /// By the stack, which delivers it here.
    FromStack,
}

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Way {
    /// Past the stack.
    Direct = 0,
    /// By the stack.
    Stack = 1,
    /// Past the stack, and it is translated.
    Translated = 2,
    /// Nowhere.
    Drop = 3,
    /// Back to its sender, as an answer that refuses it.
    Refuse = 4,
    /// Its sender knows its connection by another tuple: [`Packet::to`] is where it is.
    Alias = 5,
    /// It begins a connection, and is for no pod: Services have to be asked.
    Beyond = 6,
}

impl Way {
    /// The way of that number; nowhere for none.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            0 => Self::Direct,
            1 => Self::Stack,
            2 => Self::Translated,
            4 => Self::Refuse,
            _ => Self::Drop,
        }
    }
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
    if opening == Opening::Beyond && env.config().flags & config_flags::SERVICES != 0 {
        return Way::Beyond;
    }
    begin(env, packet, opening);
    match opening {
        Opening::Direct => Way::Direct,
        Opening::Stack | Opening::Beyond | Opening::StackToPod | Opening::FromStack => Way::Stack,
    }
}

/// Makes the connection that the packet begins, if it begins one.
#[inline(always)]
pub(crate) fn begin<E: Env>(env: &mut E, packet: &mut Packet, opening: Opening) {
    if packet.is_stray() || packet.part == Part::Later {
        env.step(Step::Untracked);
    } else {
        packet.near.kind = 0;
        plan(packet, opening);
        if packet.hook == Hook::FromPod as u8 {
            ask_socket(env, packet);
        }
        open(env, packet);
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

/// The same, and the table that it is in.
#[inline(always)]
pub(crate) fn find_in<E: Env>(
    env: &mut E,
    key: &ConnectionKey,
    now: u64,
) -> Option<(E::Entry, Table)> {
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, key)
        && alive(&entry, now).is_some()
    {
        return Some((entry, Table::Established));
    }
    let entry = env.connection(Table::Transient, key)?;
    alive(&entry, now).map(|_| (entry, Table::Transient))
}

/// Its state, unless it expired.
#[inline(always)]
pub(crate) fn alive<T: Entry>(entry: &T, now: u64) -> Option<State> {
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
    packet: &mut Packet,
    entry: &E::Entry,
    table: Table,
    state: State,
) -> Option<Way> {
    let mut bits = entry.flags();
    let flow = flow_of(bits, packet.side);
    if bits & flags::ALIAS != 0 {
        return Some(by_alias::<S, E>(env, packet, entry, table, flow));
    }
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
    let translated = Translation::rewrites(entry.translation_kind());
    if translated && at_end && flow == Flow::Original {
        // It was counted where it was translated.
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
    let moved = match next {
        Next::To(state, closed) => {
            env.step(Step::State {
                from: entry.state(),
                to: state as u8,
            });
            entry.set_closed(closed);
            entry.set_state(state as u8);
            changed(env, packet, &packet.key, entry, table)
        }
        _ => refresh(env, packet.now, &packet.key, entry, state),
    };
    Some(if !direct {
        Way::Stack
    } else if translated && flow == Flow::Reply {
        packet.moves = moved;
        packet.to = entry.translation().tuple(packet.key.protocol).reversed();
        packet.beyond = true;
        Way::Translated
    } else {
        Way::Direct
    })
}

/// The way of a packet whose sender knows its connection by another tuple.
#[inline(always)]
fn by_alias<S: Spot, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    entry: &E::Entry,
    table: Table,
    flow: Flow,
) -> Way {
    if matches!(S::HOOK, Hook::ToPod) || flow == Flow::Reply {
        return Way::Stack;
    }
    packet.to = entry.translation().tuple(packet.key.protocol);
    packet.plan.replaces = table == Table::Established;
    env.step(Step::Alias {
        near: packet.tuple,
        far: packet.to,
    });
    Way::Alias
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
pub(crate) fn next<T: Entry>(packet: &Packet, entry: &T, state: State, flow: Flow) -> Next {
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
pub(crate) fn refresh<E: Env>(
    env: &mut E,
    now: u64,
    key: &ConnectionKey,
    entry: &E::Entry,
    state: State,
) -> Moves {
    if is_over(state) {
        return NOWHERE;
    }
    let expires = now + state::timeout(key.protocol, state);
    if expires > entry.expires() + REFRESH {
        entry.set_expires(expires);
        if entry.flags() & flags::NOT_PROMOTED != 0 {
            return promote(env, key, entry);
        }
    }
    NOWHERE
}

/// Where a connection was taken, so that its alias has to follow. A number, since it is kept with the
/// packet.
pub(crate) type Moves = u8;
/// It is where it was.
pub(crate) const NOWHERE: Moves = 0;
/// To the established.
pub(crate) const PROMOTED: Moves = 1;
/// From there.
pub(crate) const RETIRED: Moves = 2;

/// What follows from a new state. A function of its own in the object: few packets need it.
#[inline(never)]
pub(crate) fn changed<E: Env>(
    env: &mut E,
    packet: &Packet,
    key: &ConnectionKey,
    entry: &E::Entry,
    table: Table,
) -> Moves {
    let now = packet.now;
    let Some(state) = State::of(entry.state()) else {
        return NOWHERE;
    };
    entry.set_expires(now + state::timeout(key.protocol, state));
    if !state::has_handshake(key.protocol) {
        return NOWHERE;
    }
    match state {
        State::Established if table == Table::Transient => promote(env, key, entry),
        State::TimeWait | State::Closed => {
            if env.config().flags & config_flags::QUIET == 0 {
                let hook = Hook::of(packet.hook).unwrap_or(Hook::FromPod);
                env.closed(hook, key, entry, now);
            }
            if Translation::rewrites(entry.translation_kind()) {
                env.add_load(entry.translation().backend, u64::MAX);
            }
            if table == Table::Established && env.shift(key, entry, Table::Transient) {
                return RETIRED;
            }
            NOWHERE
        }
        _ => NOWHERE,
    }
}

/// Moves it among the established; when they are full it stays, and is tried again later.
#[inline(never)]
fn promote<E: Env>(env: &mut E, key: &ConnectionKey, entry: &E::Entry) -> Moves {
    let bits = entry.flags();
    entry.set_flags(bits & !flags::NOT_PROMOTED);
    if env.shift(key, entry, Table::Established) {
        return PROMOTED;
    }
    entry.set_flags(bits | flags::NOT_PROMOTED);
    if bits & flags::NOT_PROMOTED == 0 {
        env.count(Counter::NotPromoted);
    }
    NOWHERE
}

/// Takes the alias of the packet's connection to where that was taken. Without room it stays where
/// it may be evicted.
#[inline(always)]
pub fn move_alias<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    // A key is that of both directions: of the two tuples, the near one is the opener's.
    let (tuple, other) = (packet.tuple, packet.to);
    let (key, _) = if packet.key == tuple.key().0 {
        other.key()
    } else {
        tuple.key()
    };
    let (from, to) = match packet.moves {
        PROMOTED => (Table::Transient, Table::Established),
        _ => (Table::Established, Table::Transient),
    };
    match env.connection(from, &key) {
        Some(alias) if alias.flags() & flags::ALIAS != 0 => env.shift(&key, &alias, to),
        _ => false,
    }
}

/// It is over: only stray packets still belong to it.
#[inline(always)]
pub(crate) const fn is_over(state: State) -> bool {
    matches!(state, State::TimeWait | State::Closed)
}

/// How the connection begins that this packet opens. It is left in the packet, and a function of its
/// own in the object: so the verifier, which would follow each combination of all this through
/// [`open`], knows nothing of it there.
#[inline(never)]
pub(crate) fn plan(packet: &mut Packet, opening: Opening) {
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
        Opening::Stack | Opening::Beyond => flags::VIA_STACK,
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
pub(crate) fn open<E: Env>(env: &mut E, packet: &Packet) -> bool {
    let config = env.config();
    let hook = packet.hook;
    let plan = &packet.plan;
    env.step(Step::Opened {
        key: packet.key,
        flags: plan.flags,
    });
    let (length, ifindex) = (env.length(), env.ifindex());
    let now = packet.now;
    let fill = |event: &mut FlowEvent| {
        event.time = now;
        event.kind = FlowEventKind::Created as u32;
        event.hook = u32::from(hook);
        event.key = packet.key;
        let connection = &mut event.connection;
        connection.created = now;
        connection.expires = now + plan.timeout;
        connection.flags = plan.flags;
        connection.state = plan.state;
        connection.family = if packet.key.low.is_mapped() { 4 } else { 6 };
        connection.ifindex = ifindex;
        if packet.near.kind != 0 {
            connection.translation = packet.near;
        }
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
        let key = packet.key;
        env.remove(Table::Established, &key);
    }
    env.count(if made {
        Counter::Opened
    } else {
        Counter::Untracked
    });
    if made && plan.state == State::PickedUp as u8 {
        env.count(Counter::PickedUp);
    }
    made
}

/// A pod's socket that asked for a Service was given a backend before there was a packet: the
/// connection says so.
#[inline(never)]
fn ask_socket<E: Env>(env: &mut E, packet: &mut Packet) {
    if packet.plan.answers || env.config().flags & config_flags::SERVICES == 0 {
        return;
    }
    let cookie = env.cookie();
    if cookie == 0 {
        return;
    }
    let tuple = packet.tuple;
    let Some(asked) = asked(env, cookie, &tuple) else {
        return;
    };
    env.step(Step::Asked { service: asked });
    packet.near = Translation {
        source: packet.tuple.source,
        destination: asked.address,
        source_port: packet.tuple.source_port,
        destination_port: asked.port,
        kind: translation::AT_SOCKET,
        pad: [0; 3],
        service: asked.service,
        backend: asked.backend,
    };
}

/// What policy says of a direction. There is none yet; each is allowed, and its entry has room for
/// what will be decided.
#[inline(always)]
const fn judge() -> Judged {
    Judged::Allowed
}
