use watari_abi::{Address, Counter, Hook, Reason, StackPort};
use watari_wire::{Arp, ETHERNET, Family, Kind, V4, V6, ethertype};

use crate::packet::{Packet, Part};
use crate::quote::error;
use crate::send::{End, endpoint, refuse, remote, seek, seek_and_send, send};
use crate::state::{STACK_PORT, STACK_PORT_REFRESH, is_recent};
use crate::track::{Opening, Spot, Way, track};
use crate::translate::translate;
use crate::{Dropped, Env, Step};

/// Where the sender's MAC stands in a frame.
const SOURCE_MAC: u32 = 6;
/// Where the type of the frame stands.
const KIND: u32 = 12;

/// What becomes of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The stack has it.
    Stack,
    /// It goes straight into the pod behind that link.
    Deliver {
        /// The pod's host-side link.
        ifindex: u32,
    },
    /// It leaves by that link to that neighbour.
    Forward {
        /// The link.
        ifindex: u32,
        /// The neighbour.
        next_hop: Address,
    },
    /// It is dropped.
    Drop(Reason),
    /// It goes on into the pod that it was delivered to.
    Pass,
}

/// A packet that a pod sent, at its host-side link. `packet` is memory for what is found out.
#[inline(always)]
pub fn from_pod<E: Env>(env: &mut E, packet: &mut Packet) -> Verdict {
    let end = leave(env, packet);
    conclude(env, packet, Hook::FromPod, end)
}

/// A packet that entered the node by an uplink.
#[inline(always)]
pub fn from_uplink<E: Env>(env: &mut E, packet: &mut Packet) -> Verdict {
    let end = enter(env, packet);
    conclude(env, packet, Hook::FromUplink, end)
}

/// A packet that the stack delivers to a pod, at its host-side link.
#[inline(always)]
pub fn to_pod<E: Env>(env: &mut E, packet: &mut Packet) -> Verdict {
    let end = arrive(env, packet);
    conclude(env, packet, Hook::ToPod, end)
}

#[inline(always)]
fn conclude<E: Env>(env: &mut E, packet: &Packet, hook: Hook, end: End) -> Verdict {
    match end {
        End::Stack => {
            env.count(Counter::ToStack);
            Verdict::Stack
        }
        End::Deliver => {
            env.count(Counter::Delivered);
            Verdict::Deliver {
                ifindex: packet.out,
            }
        }
        End::Forward => {
            env.count(Counter::Forwarded);
            Verdict::Forward {
                ifindex: packet.out,
                next_hop: packet.next_hop,
            }
        }
        End::Pass => {
            env.count(Counter::FromStack);
            Verdict::Pass
        }
        End::Drop => {
            let reason = Reason::of(packet.reason).unwrap_or(Reason::Malformed);
            env.dropped(&Dropped {
                reason,
                hook,
                rule: 0,
            });
            Verdict::Drop(reason)
        }
    }
}

/// What was read of a packet, and what comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Read {
    /// It is of a connection.
    Tracked,
    /// It follows its addresses alone.
    Untracked,
    /// It is an ICMP error.
    Error,
    /// It is not for the programs.
    Stack,
    /// It is dropped.
    Refused,
}

/// What kind of packet it turned out to be.
#[inline(always)]
fn sort(packet: &Packet) -> Read {
    match (packet.part, packet.kind) {
        (Part::Unknown, _) => Read::Untracked,
        (_, Kind::Neighbour) => Read::Stack,
        (_, Kind::Error) => Read::Error,
        _ => Read::Tracked,
    }
}

/// The value, or the packet is refused. Written out, for a `Result` that is passed on has parts that
/// are no value, and the verifier refuses a program that moves such a part.
macro_rules! attempt {
    ($packet:expr, $result:expr) => {
        match $result {
            Ok(value) => value,
            Err(reason) => {
                $packet.reason = reason as u16;
                return Read::Refused;
            }
        }
    };
    ($packet:expr, $option:expr, $reason:expr) => {
        match $option {
            Some(value) => value,
            None => {
                $packet.reason = $reason as u16;
                return Read::Refused;
            }
        }
    };
}

/// From a pod.
struct Leaving;
/// From an uplink.
struct Entering;
/// From the stack to a pod.
struct Arriving;

impl Spot for Leaving {
    const HOOK: Hook = Hook::FromPod;

    #[inline(always)]
    fn opening<E: Env>(env: &mut E, packet: &Packet) -> Option<Opening> {
        let to_pod = packet.local || remote(env, &packet.tuple.destination).is_some();
        Some(if to_pod && packet.opens() {
            Opening::Direct
        } else if packet.local {
            Opening::StackToPod
        } else {
            Opening::Stack
        })
    }
}

