//! Translation: a connection's other address and port, in the packet and in what it quotes.

use watari_abi::{Hook, Reason, Tuple};
use watari_wire::{ETHERNET, Family, Kind, Refused, Sum, V4, V6, crc32c, icmp};

use crate::packet::{Packet, Part, Quoted};
use crate::send::{End, seek_and_send, send};
use crate::track::NOWHERE;
use crate::{Env, Step};

/// Gives the packet the ends `to`, which differ from its own in address and port.
#[inline(always)]
pub(crate) fn rewrite<F: Family, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    to: &Tuple,
) -> Result<(), Reason> {
    let from = packet.tuple;
    if from == *to {
        return Ok(());
    }
    let change = readdress::<F, E>(env, ETHERNET, &from, to)?;
    if F::ICMP_COVERS_ADDRESSES {
        env.uncompensated(change);
    }
    if !matches!(packet.part, Part::Later | Part::Unknown) {
        ports::<F, E>(env, packet, &from, to, change)?;
    }
    packet.tuple = *to;
    env.step(Step::Translated { from, to: *to });
    Ok(())
}

#[inline(always)]
fn readdress<F: Family, E: Env>(
    env: &mut E,
    offset: u32,
    from: &Tuple,
    to: &Tuple,
) -> Result<Sum, Reason> {
    F::readdress(env, offset, from, to).map_err(|_| Reason::RewriteFailed)
}

/// Where a checksum stands in the transport header, and whether zero means that there is none.
#[inline(always)]
const fn checksum_of(kind: Kind) -> Option<(u32, bool)> {
    match kind {
        Kind::Tcp => Some((16, false)),
        Kind::Udp => Some((6, true)),
        _ => None,
    }
}

#[inline(always)]
const fn port_words(tuple: &Tuple) -> [u16; 2] {
    [tuple.source_port, tuple.destination_port]
}

#[inline(always)]
const fn port_change(from: &Tuple, to: &Tuple) -> Sum {
    Sum::ZERO
        .minus16(from.source_port)
        .minus16(from.destination_port)
        .plus16(to.source_port)
        .plus16(to.destination_port)
}

/// Ports and checksum of the transport header.
#[inline(always)]
fn ports<F: Family, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    from: &Tuple,
    to: &Tuple,
    addresses: Sum,
) -> Result<(), Reason> {
    let (kind, at) = (packet.kind, packet.transport);
    let moved = port_words(from) != port_words(to);
    let done: Result<(), Refused> = match kind {
        Kind::Tcp | Kind::Udp => {
            let (offset, optional) = if kind == Kind::Tcp {
                (16, false)
            } else {
                (6, true)
            };
            env.correct(at + offset, addresses, true, optional)
                .and_then(|()| {
                    if !moved {
                        return Ok(());
                    }
                    env.correct(at + offset, port_change(from, to), false, optional)?;
                    let fixed = ETHERNET + F::HEADER;
                    if at == fixed {
                        env.store_fixed(fixed, port_words(to))
                    } else {
                        env.store(at, port_words(to))
                    }
                })
        }
        Kind::Sctp if moved && (packet.part != Part::Whole || !env.turn_sctp(packet)) => {
            Err(Refused)
        }
        Kind::EchoRequest | Kind::EchoReply | Kind::Icmp | Kind::Error
            if F::ICMP_COVERS_ADDRESSES =>
        {
            env.correct(at + icmp::CHECKSUM, addresses, true, false)
        }
        _ => Ok(()),
    };
    done.map_err(|_| Reason::RewriteFailed)
}

/// Its checksum is a CRC over all of the packet, which covers the ports and not the addresses
/// (RFC 9260 section 6.8). Of a fragment nobody knows how much follows.
#[inline(always)]
pub fn turn_sctp<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let at = packet.transport;
    let (before, after) = (port_words(&packet.tuple), port_words(&packet.to));
    let Some(checksum) = env.load::<u32>(at + SCTP_CHECKSUM) else {
        return false;
    };
    if env.store(at, after).is_err() {
        return false;
    }
    // Zero: the NIC computes it when the packet leaves.
    if checksum == 0 {
        return true;
    }
    let length = packet.end.wrapping_sub(at);
    let word = |ports: [u16; 2]| zerocopy::transmute!(ports);
    let checksum = crc32c::correct(checksum, word(before), word(after), length);
    env.store(at + SCTP_CHECKSUM, checksum).is_ok()
}

