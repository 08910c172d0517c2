//! A packet that begins a connection to a Service: whose it is, which backend gets it, and by which
//! tuple this node talks to that backend.

use watari_abi::{
    Address, Config, Counter, FlowEvent, Hook, Reason, Side, Translation, Tuple, flags,
    frontend_flags, translation,
};

use super::{Choice, Found, Wish, choose, find};
use crate::packet::{Packet, Part};
use crate::send::remote;
use crate::service::alias::{is_known, is_near};
use crate::track::{Opening, Way, alive, is_over, open, plan};
use crate::{Entry, Env, Step, Table, state};

/// Whose a destination is; the Service itself stands in the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Whose {
    /// No Service's.
    Nobody = 0,
    /// A Service's.
    Service = 1,
    /// A Service's address; none of its ports.
    Undefined = 2,
    /// Nobody has that address of the Services' range.
    Unallocated = 3,
}

impl Whose {
    /// By its number; nobody's for none.
    #[inline(always)]
    pub const fn of(number: u32) -> Self {
        match number {
            1 => Self::Service,
            2 => Self::Undefined,
            3 => Self::Unallocated,
            _ => Self::Nobody,
        }
    }
}

/// How many ports are tried.
const PROBES: u32 = 32;

/// Asks the Services whose the packet's destination is; leaves what was found with the packet.
#[inline(always)]
pub fn ask<E: Env>(env: &mut E, packet: &mut Packet) -> Whose {
    let (port, protocol) = (packet.tuple.destination_port, packet.tuple.protocol);
    let address = packet.tuple.destination;
    let found = find(env, &address, port, protocol);
    env.step(Step::Service {
        address,
        port,
        protocol,
        found,
    });
    match found {
        Found::None => Whose::Nobody,
        Found::Unallocated => Whose::Unallocated,
        Found::Undefined => Whose::Undefined,
        Found::Frontend(frontend) => {
            packet.frontend = frontend;
            Whose::Service
        }
    }
}

/// Gives a packet that is of no connection, and for no pod, to a Service's backend, if it is for a
/// Service.
#[inline(always)]
pub(crate) fn serve<E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    let whose = env.ask(packet);
    settle(env, packet, whose)
}

/// A packet at an uplink that is not for a pod: of a translated connection, for a Service, or the
/// stack's.
#[inline(always)]
pub(crate) fn visit<E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    packet.plan.replaces = false;
    // Answers for a translated source are known by their port. What the node itself sends may
    // answer a client of a Service.
    let entering = packet.hook == Hook::FromUplink as u8;
    if (!entering || is_translated_port(env, packet)) && is_known(env, packet) {
        return Way::Translated;
    }
    let whose = env.ask(packet);
    if entering && matches!(whose, Whose::Service | Whose::Undefined) && is_known(env, packet) {
        return Way::Translated;
    }
    settle(env, packet, whose)
}

/// What becomes of a packet to what was found.
#[inline(always)]
fn settle<E: Env>(env: &mut E, packet: &mut Packet, whose: Whose) -> Way {
    match whose {
        Whose::Nobody => Way::Stack,
        Whose::Unallocated => dropped(packet, Reason::UnallocatedService),
        Whose::Undefined => Way::Refuse,
        Whose::Service => match env.pick(packet) {
            Way::Translated => env.begin(packet),
            way => way,
        },
    }
}

#[inline(always)]
fn dropped(packet: &mut Packet, reason: Reason) -> Way {
    packet.reason = reason as u16;
    Way::Drop
}

/// This node's own address of the family.
#[inline(always)]
pub(crate) const fn own(config: &Config, like: &Address) -> Address {
    if like.is_mapped() {
        config.v4
    } else {
        config.v6
    }
}

/// Whether it is for a port of this node that sources are translated to.
#[inline(always)]
pub(crate) fn is_translated_port<E: Env>(env: &E, packet: &Packet) -> bool {
    let config = env.config();
    let destination = &packet.tuple.destination;
    let port = u16::from_be(packet.tuple.destination_port);
    port >= config.first_port
        && port <= config.last_port
        && *destination == own(&config, destination)
}

/// Chooses a backend of the Service that was found, and leaves it with the packet.
#[inline(always)]
pub fn pick<E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    let frontend = packet.frontend;
    let source = packet.tuple.source;
    let has = |flag| frontend.flags & flag != 0;
    packet.outside = packet.hook == Hook::FromUplink as u8 && remote(env, &source).is_none();
    let outside = packet.outside;
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
        && !env.is_allowed_source(frontend.service, &source)
    {
        return dropped(packet, Reason::SourceRange);
    }
    let wish = Wish {
        frontend: &frontend,
        port: packet.tuple.destination_port,
        set: if inside {
            frontend.inside
        } else if by_ring {
            frontend.ring
        } else {
            frontend.outside
        },
        hash: if by_ring {
            Some(ring_hash(&packet.tuple, frontend.affinity != 0))
        } else {
            None
        },
        client: &source,
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
    packet.to = packet.tuple;
    packet.to.destination = backend.address;
    packet.to.destination_port = backend.port;
    Way::Translated
}

