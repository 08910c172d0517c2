//! The world of the program at a driver: no `sk_buff` is there yet, so bytes are read and written where
//! they are, and checksums are ours to correct.

use core::arch::asm;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{
    BPF_ANY, BPF_FIB_LKUP_RET_SUCCESS, BPF_RB_NO_WAKEUP, bpf_fib_lookup,
    xdp_action::{XDP_DROP, XDP_PASS, XDP_TX},
    xdp_md,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers;
use watari_abi::{
    Address, Config, ConnectionKey, Counter, Endpoint, FlowEvent, FlowEventKind, FragmentKey,
    FragmentPorts, Hook, Link, Remote, StackPort,
};
use watari_datapath::service::{self, Known, Whose};
use watari_datapath::{
    Driver, Dropped, Early, Env, Hop, Packet, Peeked, Route, RouteQuery, Table, Way, early, track,
    translate,
};
use watari_wire::{Frame, Outcome, Refused, Sum, Walk};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

use crate::balance::functions;
use crate::maps::{
    CONFIG, COUNTERS, ENDPOINTS, ESTABLISHED, FLOW_EVENTS, FRAGMENTS, LINKS, REMOTES, SCRATCH,
    STACK_PORTS, TRANSIENT,
};
use crate::services::gives_services;
use crate::tables::{Kept, tally};
use crate::tc::{question, tally_drop};
use crate::world::gives_tables;

/// The agent reads the rings at its own pace.
const QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

/// No header that is looked at begins later in a packet.
const FARTHEST: u64 = 0x1fff;

/// The packet at hand.
pub struct Xdp {
    pub md: *mut xdp_md,
}

impl Xdp {
    #[inline(always)]
    fn lost(&mut self) {
        self.count(Counter::EventsLost);
    }

    /// Where the packet begins and ends. They are pointers, in 64 bits, though the context has 32 for
    /// each: what the compiler would keep in 32 the verifier refuses.
    #[inline(always)]
    fn ends(&self) -> (usize, usize) {
        let (begin, end): (u64, u64);
        // SAFETY: reads of `data` and `data_end` are what the context is for.
        unsafe {
            asm!("{0} = *(u32 *)({1} + 0)", out(reg) begin, in(reg) self.md, options(nostack));
            asm!("{0} = *(u32 *)({1} + 4)", out(reg) end, in(reg) self.md, options(nostack));
        }
        (begin as usize, end as usize)
    }

    /// Where a value of that size stands at an offset that is known when this is compiled.
    #[inline(always)]
    fn within<T>(&self, offset: u32) -> Option<*mut T> {
        let (data, end) = self.ends();
        let offset = offset as usize;
        if data + offset + size_of::<T>() > end {
            return None;
        }
        Some((data + offset) as *mut T)
    }

    /// The same at any offset.
    #[inline(always)]
    fn anywhere<T>(&self, offset: u32) -> Option<*mut T> {
        let (data, end) = self.ends();
        let mut offset = u64::from(offset);
        // A number of its own, so that the verifier knows of the one that is added what is known of
        // the one that was compared.
        // SAFETY: it stays as it is.
        unsafe { asm!("{0} = {0}", inout(reg) offset, options(nomem, nostack)) };
        if offset > FARTHEST {
            return None;
        }
        let mut place = data + offset as usize;
        // And the place is computed once.
        // SAFETY: as above.
        unsafe { asm!("{0} = {0}", inout(reg) place, options(nomem, nostack)) };
        if place + size_of::<T>() > end {
            return None;
        }
        Some(place as *mut T)
    }
}

gives_services!(Xdp);

impl Frame for Xdp {
    #[inline(always)]
    fn length(&self) -> u32 {
        let (data, end) = self.ends();
        let mut length = end - data;
        // Pointers are subtracted in 64 bits.
        // SAFETY: it stays as it is.
        unsafe { asm!("{0} = {0}", inout(reg) length, options(nomem, nostack)) };
        length as u32
    }

    #[inline(always)]
    fn fixed<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        // SAFETY: inside the packet, and any bytes are a `T`; as for alignment see `packet.rs`.
        self.within::<T>(offset)
            .map(|place| unsafe { place.read() })
    }

    #[inline(always)]
    fn load<T: FromBytes + Copy>(&self, offset: u32) -> Option<T> {
        // SAFETY: as above.
        self.anywhere::<T>(offset)
            .map(|place| unsafe { place.read() })
    }

    #[inline(always)]
    fn store_fixed<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        let place = self.within::<T>(offset).ok_or(Refused)?;
        // SAFETY: inside the packet, which is the driver's page, and ours until we return.
        unsafe { place.write(value) };
        Ok(())
    }

    #[inline(always)]
    fn store<T: IntoBytes + Immutable + Copy>(
        &mut self,
        offset: u32,
        value: T,
    ) -> Result<(), Refused> {
        let place = self.anywhere::<T>(offset).ok_or(Refused)?;
        // SAFETY: as above.
        unsafe { place.write(value) };
        Ok(())
    }

    /// Packets with extension headers are not for here.
    #[inline(always)]
    fn walk(&self, _: &mut Walk) -> Outcome {
        Outcome::Malformed
    }

    /// Nothing is answered here.
    #[inline(always)]
    fn resize(&mut self, _: u32) -> Result<(), Refused> {
        Err(Refused)
    }

    #[inline(always)]
    fn make_room(&mut self, _: u32) -> Result<(), Refused> {
        Err(Refused)
    }

    /// No sum over the packet is kept here.
    #[inline(always)]
    fn uncompensated(&mut self, _: Sum) {}

    /// As `bpf_l4_csum_replace` does it for a checksum that is complete, as all are that came by a wire.
    #[inline(always)]
    fn correct(
        &mut self,
        offset: u32,
        difference: Sum,
        _: bool,
        optional: bool,
    ) -> Result<(), Refused> {
        let before: u16 = self.load(offset).ok_or(Refused)?;
        if optional && before == 0 {
            return Ok(());
        }
        let after = match difference.correct(before) {
            0 if optional => u16::MAX,
            after => after,
        };
        self.store(offset, after)
    }
}

