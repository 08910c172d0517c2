//! The decisions about packets of Services, as functions that the verifier looks at once and by
//! themselves.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::__sk_buff;
use watari_abi::Hook;
use watari_datapath::{Packet, Way, service};

use crate::maps::REFUSALS;
use crate::tc::Tc;

/// Packets that a CPU refuses with an answer in a second; as many as Linux sends ICMP errors.
const REFUSALS_A_SECOND: u64 = 1000;

/// Whether this CPU has answered few enough in this second.
#[inline(always)]
pub fn may_refuse(now: u64) -> bool {
    let Some(place) = REFUSALS.get_ptr_mut(0) else {
        return false;
    };
    let second = now / 1_000_000_000;
    // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
    unsafe {
        if (*place).second != second {
            addr_of_mut!((*place).second).write(second);
            addr_of_mut!((*place).count).write(0);
        }
        (*place).count += 1;
        (*place).count <= REFUSALS_A_SECOND
    }
}

macro_rules! function {
    ($(#[$doc:meta])* $name:ident($skb:ident, $packet:ident $(, $hook:ident)?) $body:expr, $none:expr) => {
        $(#[$doc])*
        ///
        /// A global function: the verifier looks at it once and by itself. So it takes pointers as
        /// the kernel gives them there, and numbers alone come back. Keys of maps have to be on its
        /// own stack: before Linux 6.2 no other memory of a caller's may be one.
        #[unsafe(no_mangle)]
        #[inline(never)]
        pub extern "C" fn $name(skb: *mut __sk_buff, packet: *mut Packet $(, $hook: u32)?) -> u32 {
            // SAFETY: the callers lend it a `Packet`, and the verifier sees to it.
            let Some($packet) = (unsafe { packet.as_mut() }) else {
                return $none as u32;
            };
            let $skb = &mut Tc { skb };
            $(let $hook = hook_of($hook);)?
            $body as u32
        }
    };
}

/// The hook of that number; the first for none, which no caller names.
#[inline(always)]
const fn hook_of(number: u32) -> Hook {
    match Hook::of(number as u8) {
        Some(hook) => hook,
        None => Hook::FromPod,
    }
}

function! {
    /// As [`service::follow`].
    watari_follow(tc, packet) service::follow(tc, packet), false
}

function! {
    /// As [`service::serve`].
    watari_serve(tc, packet, hook) service::serve(tc, packet, hook), Way::Stack
}

function! {
    /// As [`service::visit`].
    watari_visit(tc, packet, hook) service::visit(tc, packet, hook), Way::Stack
}

function! {
    /// As [`service::answer`].
    watari_answer(tc, packet) service::answer(tc, packet), false
}
