//! ICMP errors, and the packets that they quote.

use watari_abi::flags;
use watari_wire::{Family, V4, V6, icmp};

use crate::packet::Packet;
use crate::send::{End, refuse, seek_and_send};
use crate::track::find;
use crate::translate::rewrite_error;
use crate::{Entry, Env, Step};

/// An ICMP error goes the way of the connection whose packet it quotes; the stack has those about
/// anything else. A function of its own in the object: few packets need it.
#[inline(never)]
pub(crate) fn error<E: Env>(env: &mut E, packet: &mut Packet) -> End {
    if packet.tuple.destination.is_mapped() {
        about::<V4, E>(env, packet)
    } else {
        about::<V6, E>(env, packet)
    }
}

#[inline(always)]
fn about<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> End {
    let at = packet.transport + icmp::HEADER;
    let Some(entry) = quote::<F, E>(env, packet, at) else {
        env.step(Step::Untracked);
        return End::Stack;
    };
    if entry.flags() & flags::VIA_STACK != 0 {
        return End::Stack;
    }
    if let Err(reason) = rewrite_error::<F, E>(env, packet, &entry, at) {
        return refuse(packet, reason);
    }
    seek_and_send(env, packet)
}

/// Reads the quoted packet. `None`: it is not understood, or of no connection.
#[inline(always)]
fn quote<F: Family, E: Env>(env: &mut E, packet: &mut Packet, at: u32) -> Option<E::Entry> {
    let header: F::Header = env.load(at)?;
    F::check(&header).ok()?;
    packet.read_quoted::<F, E>(env, &header, at).ok()?;
    // Who sent it gets the error.
    if packet.quoted.tuple.source != packet.tuple.destination {
        return None;
    }
    find(env, &packet.quoted.key, packet.now)
}