/// Where the checksum stands in a header of SCTP.
const SCTP_CHECKSUM: u32 = 8;

/// Gives the packet the ends that were found for it.
#[inline(always)]
pub fn turn<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let to = packet.to;
    let done = if packet.tuple.destination.is_mapped() {
        rewrite::<V4, E>(env, packet, &to)
    } else {
        rewrite::<V6, E>(env, packet, &to)
    };
    match done {
        Ok(()) => true,
        Err(reason) => {
            packet.reason = reason as u16;
            false
        }
    }
}

/// Takes the alias along, and gives the packet its ends.
#[inline(always)]
fn follow_up<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    if packet.moves != NOWHERE {
        env.move_alias(packet);
    }
    env.turn(packet)
}

/// Translates the packet, and sends it on.
#[inline(always)]
pub(crate) fn translate<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let moves = packet.to.destination != packet.tuple.destination;
    if !follow_up(env, packet) {
        return End::Drop;
    }
    if moves {
        return seek_and_send(env, packet);
    }
    let end = send(env, packet);
    // What a pod answers has an address of this node for its source by now, which the stack takes
    // from no link. It tells the pod of the packet as that sent it.
    if end == End::Stack && packet.stopped && packet.hook == Hook::FromPod as u8 {
        packet.to = packet.key.tuple(packet.side);
        if !env.turn(packet) {
            return End::Drop;
        }
    }
    end
}

/// Translates the packet, which goes on where it is.
#[inline(always)]
pub(crate) fn translate_here<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    if follow_up(env, packet) {
        End::Pass
    } else {
        End::Drop
    }
}

/// Gives an ICMP error, and what it quotes, the ends that the receiver knows: `believed` is what it
/// sent. The quoted packet's network header is at `at`.
#[inline(always)]
pub(crate) fn rewrite_error<F: Family, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    believed: &Tuple,
    at: u32,
) -> Result<(), Reason> {
    let quoted = &packet.quoted;
    let change = quote_change::<F, E>(env, quoted, at, believed)?;
    env.correct(packet.transport + icmp::CHECKSUM, change, false, false)
        .map_err(|_| Reason::RewriteFailed)?;
    let mut to = packet.tuple;
    to.destination = believed.source;
    // Besides what the backend itself says, what somebody on the way tells this node: were it sent on
    // in his name, a router that tells of a packet would get his own address back, and drop it.
    let told_here = believed.source != quoted.tuple.source;
    if to.source == quoted.tuple.destination || told_here {
        to.source = believed.destination;
    }
    rewrite::<F, E>(env, packet, &to)
}

/// Rewrites the quoted packet; gives the change that the error's checksum has to follow.
#[inline(always)]
fn quote_change<F: Family, E: Env>(
    env: &mut E,
    quoted: &Quoted,
    at: u32,
    to: &Tuple,
) -> Result<Sum, Reason> {
    let refused = |_: Refused| Reason::RewriteFailed;
    let addresses = readdress::<F, E>(env, at, &quoted.tuple, to)?;
    let mut change = Sum::ZERO;
    // The checksum of an IPv4 header makes up for its addresses; IPv6 has none.
    if F::ICMP_COVERS_ADDRESSES {
        change = change.plus(addresses);
    }
    if !matches!(quoted.kind, Kind::Tcp | Kind::Udp | Kind::Sctp) {
        return Ok(change);
    }
    let moved = port_change(&quoted.tuple, to);
    env.store(quoted.transport, port_words(to))
        .map_err(refused)?;
    change = change.plus(moved);
    // Nobody looks at the checksum of SCTP in what is quoted, where there is less than it covers.
    let Some((offset, optional)) = checksum_of(quoted.kind) else {
        return Ok(change);
    };
    // Of TCP, an error need not quote as much as the checksum.
    let Some(before) = env.load::<u16>(quoted.transport + offset) else {
        return Ok(change);
    };
    if optional && before == 0 {
        return Ok(change);
    }
    let after = addresses.plus(moved).correct(before);
    env.store(quoted.transport + offset, after)
        .map_err(refused)?;
    Ok(change.minus16(before).plus16(after))
}
