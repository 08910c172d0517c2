//! The world of a program at a link: packet, tables and time as the kernel has them.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{
    __sk_buff, BPF_ANY, BPF_F_INGRESS, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
    BPF_FIB_LKUP_RET_SUCCESS, BPF_RB_NO_WAKEUP, TC_ACT_REDIRECT, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_fib_lookup, bpf_redir_neigh,
};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers;
use aya_ebpf::programs::TcContext;
use watari_abi::{
    Address, Config, ConnectionKey, Counter, DropEvent, DropKey, Endpoint, FlowEvent,
    FlowEventKind, FragmentKey, FragmentPorts, HEADER_BYTES, Hook, Link, Reason, Remote, StackPort,
};
use watari_datapath::service::{Known, Whose};
use watari_datapath::{Dropped, Env, Packet, Route, RouteQuery, Table, Verdict, Way};
use watari_wire::Frame;
use zerocopy::FromZeros;

use crate::balance;
use crate::maps::{
    CONFIG, COUNTERS, DROP_EVENTS, DROP_TOTALS, DROPS_BY_LINK, ENDPOINTS, ESTABLISHED, FLOW_EVENTS,
    FRAGMENTS, LINKS, REMOTES, SCRATCH, STACK_PORTS, TRANSIENT,
};
use crate::services::gives_services;
use crate::tables::{Kept, tally};
use crate::world::{gives_tables, now};

/// The agent reads the rings at its own pace: waking it would cost each packet.
const QUIETLY: u64 = BPF_RB_NO_WAKEUP as u64;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `PACKET_HOST` of `linux/if_packet.h`: for the MAC of the link.
const FOR_THIS_HOST: u32 = 0;

/// The packet at hand.
pub struct Tc {
    pub skb: *mut __sk_buff,
}

impl Tc {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self {
            skb: context.skb.skb,
        }
    }

    #[inline(always)]
    fn lost(&mut self) {
        self.count(Counter::EventsLost);
    }
}

gives_services!(Tc);

macro_rules! context {
    ($tc:expr, $field:ident) => {
        // SAFETY: the kernel gave the context, and lets programs read this field of it.
        unsafe { (*$tc.skb).$field }
    };
}

impl Env for Tc {
    type Entry = Kept;
    type Value<T: Copy + 'static> = &'static T;

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        context!(self, ifindex)
    }

    #[inline(always)]
    fn segment(&self) -> u32 {
        context!(self, gso_size)
    }

    #[inline(always)]
    fn tagged(&self) -> bool {
        context!(self, vlan_present) != 0
    }

    #[inline(always)]
    fn for_this_host(&self) -> bool {
        context!(self, pkt_type) == FOR_THIS_HOST
    }

    #[inline(always)]
    fn is_own(&self) -> bool {
        // What came in by a link has its index for as long as it lives.
        context!(self, ingress_ifindex) == 0
    }

    gives_tables!();

    #[inline(always)]
    fn cookie(&self) -> u64 {
        // SAFETY: a helper on our context. The packet keeps its socket on the way out of its pod.
        unsafe { helpers::bpf_get_socket_cookie(self.skb.cast()) }
    }

    #[inline(always)]
    fn may_refuse(&mut self, now: u64) -> bool {
        balance::may_refuse(now)
    }

    #[inline(always)]
    fn follow(&mut self, packet: &mut Packet) -> bool {
        balance::watari_follow(self.skb, packet) != 0
    }

    #[inline(always)]
    fn known(&mut self, packet: &mut Packet) -> Known {
        Known::of(balance::watari_known(self.skb, packet))
    }

    #[inline(always)]
    fn ask(&mut self, packet: &mut Packet) -> Whose {
        Whose::of(balance::watari_ask(self.skb, packet))
    }

    #[inline(always)]
    fn pick(&mut self, packet: &mut Packet) -> Way {
        Way::of(balance::watari_pick(self.skb, packet))
    }

    #[inline(always)]
    fn begin(&mut self, packet: &mut Packet) -> Way {
        Way::of(balance::watari_begin(self.skb, packet))
    }

    #[inline(always)]
    fn is_free(&mut self, packet: &mut Packet) -> bool {
        balance::watari_is_free(self.skb, packet) != 0
    }

    #[inline(always)]
    fn answer(&mut self, packet: &mut Packet) -> bool {
        balance::watari_answer(self.skb, packet) != 0
    }

    #[inline(always)]
    fn error(&mut self, packet: &mut Packet) -> Way {
        Way::of(balance::watari_error(self.skb, packet))
    }

    #[inline(always)]
    fn move_alias(&mut self, packet: &mut Packet) -> bool {
        balance::watari_move_alias(self.skb, packet) != 0
    }

    #[inline(always)]
    fn turn(&mut self, packet: &mut Packet) -> bool {
        balance::watari_turn(self.skb, packet) != 0
    }

    #[inline(always)]
    fn turn_sctp(&mut self, packet: &mut Packet) -> bool {
        balance::watari_turn_sctp(self.skb, packet) != 0
    }

    #[inline(always)]
    fn route(&mut self, query: &RouteQuery) -> Route {
        route(self, query)
    }

    #[inline(always)]
    fn count(&mut self, counter: Counter) {
        tally(COUNTERS.get_ptr_mut(counter as u32), self.length());
    }

    #[inline(always)]
    fn dropped(&mut self, dropped: &Dropped) {
        report(
            self.skb,
            dropped.reason as u32,
            dropped.hook as u32,
            dropped.rule,
        );
    }
}

