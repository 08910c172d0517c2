//! The decisions about packets of Services, as functions that the verifier looks at once and by
//! themselves.

use core::arch::asm;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::__sk_buff;
use watari_datapath::service::{self, Known, Whose};
use watari_datapath::{Packet, Way, quote, track, translate};

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

macro_rules! functions {
    ($env:ident { $field:ident: $context:ty } $($name:ident = $($path:ident)::+, $none:expr;)*) => {
        $(
            /// As the decision of that name. A global function: the verifier looks at it once and by
            /// itself. So it takes pointers as the kernel gives them there, and numbers alone come
            /// back. Keys of maps have to be on its own stack: before Linux 6.2 no other memory of a
            /// caller's may be one.
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name($field: *mut $context, packet: *mut Packet) -> u32 {
                // Who does not use its context would be called with anything in its place.
                // SAFETY: no instruction.
                unsafe { asm!("/* {0} */", in(reg) $field, options(nomem, nostack)) };
                // SAFETY: the callers lend it a `Packet`, and the verifier sees to it.
                match unsafe { packet.as_mut() } {
                    Some(packet) => $($path)::+(&mut $env { $field }, packet) as u32,
                    None => $none as u32,
                }
            }
        )*
    };
}

pub(crate) use functions;

functions! {
    Tc { skb: __sk_buff }
    watari_follow = service::follow, false;
    watari_known = service::known, Known::Nothing;
    watari_ask = service::ask, Whose::Nobody;
    watari_pick = service::pick, Way::Drop;
    watari_begin = service::begin, Way::Drop;
    watari_is_free = service::is_free, false;
    watari_answer = service::answer, false;
    watari_error = quote::error, Way::Stack;
    watari_move_alias = track::move_alias, false;
    watari_turn = translate::turn, false;
    watari_turn_sctp = translate::turn_sctp, false;
}
