//! A connection in its map, and the counters.

use core::arch::asm;
use core::ptr::addr_of_mut;

use watari_abi::{Connection, Direction, Flow, Tally, Translation};
use watari_datapath::Entry;

/// A connection in its map. Its memory stays for as long as the program runs, though it may become
/// another connection's when this one is removed meanwhile.
#[derive(Clone, Copy)]
pub struct Kept(pub *mut Connection);

/// Adds, whatever other CPUs do to the same word.
///
/// # Safety
/// `place` is an aligned word in a map's value.
#[inline(always)]
unsafe fn add(place: *mut u64, value: u64) {
    // The target has no atomics in `core`.
    // SAFETY: an aligned word that may be written, as the caller promises.
    unsafe { asm!("lock *(u64 *)({p} + 0) += {v}", p = in(reg) place, v = in(reg) value) }
}

macro_rules! field {
    ($get:ident, $set:ident, $field:ident, $type:ty) => {
        #[inline(always)]
        fn $get(&self) -> $type {
            // SAFETY: a field of a map's value; other CPUs write it whole.
            unsafe { addr_of_mut!((*self.0).$field).read_volatile() }
        }

        #[inline(always)]
        fn $set(&self, value: $type) {
            // SAFETY: as above.
            unsafe { addr_of_mut!((*self.0).$field).write_volatile(value) }
        }
    };
}

impl Kept {
    #[inline(always)]
    fn direction(&self, flow: Flow) -> *mut Direction {
        // SAFETY: inside of the value.
        unsafe {
            match flow {
                Flow::Original => addr_of_mut!((*self.0).directions[0]),
                Flow::Reply => addr_of_mut!((*self.0).directions[1]),
            }
        }
    }
}

impl Entry for Kept {
    field!(expires, set_expires, expires, u64);
    field!(flags, set_flags, flags, u16);
    field!(state, set_state, state, u8);
    field!(closed, set_closed, closed, u8);

    #[inline(always)]
    fn has(&self, flow: Flow) -> bool {
        // SAFETY: a field of a map's value.
        unsafe { (*self.direction(flow)).first != 0 }
    }

    #[inline(always)]
    fn translation_kind(&self) -> u8 {
        // SAFETY: a field of a map's value.
        unsafe { (*self.0).translation.kind }
    }

    #[inline(always)]
    fn translation(&self) -> Translation {
        // SAFETY: a field of a map's value, which is not written after it was made.
        unsafe { (*self.0).translation }
    }

    #[inline(always)]
    fn add(&self, flow: Flow, bytes: u32, now: u64, tcp_flags: u8) {
        let direction = self.direction(flow);
        // SAFETY: fields of a map's value. Two CPUs may both find `first` empty, or one miss a flag
        // that the other adds: the times are those of two packets at once, and the flag is added
        // by the next packet that has it.
        unsafe {
            add(addr_of_mut!((*direction).packets), 1);
            add(addr_of_mut!((*direction).bytes), u64::from(bytes));
            (*direction).last = now;
            if (*direction).first == 0 {
                (*direction).first = now;
            }
            let seen = (*direction).tcp_flags;
            if seen | tcp_flags != seen {
                (*direction).tcp_flags = seen | tcp_flags;
            }
        }
    }
}

/// Counts a packet in a tally of this CPU.
#[inline(always)]
pub fn tally(place: Option<*mut Tally>, bytes: u32) {
    if let Some(place) = place {
        // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
        unsafe {
            (*place).packets += 1;
            (*place).bytes += u64::from(bytes);
        }
    }
}
