//! ICMP errors, and the packets that they quote.

use watari_abi::{Flow, Hook, Translation, Tuple, flags};
use watari_wire::{Family, V4, V6, icmp};

use crate::packet::Packet;
use crate::service::is_near;
use crate::track::{Way, find, flow_of};
use crate::translate::rewrite_error;
use crate::{Entry, Env, Step};

/// An ICMP error goes the way of the connection whose packet it quotes; the stack has those about
/// anything else.
#[inline(always)]
pub fn error<E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    if packet.tuple.destination.is_mapped() {
        about::<V4, E>(env, packet)
    } else {
        about::<V6, E>(env, packet)
    }
}

#[inline(always)]
fn about<F: Family, E: Env>(env: &mut E, packet: &mut Packet) -> Way {
    let at = packet.transport + icmp::HEADER;
    let Some(entry) = quote::<F, E>(env, packet, at) else {
        env.step(Step::Untracked);
        return Way::Stack;
    };
    let bits = entry.flags();
    if bits & flags::VIA_STACK != 0 {
        return Way::Stack;
    }
    let flow = flow_of(bits, packet.quoted.side);
    let translation = entry.translation();
    // What the receiver sent, as it knows it.
    let believed = translation.tuple(packet.quoted.tuple.protocol);
    let done = if bits & flags::ALIAS != 0 {
        // About an answer that was translated back.
        if flow == Flow::Original || !leads(env, packet, &believed) {
            return Way::Stack;
        }
        rewrite_error::<F, E>(env, packet, &believed.reversed(), at)
    } else if Translation::rewrites(translation.kind) && flow == Flow::Original {
        packet.beyond = true;
        rewrite_error::<F, E>(env, packet, &believed, at)
    } else {
        Ok(())
    };
    if let Err(reason) = done {
        packet.reason = reason as u16;
        return Way::Drop;
    }
    packet.beyond |= bits & flags::ALIAS != 0 && packet.hook == Hook::FromUplink as u8;
    Way::Direct
}

/// Whether an alias still leads to a connection of its own.
#[inline(always)]
fn leads<E: Env>(env: &mut E, packet: &Packet, far: &Tuple) -> bool {
    let near = packet.quoted.tuple.reversed();
    let (key, _) = far.key();
    find(env, &key, packet.now).is_some_and(|entry| is_near(&entry, &near, packet.now))
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
    // On the stack: of a function of its own in the kernel no other memory is a key.
    let key = packet.quoted.key;
    find(env, &key, packet.now)
}
