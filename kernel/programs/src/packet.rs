//! The bytes of the packet.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::{
    bpf_csum_update, bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use watari_wire::{Frame, Outcome, Refused, Sum, Walk};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::tc::Tc;

/// Where a value of that size stands in the linear part of the packet, if it is all there.
///
/// The verifier wants just this: the offset added to `data`, the end compared with `data_end`.
#[inline(always)]
fn within<T>(skb: *const __sk_buff, offset: u32) -> Option<*mut T> {
    // SAFETY: the kernel gave the context, and reads of its fields are what it is for.
    let (data, end) = unsafe { ((*skb).data as usize, (*skb).data_end as usize) };
    let offset = offset as usize;
    if data + offset + size_of::<T>() > end {
        return None;
    }
    Some((data + offset) as *mut T)
}

#[inline(always)]
fn load_bytes<T: FromBytes>(skb: *const __sk_buff, offset: u32) -> Option<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes at most the bytes of `value`, and all of them when it succeeds;
    // any bytes are a `T`.
    unsafe {
        let size = size_of::<T>() as u32;
        match bpf_skb_load_bytes(skb.cast(), offset, value.as_mut_ptr().cast(), size) {
            0 => Some(value.assume_init()),
            _ => None,
        }
    }
}

#[inline(always)]
fn store_bytes<T: IntoBytes + Immutable>(
    skb: *mut __sk_buff,
    offset: u32,
    value: &T,
) -> Result<(), Refused> {
    let size = size_of::<T>() as u32;
    // SAFETY: the helper reads the bytes of `value` alone, and checks the offset.
    let done =
        unsafe { bpf_skb_store_bytes(skb, offset, core::ptr::from_ref(value).cast(), size, 0) };
    if done == 0 { Ok(()) } else { Err(Refused) }
}

impl Frame for Tc {
    #[inline(always)]
    fn length(&self) -> u32 {
        // SAFETY: as in `within`.
        unsafe { (*self.skb).len }
    }

    #[inline(always)]
    fn fixed<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        match within::<T>(self.skb, offset) {
            // SAFETY: `within` found it inside the packet; any bytes are a `T`. The place need not be
            // aligned as a `T` is; this target has no loads that mind, and an unaligned read would
            // become one load for each byte. The verifier judges the loads that come of it.
            Some(place) => Some(unsafe { place.read() }),
            None => load_bytes(self.skb, offset),
        }
    }

    #[inline(always)]
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        load_bytes(self.skb, offset)
    }

    #[inline(always)]
    fn store_fixed<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        match within::<T>(self.skb, offset) {
            Some(place) => {
                // SAFETY: `within` found it inside the packet, which the kernel has made ours
                // alone: it does so for a program that writes. For alignment see `fixed`.
                unsafe { place.write(value) };
                Ok(())
            }
            None => store_bytes(self.skb, offset, &value),
        }
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        store_bytes(self.skb, offset, &value)
    }

    #[inline(always)]
    fn walk(&self, walk: &mut Walk) -> Outcome {
        Outcome::of(watari_walk(self.skb, walk))
    }

    #[inline(always)]
    fn uncompensated(&mut self, difference: Sum) {
        // SAFETY: a helper on our context. It fails where there is no such sum, which is right.
        unsafe { bpf_csum_update(self.skb, difference.wide()) };
    }

    #[inline(always)]
    fn correct(
        &mut self,
        offset: u32,
        difference: Sum,
        pseudo: bool,
        optional: bool,
    ) -> Result<(), Refused> {
        let mut flags = 0;
        if pseudo {
            flags |= u64::from(BPF_F_PSEUDO_HDR);
        }
        if optional {
            flags |= u64::from(BPF_F_MARK_MANGLED_0);
        }
        let change = u64::from(difference.wide());
        // SAFETY: a helper on our context, which checks the offset. A size of zero in the flags
        // says that `to` is a difference.
        let done = unsafe { bpf_l4_csum_replace(self.skb, offset, 0, change, flags) };
        if done == 0 { Ok(()) } else { Err(Refused) }
    }
}

/// Goes along the extension headers; gives an [`Outcome`].
///
/// A global function: the verifier looks at it once and by itself, not for each of the many states
/// in which it is called. So it takes pointers as the kernel gives them there, null or to as much
/// as their type says, and numbers alone come back.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn watari_walk(skb: *mut __sk_buff, walk: *mut Walk) -> u32 {
    // SAFETY: the only caller lends it a `Walk`, and the verifier sees to it.
    match unsafe { walk.as_mut() } {
        Some(walk) => walk.run(&Tc { skb }) as u32,
        None => Outcome::Malformed as u32,
    }
}
