//! Translation: a connection's other address and port, in the packet and in what it quotes.

use watari_abi::{ConnectionKey, Flow, Reason, Side, Translation, TranslationKind, Tuple};
use watari_wire::{ETHERNET, Family, Kind, Refused, Sum, V4, V6, icmp};

use crate::packet::{Packet, Part, Quoted};
use crate::send::{End, refuse, seek_and_send};
use crate::track::{find, flow_of};
use crate::{Entry, Env, Step};

/// The ends of a packet once it is translated. `sender` sent it, along `flow`.
#[inline(always)]
pub(crate) const fn translated(
    key: &ConnectionKey,
    sender: Side,
    flow: Flow,
    translation: &Translation,
) -> Tuple {
    let mut tuple = key.tuple(sender);
    // Whom the other end shall believe to talk to. Towards the translated end, the packet has its
    // real address, which is what the key holds.
    let outward = match TranslationKind::of(translation.kind) {
        Some(TranslationKind::Destination) => matches!(flow, Flow::Reply),
        Some(TranslationKind::Source) => matches!(flow, Flow::Original),
        _ => false,
    };
    if outward {
        tuple.source = translation.address;
        tuple.source_port = translation.port;
    }
    tuple
}

/// Gives the packet the ends `to`, which differ from its own in address and port.
#[inline(always)]
pub(crate) fn rewrite<F: Family, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    to: &Tuple,
    translation: &Translation,
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
        ports::<F, E>(env, packet.kind, packet.transport, &from, to, change)?;
    }
    packet.tuple = *to;
    env.step(Step::Translated {
        translation: *translation,
        tuple: *to,
    });
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
    kind: Kind,
    at: u32,
    from: &Tuple,
    to: &Tuple,
    addresses: Sum,
) -> Result<(), Reason> {
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
                    env.store(at, port_words(to))
                })
        }
        // Its checksum is a CRC over all of the packet (RFC 9260), which covers the ports and not
        // the addresses: no program can compute it anew.
        Kind::Sctp if moved => Err(Refused),
        Kind::EchoRequest | Kind::EchoReply | Kind::Icmp | Kind::Error
            if F::ICMP_COVERS_ADDRESSES =>
        {
            env.correct(at + icmp::CHECKSUM, addresses, true, false)
        }
        _ => Ok(()),
    };
    done.map_err(|_| Reason::RewriteFailed)
}

/// Translates the packet as its connection says, and sends it on. A function of its own in the
/// object: few packets need it.
#[inline(never)]
pub(crate) fn translate<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let Some(entry) = find(env, &packet.key, packet.now) else {
        return End::Stack;
    };
    let translation = entry.translation();
    let flow = flow_of(entry.flags(), packet.side);
    let to = translated(&packet.key, packet.side, flow, &translation);
    let done = if packet.tuple.destination.is_mapped() {
        rewrite::<V4, E>(env, packet, &to, &translation)
    } else {
        rewrite::<V6, E>(env, packet, &to, &translation)
    };
    match done {
        Ok(()) => seek_and_send(env, packet),
        Err(reason) => refuse(packet, reason),
    }
}

/// Gives an ICMP error, and what it quotes, the ends that the receiver knows. The quoted packet's
/// network header is at `at`.
#[inline(always)]
pub(crate) fn rewrite_error<F: Family, E: Env>(
    env: &mut E,
    packet: &mut Packet,
    entry: &E::Entry,
    at: u32,
) -> Result<(), Reason> {
    if entry.translation_kind() == TranslationKind::None as u8 {
        return Ok(());
    }
    let translation = entry.translation();
    let quoted = &packet.quoted;
    // The error goes the other way than what it quotes, to whom that way's packets go.
    let other = match quoted.side {
        Side::Low => Side::High,
        Side::High => Side::Low,
    };
    let back = flow_of(entry.flags(), other);
    let believed = translated(&quoted.key, other, back, &translation).reversed();
    if believed == quoted.tuple {
        return Ok(());
    }
    let change = quote_change::<F, E>(env, quoted, at, &believed)?;
    env.correct(packet.transport + icmp::CHECKSUM, change, false, false)
        .map_err(|_| Reason::RewriteFailed)?;
    if packet.tuple.source == quoted.tuple.destination {
        let mut to = packet.tuple;
        to.source = believed.destination;
        rewrite::<F, E>(env, packet, &to, &translation)?;
    }
    Ok(())
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
    let Some((offset, optional)) = checksum_of(quoted.kind) else {
        return Ok(change);
    };
    let moved = port_change(&quoted.tuple, to);
    env.store(quoted.transport, port_words(to))
        .map_err(refused)?;
    change = change.plus(moved);
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
