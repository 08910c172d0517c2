//! A packet that begins a connection to a Service: whose it is, which backend gets it, and by which
//! tuple this node talks to that backend.

use watari_abi::{
    Address, Backend, Config, Counter, FlowEvent, Frontend, Hook, Reason, Side, Translation, Tuple,
    flags, frontend_flags, translation,
};

use super::{Choice, Found, Wish, choose, find};
use crate::packet::{Packet, Part};
use crate::send::remote;
use crate::service::alias::{is_near, known};
use crate::track::{Opening, Way, alive, is_over, open, plan};
use crate::{Entry, Env, Step, Table, state};

/// How many ports are tried.
const PROBES: u32 = 32;

/// Gives a packet that is of no connection, and for no pod, to a Service's backend, if it is for a
/// Service.
#[inline(always)]
pub fn serve<E: Env>(env: &mut E, packet: &mut Packet, hook: Hook) -> Way {
    let tuple = packet.tuple;
    let found = ask(env, &tuple);
    settle(env, packet, &tuple, found, hook)
}

#[inline(always)]
fn ask<E: Env>(env: &mut E, tuple: &Tuple) -> Found {
    let (address, port, protocol) = (tuple.destination, tuple.destination_port, tuple.protocol);
    let found = find(env, &address, port, protocol);
    env.step(Step::Service {
        address,
        port,
        protocol,
        found,
    });
    found
}

/// What becomes of a packet to what was found.
#[inline(always)]
fn settle<E: Env>(
    env: &mut E,
    packet: &mut Packet,
    tuple: &Tuple,
    found: Found,
    hook: Hook,
) -> Way {
    match found {
        Found::None => Way::Stack,
        Found::Unallocated => dropped(packet, Reason::UnallocatedService),
        Found::Undefined => Way::Refuse,
        Found::Frontend(frontend) => balance(env, packet, tuple, &frontend, hook),
    }
}

/// A packet at an uplink that is not for a pod: of a translated connection, for a Service, or the
/// stack's.
#[inline(always)]
pub fn visit<E: Env>(env: &mut E, packet: &mut Packet, hook: Hook) -> Way {
    let tuple = packet.tuple;
    packet.plan.replaces = false;
    // Answers for a translated source are known by their port. What the node itself sends may
    // answer a client of a Service.
    let entering = matches!(hook, Hook::FromUplink);
    if (!entering || is_translated_port(&env.config(), &tuple)) && known(env, packet) {
        return Way::Translated;
    }
    let found = ask(env, &tuple);
    if entering && matches!(found, Found::Frontend(_) | Found::Undefined) && known(env, packet) {
        return Way::Translated;
    }
    settle(env, packet, &tuple, found, hook)
}

#[inline(always)]
fn dropped(packet: &mut Packet, reason: Reason) -> Way {
    packet.reason = reason as u16;
    Way::Drop
}

/// This node's own address of the family.
#[inline(always)]
const fn own(config: &Config, like: &Address) -> Address {
    if like.is_mapped() {
        config.v4
    } else {
        config.v6
    }
}

/// Whether it is for a port of this node that sources are translated to.
#[inline(always)]
fn is_translated_port(config: &Config, tuple: &Tuple) -> bool {
    let port = u16::from_be(tuple.destination_port);
    port >= config.first_port
        && port <= config.last_port
        && tuple.destination == own(config, &tuple.destination)
}