impl Spot for Entering {
    const HOOK: Hook = Hook::FromUplink;

    #[inline(always)]
    fn opening<E: Env>(env: &mut E, packet: &Packet) -> Option<Opening> {
        let datagram = matches!(packet.kind, Kind::Udp | Kind::Other);
        if datagram && is_stack_port(env, packet) {
            return None;
        }
        Some(if packet.opens() {
            Opening::Direct
        } else {
            Opening::StackToPod
        })
    }
}

impl Spot for Arriving {
    const HOOK: Hook = Hook::ToPod;

    #[inline(always)]
    fn opening<E: Env>(_: &mut E, _: &Packet) -> Option<Opening> {
        Some(Opening::FromStack)
    }
}

#[inline(always)]
fn leave<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    if env.tagged() {
        return refuse(packet, Reason::Tagged);
    }
    let Some(kind) = env.fixed::<u16>(KIND) else {
        return refuse(packet, Reason::Malformed);
    };
    let read = match kind {
        ethertype::IPV4 => leave_ip::<V4, E>(env, packet),
        ethertype::IPV6 => leave_ip::<V6, E>(env, packet),
        ethertype::ARP => leave_arp(env, packet),
        ethertype::VLAN | ethertype::SERVICE_VLAN => return refuse(packet, Reason::Tagged),
        _ => return End::Stack,
    };
    match read {
        Read::Tracked => {}
        Read::Untracked => return seek_and_send(env, packet),
        Read::Error => return error(env, packet),
        Read::Stack => return End::Stack,
        Read::Refused => return End::Drop,
    }
    seek(env, packet);
    match track::<Leaving, E>(env, packet) {
        Way::Direct => send(env, packet),
        Way::Translated => translate(env, packet),
        Way::Stack => {
            if !packet.local && !packet.has_handshake() {
                use_stack_port(env, packet);
            }
            End::Stack
        }
    }
}

#[inline(always)]
fn enter<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    if env.tagged() || !env.for_this_host() {
        return End::Stack;
    }
    let Some(kind) = env.fixed::<u16>(KIND) else {
        return refuse(packet, Reason::Malformed);
    };
    let read = match kind {
        ethertype::IPV4 => enter_ip::<V4, E>(env, packet),
        ethertype::IPV6 => enter_ip::<V6, E>(env, packet),
        _ => return End::Stack,
    };
    match read {
        Read::Tracked => {}
        Read::Untracked => return send(env, packet),
        Read::Error => return error(env, packet),
        Read::Stack => return End::Stack,
        Read::Refused => return End::Drop,
    }
    match track::<Entering, E>(env, packet) {
        Way::Direct => send(env, packet),
        Way::Translated => translate(env, packet),
        Way::Stack => End::Stack,
    }
}

#[inline(always)]
fn arrive<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let Some(kind) = env.fixed::<u16>(KIND) else {
        return refuse(packet, Reason::Malformed);
    };
    let read = match kind {
        ethertype::IPV4 => arrive_ip::<V4, E>(env, packet),
        ethertype::IPV6 => arrive_ip::<V6, E>(env, packet),
        _ => return End::Pass,
    };
    match read {
        Read::Tracked => {
            track::<Arriving, E>(env, packet);
            End::Pass
        }
        Read::Refused => End::Drop,
        _ => End::Pass,
    }
}

/// Reads what a pod sent, and holds it to its own MAC and addresses.
#[inline(never)]
fn leave_ip<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> Read {
    let header: F::Header = attempt!(packet, env.fixed(ETHERNET), Reason::Malformed);
    attempt!(packet, F::check(&header));
    packet.begin::<F>(&header);
    let mac: [u16; 3] = attempt!(packet, env.fixed(SOURCE_MAC), Reason::Malformed);
    if F::is_local(&packet.tuple.source) {
        attempt!(packet, check_mac(env, mac));
        return Read::Stack;
    }
    attempt!(packet, authorise(env, mac, &packet.tuple.source));
    let destination = &packet.tuple.destination;
    if F::is_group(destination) || F::is_local(destination) || !env.for_this_host() {
        return Read::Stack;
    }
    packet.now = env.now();
    attempt!(packet, packet.read::<F, E>(env, &header));
    sort(packet)
}

/// A MAC in the words that a frame is read in.
#[inline(always)]
const fn words(mac: &[u8; 6]) -> [u16; 3] {
    zerocopy::transmute!(*mac)
}

