//! The answer to what nobody takes: a reset of TCP (RFC 9293 section 3.5.2), or the ICMP error that
//! says so (RFC 792, RFC 4443 section 3.1). It is made of the packet itself, and goes back the way
//! that the packet came.

use watari_wire::{ETHERNET, Family, Kind, Refused, Sum, V4, V6, icmp, protocol, tcp};

use crate::Env;
use crate::packet::{Packet, Part};

/// Bytes of a packet that an error quotes, at most: headers of IP, and enough behind them for a
/// receiver to find whose it was.
const QUOTE: u32 = 128;
/// Of these the least: the header of IP and eight bytes.
const LEAST: u32 = 8;

/// Makes an answer of the packet. False: it may not be answered, or not now; it is as it was, or of
/// no use to anybody.
#[inline(always)]
pub fn answer<E: Env>(env: &mut E, packet: &mut Packet) -> bool {
    let done = if packet.tuple.destination.is_mapped() {
        respond::<V4, E>(env, packet)
    } else {
        respond::<V6, E>(env, packet)
    };
    done.is_ok()
}

#[inline(never)]
fn respond<F: Family, E: Env>(env: &mut E, packet: &Packet) -> Result<(), Refused> {
    let source = &packet.tuple.source;
    // RFC 1122 section 3.2.2: nobody in particular gets no answer.
    if F::is_group(source) || F::is_local(source) {
        return Err(Refused);
    }
    let resets = match (packet.kind, packet.part) {
        (Kind::Tcp, Part::Whole) if packet.control & tcp::RST == 0 => true,
        (Kind::Udp | Kind::Sctp | Kind::EchoRequest | Kind::Other, Part::Whole | Part::First) => {
            false
        }
        _ => return Err(Refused),
    };
    if !env.may_refuse(packet.now) {
        return Err(Refused);
    }
    if resets {
        reset::<F, E>(env, packet)?;
    } else {
        unreachable::<F, E>(env, packet)?;
    }
    turn_macs(env)
}

#[inline(always)]
fn turn_macs<E: Env>(env: &mut E) -> Result<(), Refused> {
    let [to, from]: [[u16; 3]; 2] = env.fixed(0).ok_or(Refused)?;
    env.store_fixed(0, [from, to])
}

/// Words of a header of TCP.
type Header = [u32; 5];

#[inline(always)]
fn reset<F: Family, E: Env>(env: &mut E, packet: &Packet) -> Result<(), Refused> {
    let at = packet.transport;
    let [ports, sequence, acknowledged, _, last]: Header = env.load(at).ok_or(Refused)?;
    let header: F::Header = env.fixed(ETHERNET).ok_or(Refused)?;
    let before = packet.end.wrapping_sub(at);
    let [checksum, _]: [u16; 2] = halves(last);
    // What it acknowledges says where its sender expects the next byte; else it is acknowledged.
    let (sequence, acknowledged, flags) = if packet.control & tcp::ACK != 0 {
        (acknowledged, 0, tcp::RST)
    } else {
        let bit = |flag| u32::from(packet.control & flag != 0);
        let length = before.wrapping_sub(u32::from(packet.header)) + bit(tcp::SYN) + bit(tcp::FIN);
        let next = u32::from_be(sequence).wrapping_add(length).to_be();
        (0, next, tcp::RST | tcp::ACK)
    };
    let [source, destination] = halves(ports);
    let ports = u32::from_ne_bytes(join(destination, source));
    let kind = u32::from_ne_bytes([0x50, flags, 0, 0]);
    let after = TCP;
    env.resize(at + after)?;
    F::turn(env, &header, at + after - ETHERNET)?;
    let words = [ports, sequence, acknowledged, kind];
    env.store(at, words)?;
    env.store(at + 18, 0_u16)?;
    // Where the NIC finishes the sum, only the length of the pseudo header counts. Else all of the
    // sum is another, which is told as the difference to what stands there.
    let length = Sum::ZERO.minus32(before.to_be()).plus32(after.to_be());
    env.correct(at + 16, length, true, false)?;
    let mut whole = pseudo(packet, protocol::TCP, after);
    for word in words {
        whole = whole.plus32(word);
    }
    let standing = length.plus16(!checksum).folded();
    env.correct(at + 16, whole.minus16(standing), false, false)
}

/// Bytes of a header of TCP without options.
const TCP: u32 = 20;

#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}

#[inline(always)]
const fn join(first: u16, second: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d]
}

/// What a checksum covers beside the packet; the order of the addresses does not matter.
#[inline(always)]
const fn pseudo(packet: &Packet, number: u8, length: u32) -> Sum {
    let mut sum = Sum::ZERO
        .plus16((number as u16).to_be())
        .plus32(length.to_be());
    let (source, destination) = (&packet.tuple.source, &packet.tuple.destination);
    if packet.tuple.source.is_mapped() {
        return sum.plus32(source.words[3]).plus32(destination.words[3]);
    }
    let mut at = 0;
    while at < 4 {
        sum = sum.plus32(source.words[at]).plus32(destination.words[at]);
        at += 1;
    }
    sum
}

#[inline(always)]
fn unreachable<F: Family, E: Env>(env: &mut E, packet: &Packet) -> Result<(), Refused> {
    let mut quote = packet.end.wrapping_sub(ETHERNET);
    if quote < F::HEADER + LEAST {
        return Err(Refused);
    }
    if quote > QUOTE {
        quote = QUOTE;
    }
    // Whole words, for the sum.
    quote &= !3;
    env.resize(ETHERNET + quote)?;
    let mut sum = Sum::ZERO;
    let mut at = 0;
    while at < QUOTE / 4 {
        if at * 4 >= quote {
            break;
        }
        let word: u32 = env.load(ETHERNET + at * 4).ok_or(Refused)?;
        sum = sum.plus32(word);
        at += 1;
    }
    env.make_room(F::HEADER + icmp::HEADER)?;
    let (source, destination) = (&packet.tuple.destination, &packet.tuple.source);
    let length = icmp::HEADER + quote;
    let (kind, code) = F::UNREACHABLE;
    let first = u16::from_ne_bytes([kind, code]);
    sum = sum.plus16(first);
    if F::ICMP_COVERS_ADDRESSES {
        sum = sum.plus(pseudo(packet, F::ICMP, length));
    }
    env.store(ETHERNET, F::header(source, destination, F::ICMP, length))?;
    env.store(ETHERNET + F::HEADER, [first, sum.checksum(), 0, 0])
}