/// What becomes of the source.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Need {
    /// It stays.
    Nothing,
    /// It gets another port.
    Port,
    /// It becomes this node's.
    Address,
}

/// Whether the answer would take another road without a translation of the source.
#[inline(always)]
pub(crate) fn need<E: Env>(env: &E, packet: &Packet, own: &Address) -> Need {
    let backend = packet.to.destination;
    match Hook::of(packet.hook) {
        // A pod that answers itself would do so without asking the node.
        Some(Hook::FromPod) if backend == packet.tuple.source => Need::Address,
        Some(Hook::FromPod) => Need::Nothing,
        Some(Hook::FromUplink) => {
            // A process of this node answers by the stack, which takes no packet from itself.
            if backend == *own {
                return Need::Nothing;
            }
            let has = |flag| packet.outside && packet.frontend.flags & flag != 0;
            if has(frontend_flags::KEEPS_SOURCE) {
                return Need::Nothing;
            }
            if has(frontend_flags::CLUSTER_ADDRESS) || env.endpoint(&backend).is_none() {
                Need::Address
            } else {
                Need::Nothing
            }
        }
        // The node's own process: its answers come in by the port.
        _ => Need::Port,
    }
}

/// Finds the far side for the backend that was picked, and makes connection and alias.
#[inline(always)]
pub fn begin<E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    let config = env.config();
    let own = own(&config, &packet.tuple.source);
    let need = need(env, packet, &own);
    if need == Need::Address {
        packet.to.source = own;
    }
    let free = need == Need::Nothing && env.is_free(packet);
    if !free && !find_port(env, packet, config.first_port, config.last_port) {
        return dropped(packet, Reason::SourcePortsExhausted);
    }
    let moved = packet.to.source_port != packet.tuple.source_port || need == Need::Address;
    let source = if moved { translation::SOURCE } else { 0 };
    let near = &mut packet.near;
    near.kind = translation::DESTINATION | source;
    near.source = packet.tuple.source;
    near.destination = packet.tuple.destination;
    near.source_port = packet.tuple.source_port;
    near.destination_port = packet.tuple.destination_port;
    if !record(env, packet) {
        return dropped(packet, Reason::NoRoom);
    }
    env.add_load(packet.near.backend, 1);
    env.count(Counter::Balanced);
    if moved {
        env.count(Counter::SourceTranslated);
    }
    packet.beyond = packet.hook != Hook::FromPod as u8;
    Way::Translated
}

/// Makes the connection under its far side, and the alias under its near one.
#[inline(always)]
fn record<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let (alias, near_side) = packet.tuple.key();
    let (key, side) = packet.to.key();
    let stale = packet.plan.replaces;
    (packet.key, packet.side) = (key, side);
    plan(packet, Opening::Direct);
    // One that is over may be there still.
    packet.plan.replaces = packet.has_handshake();
    if !open(env, packet) {
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
fn find_port<E: Env>(env: &mut E, packet: &mut Packet, first: u16, last: u16) -> bool {
    if packet.to.source == Address::UNSPECIFIED || last < first {
        return false;
    }
    let first = u32::from(first);
    let span = u32::from(last) - first + 1;
    let hash = spread(&packet.tuple, u64::from(packet.tuple.destination.words[3]));
    let start = ((u64::from(hash) * u64::from(span)) >> 32) as u32;
    // Of fewer ports some are tried twice: the verifier of Linux 6.1 wants a bound that it can count to.
    let mut probe = 0;
    while probe < PROBES {
        let offset = (start + probe) % span;
        packet.to.source_port = ((first + offset) as u16).to_be();
        if env.is_free(packet) {
            return true;
        }
        probe += 1;
    }
    false
}

/// Whether no other connection that lives has the far side's tuple.
#[inline(always)]
pub fn is_free<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let (key, _) = packet.to.key();
    let (near, now) = (packet.tuple, packet.now);
    if state::has_handshake(key.protocol)
        && let Some(entry) = env.connection(Table::Established, &key)
        && is_taken(&entry, &near, now)
    {
        return false;
    }
    match env.connection(Table::Transient, &key) {
        Some(entry) => !is_taken(&entry, &near, now),
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