impl Env for Xdp {
    type Entry = Kept;
    type Value<T: Copy + 'static> = &'static T;

    gives_tables!();

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        // SAFETY: as in `ends`.
        unsafe { (*self.md).ingress_ifindex }
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        0
    }

    /// A tag that the NIC took off is not seen here; one that it left is another type of frame.
    #[inline(always)]
    fn tagged(&self) -> bool {
        false
    }

    /// Nobody knows before the way is known: see `hop`.
    #[inline(always)]
    fn for_this_host(&self) -> bool {
        true
    }

    #[inline(always)]
    fn is_own(&self) -> bool {
        false
    }

    #[inline(always)]
    fn cookie(&self) -> u64 {
        0
    }

    /// Whoever is refused is so by the program at the link.
    #[inline(always)]
    fn may_refuse(&mut self, _: u64) -> bool {
        false
    }

    #[inline(always)]
    fn follow(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_follow(self.md, packet) != 0
    }

    #[inline(always)]
    fn known(&mut self, packet: &mut Packet) -> Known {
        Known::of(watari_xdp_known(self.md, packet))
    }

    #[inline(always)]
    fn ask(&mut self, packet: &mut Packet) -> Whose {
        Whose::of(watari_xdp_ask(self.md, packet))
    }

    #[inline(always)]
    fn pick(&mut self, packet: &mut Packet) -> Way {
        Way::of(watari_xdp_pick(self.md, packet))
    }

    #[inline(always)]
    fn begin(&mut self, packet: &mut Packet) -> Way {
        Way::of(watari_xdp_begin(self.md, packet))
    }

    #[inline(always)]
    fn is_free(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_is_free(self.md, packet) != 0
    }

    #[inline(always)]
    fn move_alias(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_move_alias(self.md, packet) != 0
    }

    #[inline(always)]
    fn turn(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_turn(self.md, packet) != 0
    }

    #[inline(always)]
    fn turn_sctp(&mut self, _: &mut Packet) -> bool {
        false
    }

    #[inline(always)]
    fn route(&mut self, _: &RouteQuery) -> Route {
        Route::None
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        tally(COUNTERS.get_ptr_mut(counter as u32), self.length());
    }

    #[inline(always)]
    fn dropped(&mut self, dropped: &Dropped) {
        let key = (self.ifindex(), dropped.reason as u32, dropped.hook as u32);
        tally_drop(key, self.length());
    }
}

impl Driver for Xdp {
    #[inline(always)]
    fn hop(&mut self, query: &RouteQuery) -> Option<Hop> {
        let ifindex = self.ifindex();
        let mut params = question(ifindex, query);
        let size = size_of::<bpf_fib_lookup>() as i32;
        // SAFETY: the helper reads and writes the bytes of `params` alone.
        let answer =
            unsafe { helpers::bpf_fib_lookup(self.md.cast(), addr_of_mut!(params), size, 0) };
        // Who has no MAC yet gets one from the stack. And nothing says whether another link sends
        // what a driver gives it.
        if answer != i64::from(BPF_FIB_LKUP_RET_SUCCESS) || params.ifindex != ifindex {
            return None;
        }
        // The frame is for this link if it is for the MAC that the answer would be from.
        let own: [u16; 3] = zerocopy::transmute!(params.smac);
        if self.fixed::<[u16; 3]>(0)? != own {
            return None;
        }
        Some(Hop {
            ifindex,
            to: params.dmac,
            from: params.smac,
        })
    }

    #[inline(always)]
    fn read(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_read(self.md, packet) != 0
    }

    #[inline(always)]
    fn peek(&mut self, packet: &mut Packet) -> Peeked {
        Peeked::of(watari_xdp_peek(self.md, packet))
    }

    #[inline(always)]
    fn start(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_start(self.md, packet) != 0
    }

    #[inline(always)]
    fn look_ahead(&mut self, packet: &mut Packet) -> bool {
        watari_xdp_look_ahead(self.md, packet) != 0
    }
}

functions! {
    Xdp { md: xdp_md }
    watari_xdp_ask = service::ask, Whose::Nobody;
    watari_xdp_pick = service::pick, Way::Drop;
    watari_xdp_begin = service::begin, Way::Drop;
    watari_xdp_is_free = service::is_free, false;
    watari_xdp_move_alias = track::move_alias, false;
    watari_xdp_turn = translate::turn, false;
    watari_xdp_follow = service::follow, false;
    watari_xdp_known = service::known, Known::Nothing;
    watari_xdp_read = early::read, false;
    watari_xdp_peek = early::peek, Peeked::Pass;
    watari_xdp_start = early::start, false;
    watari_xdp_look_ahead = early::look_ahead, false;
}

/// What the kernel shall do.
#[inline(always)]
pub const fn verdict(verdict: Early) -> u32 {
    match verdict {
        Early::Pass => XDP_PASS,
        Early::Back => XDP_TX,
        Early::Drop => XDP_DROP,
    }
}