/// The question to the kernel's routes.
#[inline(always)]
pub fn question(ifindex: u32, query: &RouteQuery) -> bpf_fib_lookup {
    // SAFETY: plain numbers, for which zeros are the default.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.l4_protocol = query.protocol;
    params.ifindex = ifindex;
    params.__bindgen_anon_1.tot_len = query.length;
    if query.version == 4 {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = query.source.words[3];
        params.__bindgen_anon_4.ipv4_dst = query.next_hop.words[3];
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = query.source.words;
        params.__bindgen_anon_4.ipv6_dst = query.next_hop.words;
    }
    params
}

/// Asks the kernel's routes.
#[inline(always)]
fn route(tc: &mut Tc, query: &RouteQuery) -> Route {
    let mut params = question(tc.ifindex(), query);
    let size = size_of::<bpf_fib_lookup>() as i32;
    // SAFETY: the helper reads and writes the bytes of `params` alone.
    let answer = unsafe { helpers::bpf_fib_lookup(tc.skb.cast(), addr_of_mut!(params), size, 0) };
    match u32::try_from(answer) {
        // Who has no MAC yet gets one when the packet is sent; the link is known (since 5.12).
        Ok(BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH) => Route::Via {
            ifindex: params.ifindex,
            // SAFETY: the family says which of the two the kernel wrote.
            next_hop: unsafe {
                if params.family == AF_INET {
                    Address::v4(params.__bindgen_anon_4.ipv4_dst)
                } else {
                    Address::v6(params.__bindgen_anon_4.ipv6_dst)
                }
            },
        },
        Ok(BPF_FIB_LKUP_RET_FRAG_NEEDED) => Route::TooLong,
        _ => Route::None,
    }
}

/// Counts a drop and tells of it. A function of its own in the object: the way of few packets.
#[inline(never)]
fn report(skb: *mut __sk_buff, reason: u32, hook: u32, rule: u32) -> u32 {
    let mut tc = Tc { skb };
    let (length, ifindex) = (tc.length(), tc.ifindex());
    tally_drop((ifindex, reason, hook), length);
    let Some(mut slot) = DROP_EVENTS.reserve_untyped::<DropEvent>(0) else {
        tc.lost();
        return 0;
    };
    let place: *mut DropEvent = slot.as_mut_ptr();
    // SAFETY: the slot is ours until it is submitted; zeros are an event.
    let event = unsafe {
        place.write_bytes(0, 1);
        &mut *place
    };
    event.time = now();
    event.ifindex = ifindex;
    event.length = length;
    event.reason = reason as u16;
    event.hook = hook as u8;
    event.rule = rule;
    event.captured = capture(&tc, &mut event.headers);
    slot.submit(QUIETLY);
    0
}