/// Chooses a backend, and opens the connection.
#[inline(always)]
fn balance<E: Env>(
    env: &mut E,
    packet: &mut Packet,
    near: &Tuple,
    frontend: &Frontend,
    hook: Hook,
) -> Way {
    let has = |flag| frontend.flags & flag != 0;
    let outside = matches!(hook, Hook::FromUplink) && remote(env, &near.source).is_none();
    // Who comes from outside to a cluster address is judged as if it were inside.
    let inside = !outside || has(frontend_flags::CLUSTER_ADDRESS);
    let by_ring = !inside && frontend.ring != 0;
    // Any node gives a connection that it does not know to the same member of a ring.
    let begins = packet.opens() || (by_ring && !packet.is_stray());
    if packet.part == Part::Later || !begins {
        return Way::Refuse;
    }
    if outside
        && has(frontend_flags::SOURCE_RANGES)
        && !env.is_allowed_source(frontend.service, &near.source)
    {
        return dropped(packet, Reason::SourceRange);
    }
    let wish = Wish {
        frontend,
        port: near.destination_port,
        set: if inside {
            frontend.inside
        } else if by_ring {
            frontend.ring
        } else {
            frontend.outside
        },
        hash: if by_ring {
            Some(ring_hash(near, frontend.affinity != 0))
        } else {
            None
        },
        client: &near.source,
        now: packet.now,
    };
    let choice = choose(env, &wish);
    env.step(Step::Backend {
        service: frontend.service,
        inside,
        chosen: choice,
    });
    let Some(Choice { number, backend }) = choice else {
        let drops = if inside {
            frontend_flags::INSIDE_DROPS
        } else {
            frontend_flags::OUTSIDE_DROPS
        };
        return if has(drops) {
            dropped(packet, Reason::NoLocalEndpoint)
        } else {
            Way::Refuse
        };
    };
    packet.near.service = frontend.service;
    packet.near.backend = number;
    let need = need(env, near, &backend, frontend, hook, outside);
    begin(env, packet, near, &backend, need, hook)
}

/// What becomes of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Need {
    /// It stays.
    Nothing,
    /// It gets another port.
    Port,
    /// It becomes this node's.
    Address,
}

/// Whether the answer would take another road without a translation of the source.
#[inline(always)]
fn need<E: Env>(
    env: &E,
    near: &Tuple,
    backend: &Backend,
    frontend: &Frontend,
    hook: Hook,
    outside: bool,
) -> Need {
    match hook {
        // A pod that answers itself would do so without asking the node.
        Hook::FromPod if backend.address == near.source => Need::Address,
        Hook::FromPod => Need::Nothing,
        Hook::FromUplink => {
            let flags = frontend.flags;
            let config = env.config();
            // A process of this node answers by the stack, which takes no packet from itself.
            if backend.address == own(&config, &backend.address) {
                return Need::Nothing;
            }
            if outside && flags & frontend_flags::KEEPS_SOURCE != 0 {
                return Need::Nothing;
            }
            let forced = outside && flags & frontend_flags::CLUSTER_ADDRESS != 0;
            if forced || env.endpoint(&backend.address).is_none() {
                Need::Address
            } else {
                Need::Nothing
            }
        }
        // The node's own process: its answers come in by the port.
        _ => Need::Port,
    }
}

/// Finds the far side, and makes connection and alias.
#[inline(always)]
fn begin<E: Env>(
    env: &mut E,
    packet: &mut Packet,
    near: &Tuple,
    backend: &Backend,
    need: Need,
    hook: Hook,
) -> Way {
    let config = env.config();
    let mut far = *near;
    far.destination = backend.address;
    far.destination_port = backend.port;
    if need == Need::Address {
        far.source = own(&config, &near.source);
    }
    packet.to = far;
    let free = need == Need::Nothing && is_free(env, &far, near, packet.now);
    if !free && !find_port(env, packet, near, &config) {
        return dropped(packet, Reason::SourcePortsExhausted);
    }
    let moved = packet.to.source_port != near.source_port || need == Need::Address;
    let source = if moved { translation::SOURCE } else { 0 };
    packet.near.kind = translation::DESTINATION | source;
    packet.near.source = near.source;
    packet.near.destination = near.destination;
    packet.near.source_port = near.source_port;
    packet.near.destination_port = near.destination_port;
    if !record(env, packet, near, hook) {
        return dropped(packet, Reason::NoRoom);
    }
    env.add_load(packet.near.backend, 1);
    env.count(Counter::Balanced);
    if moved {
        env.count(Counter::SourceTranslated);
    }
    packet.beyond = !matches!(hook, Hook::FromPod);
    Way::Translated
}