/// Holds a pod to its own MAC and addresses.
///
/// Its endpoint knows link and MAC, so the links are only asked to name what is wrong.
#[inline(always)]
fn authorise<E: Env>(env: &mut E, mac: [u16; 3], source: &Address) -> Result<(), Reason> {
    let ifindex = env.ifindex();
    match endpoint(env, source) {
        Some(known) if known.ifindex == ifindex => {
            if words(&known.mac) == mac {
                return Ok(());
            }
            check_mac(env, mac)?;
            Err(Reason::SpoofedMac)
        }
        _ => {
            check_mac(env, mac)?;
            Err(Reason::SpoofedAddress)
        }
    }
}

#[inline(always)]
fn check_mac<E: Env>(env: &mut E, mac: [u16; 3]) -> Result<(), Reason> {
    let ifindex = env.ifindex();
    let found = env.link(ifindex);
    env.step(Step::Link {
        ifindex,
        found: found.map(|found| *found),
    });
    match found {
        None => Err(Reason::UnknownLink),
        Some(link) if words(&link.mac) != mac => Err(Reason::SpoofedMac),
        Some(_) => Ok(()),
    }
}

/// ARP of a pod speaks of the pod alone.
#[inline(never)]
fn leave_arp<E: Env>(env: &mut E, packet: &mut Packet) -> Read {
    let arp: Arp = attempt!(packet, env.fixed(ETHERNET), Reason::Malformed);
    let mac: [u16; 3] = attempt!(packet, env.fixed(SOURCE_MAC), Reason::Malformed);
    attempt!(packet, check_mac(env, mac));
    let sender = u32::from_ne_bytes(arp.sender);
    let reason = if !arp.is_ipv4_over_ethernet() {
        Reason::Malformed
    } else if words(&arp.sender_mac) != mac {
        Reason::SpoofedMac
    } else if sender == 0 {
        // It asks whether an address is free (RFC 5227).
        return Read::Stack;
    } else {
        let ifindex = env.ifindex();
        match endpoint(env, &Address::v4(sender)) {
            Some(known) if known.ifindex == ifindex => return Read::Stack,
            _ => Reason::SpoofedAddress,
        }
    };
    packet.reason = reason as u16;
    Read::Refused
}

/// Reads what came by an uplink, if it is for a pod of this node.
#[inline(never)]
fn enter_ip<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> Read {
    let header: F::Header = attempt!(packet, env.fixed(ETHERNET), Reason::Malformed);
    attempt!(packet, F::check(&header));
    packet.begin::<F>(&header);
    if !seek(env, packet) {
        return Read::Stack;
    }
    packet.now = env.now();
    attempt!(packet, packet.read::<F, E>(env, &header));
    sort(packet)
}

/// Reads what the stack delivers to a pod.
#[inline(never)]
fn arrive_ip<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> Read {
    let header: F::Header = attempt!(packet, env.fixed(ETHERNET), Reason::Malformed);
    attempt!(packet, F::check(&header));
    packet.begin::<F>(&header);
    packet.local = true;
    let (source, destination) = (&packet.tuple.source, &packet.tuple.destination);
    if F::is_group(destination) || F::is_local(destination) || F::is_local(source) {
        return Read::Stack;
    }
    packet.now = env.now();
    attempt!(packet, packet.read::<F, E>(env, &header));
    sort(packet)
}

/// Remembers that the stack may translate what this port sends.
#[inline(never)]
fn use_stack_port<E: Env>(env: &mut E, packet: &Packet) {
    let key = StackPort {
        address: packet.tuple.source,
        port: packet.tuple.source_port,
        protocol: packet.tuple.protocol,
        pad: 0,
    };
    // Well before it is too old, and not with each packet.
    let recent = env
        .stack_port(&key)
        .is_some_and(|seen| is_recent(packet.now, *seen, STACK_PORT_REFRESH));
    if !recent {
        env.remember_stack_port(&key, packet.now);
    }
}

/// Whether an unknown packet to this port may be a reply that the stack translates.
#[inline(always)]
fn is_stack_port<E: Env>(env: &mut E, packet: &Packet) -> bool {
    let key = StackPort {
        address: packet.tuple.destination,
        port: packet.tuple.destination_port,
        protocol: packet.tuple.protocol,
        pad: 0,
    };
    let seen = env.stack_port(&key).map(|seen| *seen);
    let fresh = seen.is_some_and(|seen| is_recent(packet.now, seen, STACK_PORT));
    if fresh {
        // An answer may go on for longer than anything was sent.
        if !seen.is_some_and(|seen| is_recent(packet.now, seen, STACK_PORT_REFRESH)) {
            env.remember_stack_port(&key, packet.now);
        }
        env.step(Step::StackPort {
            address: key.address,
            port: key.port,
        });
    }
    fresh
}