/// Counts a drop: link, reason and hook.
#[inline(always)]
pub fn tally_drop((ifindex, reason, hook): (u32, u32, u32), length: u32) {
    tally(DROP_TOTALS.get_ptr_mut(reason), length);
    let key = DropKey {
        ifindex,
        reason: reason as u16,
        hook: hook as u8,
        pad: 0,
    };
    let known = DROPS_BY_LINK.get_ptr_mut(key);
    if known.is_some() {
        tally(known, length);
    } else {
        let first = watari_abi::Tally {
            packets: 1,
            bytes: u64::from(length),
        };
        let _ = DROPS_BY_LINK.insert(key, first, u64::from(BPF_ANY));
    }
}

/// The first bytes of the packet. Gives how many.
#[inline(always)]
fn capture(tc: &Tc, headers: &mut [u8; HEADER_BYTES]) -> u8 {
    let mut wanted = u64::from(tc.length());
    if wanted > HEADER_BYTES as u64 {
        wanted = HEADER_BYTES as u64;
    }
    // What the verifier of Linux 6.1 learns of a number it does not learn of the 32-bit copies
    // that the compiler makes of it: so the number is a new one, of 64 bits, before it is checked.
    // SAFETY: it stays as it is.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) wanted, options(nomem, nostack)) };
    // No frame is shorter than its link header; and from `!= 0` it does not learn either that the
    // number is at least one.
    if wanted < u64::from(watari_wire::ETHERNET) || wanted > HEADER_BYTES as u64 {
        return 0;
    }
    // SAFETY: at most the bytes of `headers`, which the lines above show to the verifier too.
    let done = unsafe {
        helpers::bpf_skb_load_bytes(tc.skb.cast(), 0, headers.as_mut_ptr().cast(), wanted as u32)
    };
    if done == 0 { wanted as u8 } else { 0 }
}

/// What the kernel shall do.
#[inline(always)]
pub fn verdict(tc: &mut Tc, hook: Hook, verdict: Verdict) -> i32 {
    let done = match verdict {
        // The next program or filter of the link, and then the stack.
        Verdict::Stack | Verdict::Pass => return TC_ACT_UNSPEC,
        Verdict::Drop(_) => return TC_ACT_SHOT,
        // At the egress of a link a packet cannot be put into another namespace: it goes by the egress
        // of the pod's link.
        // SAFETY: a helper on a number.
        Verdict::Deliver { ifindex } if matches!(hook, Hook::ToUplink) => unsafe {
            helpers::bpf_redirect(ifindex, 0)
        },
        // SAFETY: as above.
        Verdict::Deliver { ifindex } => unsafe { helpers::bpf_redirect_peer(ifindex, 0) },
        // What the node itself sent comes back to it as if it entered there.
        // SAFETY: as above.
        Verdict::Answer { ifindex } => unsafe {
            let way = if matches!(hook, Hook::ToUplink) {
                u64::from(BPF_F_INGRESS)
            } else {
                0
            };
            helpers::bpf_redirect(ifindex, way)
        },
        Verdict::Forward { ifindex, next_hop } => {
            // SAFETY: plain numbers, for which zeros are the default.
            let mut params: bpf_redir_neigh = unsafe { core::mem::zeroed() };
            if next_hop.is_mapped() {
                params.nh_family = u32::from(AF_INET);
                params.__bindgen_anon_1.ipv4_nh = next_hop.words[3];
            } else {
                params.nh_family = u32::from(AF_INET6);
                params.__bindgen_anon_1.ipv6_nh = next_hop.words;
            }
            let size = size_of::<bpf_redir_neigh>() as i32;
            // SAFETY: the helper reads the bytes of `params` alone.
            unsafe { helpers::bpf_redirect_neigh(ifindex, addr_of_mut!(params), size, 0) }
        }
    };
    if done == i64::from(TC_ACT_REDIRECT) {
        return TC_ACT_REDIRECT;
    }
    tc.dropped(&Dropped {
        reason: Reason::RedirectFailed,
        hook,
        rule: 0,
    });
    TC_ACT_SHOT
}