/// Makes the connection under its far side, and the alias under its near one.
#[inline(always)]
fn record<E: Env>(env: &mut E, packet: &mut Packet, near: &Tuple, hook: Hook) -> bool {
    let (alias, near_side) = near.key();
    let far = packet.to;
    let (key, side) = far.key();
    let stale = packet.plan.replaces;
    (packet.key, packet.side) = (key, side);
    plan(packet, Opening::Direct);
    // One that is over may be there still.
    packet.plan.replaces = state::has_handshake(key.protocol);
    if !open(env, packet, hook) {
        return false;
    }
    if stale {
        env.remove(Table::Established, &alias);
    }
    let (now, ifindex) = (packet.now, env.ifindex());
    let low = if matches!(near_side, Side::Low) {
        flags::LOW_IS_ORIGINATOR
    } else {
        0
    };
    let packet = &*packet;
    env.open(
        |event: &mut FlowEvent| {
            event.key = alias;
            let connection = &mut event.connection;
            connection.created = now;
            // By itself never: it lives as long as its connection.
            connection.expires = u64::MAX;
            connection.flags = flags::ALIAS | low;
            connection.state = watari_abi::State::New as u8;
            connection.family = if alias.low.is_mapped() { 4 } else { 6 };
            connection.ifindex = ifindex;
            connection.translation = Translation {
                source: packet.to.source,
                destination: packet.to.destination,
                source_port: packet.to.source_port,
                destination_port: packet.to.destination_port,
                ..packet.near
            };
        },
        false,
    )
}

/// Gives the packet's far side a source port that no other connection to that backend has.
#[inline(always)]
#[allow(
    clippy::cast_possible_truncation,
    reason = "a port between two others; the upper half of a product"
)]
fn find_port<E: Env>(env: &mut E, packet: &mut Packet, near: &Tuple, config: &Config) -> bool {
    let mut far = packet.to;
    if far.source == Address::UNSPECIFIED || config.last_port < config.first_port {
        return false;
    }
    let first = u32::from(config.first_port);
    let span = u32::from(config.last_port) - first + 1;
    let start = ((u64::from(spread(near, u64::from(near.destination.words[3]))) * u64::from(span))
        >> 32) as u32;
    let mut probe = 0;
    while probe < PROBES && probe < span {
        let offset = start + probe;
        let offset = if offset >= span {
            offset - span
        } else {
            offset
        };
        far.source_port = ((first + offset) as u16).to_be();
        if is_free(env, &far, near, packet.now) {
            packet.to.source_port = far.source_port;
            return true;
        }
        probe += 1;
    }
    false
}

/// Whether no other connection that lives has the tuple. A function of its own in the object: it is
/// asked many times.
#[inline(never)]
fn is_free<E: Env>(env: &mut E, far: &Tuple, near: &Tuple, now: u64) -> bool {
    let (key, _) = far.key();
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, &key)
        && is_taken(&entry, near, now)
    {
        return false;
    }
    match env.connection(Table::Transient, &key) {
        Some(entry) => !is_taken(&entry, near, now),
        None => true,
    }
}

#[inline(always)]
fn is_taken<T: Entry>(entry: &T, near: &Tuple, now: u64) -> bool {
    match alive(entry, now) {
        None => false,
        // An alias is no better than its connection, which nobody asks here: it counts.
        Some(state) => !is_over(state) && !is_near(entry, near, now),
    }
}

/// Spreads connections over ports and rings; the same on every node.
#[inline(always)]
const fn spread(tuple: &Tuple, seed: u64) -> u32 {
    let [a, b, c, d] = tuple.source.words;
    let ports = (tuple.source_port as u64) << 16 | tuple.destination_port as u64;
    let mut hash = mix(seed ^ ((a as u64) << 32 | b as u64));
    hash = mix(hash ^ ((c as u64) << 32 | d as u64));
    hash = mix(hash ^ (ports << 8 | tuple.protocol as u64));
    (hash >> 32) as u32
}

/// The finaliser of `MurmurHash3` for 64 bits.
#[inline(always)]
const fn mix(mut value: u64) -> u64 {
    value ^= value >> 33;
    value = value.wrapping_mul(0xff51_afd7_ed55_8ccd);
    value ^= value >> 33;
    value = value.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    value ^ (value >> 33)
}

/// Where on a ring a connection falls: by the client's address and both ports, as it sends them. Not
/// by the address that it was sent to, which for a node port is another at each node. With affinity
/// by the client's address alone.
#[inline(always)]
pub(crate) const fn ring_hash(near: &Tuple, affinity: bool) -> u32 {
    let mut tuple = *near;
    if affinity {
        tuple.source_port = 0;
        tuple.destination_port = 0;
        tuple.protocol = 0;
    }
    spread(&tuple, RING)
}

/// Any number; another one would move connections of one node's neighbours.
const RING: u64 = 0x5761_7461_7269_2031;
