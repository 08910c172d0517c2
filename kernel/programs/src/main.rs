//! The eBPF programs: thin hooks around the decisions of `watari_datapath`.
//!
//! Compiled for `bpfel-unknown-none` alone. This is the only room of `kernel/` with unsafe code: the
//! kernel's pointers are made into the safe `Env` here.
#![no_std]
#![no_main]
#![allow(unsafe_code, reason = "the kernel's pointers become values here")]
#![allow(
    clippy::inline_always,
    reason = "a call would cost stack and what the compiler knows of its arguments"
)]
#![feature(asm_experimental_arch)]

mod maps;
mod packet;
mod tables;
mod tc;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use watari_abi::Hook;
use watari_datapath::{self as datapath, Packet, Verdict};

use crate::maps::PACKET;
use crate::tc::{Tc, verdict};

/// Ingress of a pod's host-side link.
#[classifier]
pub fn from_pod(context: TcContext) -> i32 {
    run(&context, Hook::FromPod, datapath::from_pod)
}

/// Egress of a pod's host-side link.
#[classifier]
pub fn to_pod(context: TcContext) -> i32 {
    run(&context, Hook::ToPod, datapath::to_pod)
}

/// Ingress of an uplink.
#[classifier]
pub fn from_uplink(context: TcContext) -> i32 {
    run(&context, Hook::FromUplink, datapath::from_uplink)
}

/// Decides about the packet, and says so to the kernel.
#[inline(always)]
fn run(
    context: &TcContext,
    hook: Hook,
    decide: impl FnOnce(&mut Tc, &mut Packet) -> Verdict,
) -> i32 {
    let mut env = Tc::new(context);
    let Some(place) = PACKET.get_ptr_mut(0) else {
        return TC_ACT_UNSPEC;
    };
    // SAFETY: a map's value of this CPU, which runs no other program meanwhile. It began as zeros,
    // which are a `Packet`.
    let packet = unsafe { &mut *place };
    let decided = decide(&mut env, packet);
    verdict(&mut env, hook, decided)
}

/// Nothing may call it: the build refuses an object in which something does.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Some helpers are for programs under the GPL alone; the source is under it, or MIT, as you like.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
