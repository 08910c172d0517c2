//! The world of a program at a link: packet, tables and time as the kernel has them.

use core::ptr::addr_of_mut;

use aya_ebpf::bindings::{
    __sk_buff, BPF_ANY, BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH,
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
use watari_datapath::{Dropped, Env, Route, RouteQuery, Table, Verdict};
use watari_wire::Frame;
use zerocopy::FromZeros;

use crate::maps::{
    CLOCK, CONFIG, COUNTERS, DROP_EVENTS, DROP_TOTALS, DROPS_BY_LINK, ENDPOINTS, ESTABLISHED,
    FLOW_EVENTS, FRAGMENTS, LINKS, REMOTES, SCRATCH, STACK_PORTS, TRANSIENT,
};
use crate::tables::{Kept, tally};

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
    fn now(&self) -> u64 {
        now()
    }

    #[inline(always)]
    fn endpoint(&self, address: &Address) -> Option<&'static Endpoint> {
        // SAFETY: user space replaces entries whole, and frees none that a program still reads.
        unsafe { ENDPOINTS.get(address) }
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<&'static Link> {
        // SAFETY: as above.
        unsafe { LINKS.get(ifindex) }
    }

    #[inline(always)]
    fn remote(&self, address: &Address) -> Option<&'static Remote> {
        REMOTES.get(&Key::new(128, *address))
    }

    #[inline(always)]
    fn config(&self) -> Config {
        CONFIG.get(0).copied().unwrap_or_default()
    }

    #[inline(always)]
    fn connection(&self, table: Table, key: &ConnectionKey) -> Option<Kept> {
        match table {
            Table::Established => ESTABLISHED.get_ptr_mut(key),
            Table::Transient => TRANSIENT.get_ptr_mut(key),
        }
        .map(Kept)
    }

    #[inline(always)]
    fn open(&mut self, fill: impl FnOnce(&mut FlowEvent), event: bool) -> bool {
        let Some(place) = SCRATCH.get_ptr_mut(0) else {
            return false;
        };
        // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
        let scratch = unsafe { &mut *place };
        scratch.zero();
        fill(scratch);
        let (key, connection) = (&scratch.key, &scratch.connection);
        let made = TRANSIENT.insert(key, connection, u64::from(BPF_ANY));
        if event
            && FLOW_EVENTS
                .output_untyped::<FlowEvent>(&*scratch, QUIETLY)
                .is_err()
        {
            self.lost();
        }
        made.is_ok()
    }

    #[inline(always)]
    fn shift(&mut self, key: &ConnectionKey, entry: &Kept, to: Table) -> bool {
        // SAFETY: a map's value; the helper copies it. What other CPUs count meanwhile may be lost.
        let connection = unsafe { &*entry.0 };
        let flags = u64::from(BPF_ANY);
        match to {
            Table::Established => {
                ESTABLISHED.insert(key, connection, flags).is_ok() && {
                    self.remove(Table::Transient, key);
                    true
                }
            }
            Table::Transient => {
                TRANSIENT.insert(key, connection, flags).is_ok() && {
                    self.remove(Table::Established, key);
                    true
                }
            }
        }
    }

    #[inline(always)]
    fn remove(&mut self, table: Table, key: &ConnectionKey) {
        // It may be gone already, which is as well.
        let _ = match table {
            Table::Established => ESTABLISHED.remove(key),
            Table::Transient => TRANSIENT.remove(key),
        };
    }

    #[inline(always)]
    fn closed(&mut self, hook: Hook, key: &ConnectionKey, entry: &Kept, now: u64) {
        let Some(mut slot) = FLOW_EVENTS.reserve_untyped::<FlowEvent>(0) else {
            return self.lost();
        };
        let event: *mut FlowEvent = slot.as_mut_ptr();
        // SAFETY: the slot is ours until it is submitted; all of it is written.
        unsafe {
            addr_of_mut!((*event).time).write(now);
            addr_of_mut!((*event).kind).write(FlowEventKind::Closed as u32);
            addr_of_mut!((*event).hook).write(hook as u32);
            addr_of_mut!((*event).key).write(*key);
            addr_of_mut!((*event).connection).write(entry.0.read());
        }
        slot.submit(QUIETLY);
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<&'static FragmentPorts> {
        // SAFETY: entries are replaced whole.
        unsafe { FRAGMENTS.get(key) }
    }

    #[inline(always)]
    fn remember_fragment(&mut self, key: &FragmentKey, ports: &FragmentPorts) {
        // Without room, later fragments follow their addresses alone, and are counted.
        let _ = FRAGMENTS.insert(key, ports, u64::from(BPF_ANY));
    }

    #[inline(always)]
    fn stack_port(&self, port: &StackPort) -> Option<&'static u64> {
        // SAFETY: entries are replaced whole.
        unsafe { STACK_PORTS.get(port) }
    }

    #[inline(always)]
    fn remember_stack_port(&mut self, port: &StackPort, now: u64) {
        // The table evicts: there is room but for moments of many CPUs at once.
        let _ = STACK_PORTS.insert(port, now, u64::from(BPF_ANY));
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

/// The coarse time moves with each tick, and asking for it takes as long as half a look-up in a table,
/// while the number of the tick is read by an instruction. So each CPU asks once in a tick. What it
/// knows may be of the tick before: two CPUs differ by that much.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: a helper without arguments.
    let tick = unsafe { helpers::bpf_jiffies64() };
    let Some(place) = CLOCK.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: a map's value of this CPU, which runs no other program meanwhile.
    let clock = unsafe { &mut *place };
    if clock.tick != tick {
        // SAFETY: a helper without arguments.
        clock.now = unsafe { helpers::bpf_ktime_get_coarse_ns() };
        clock.tick = tick;
    }
    clock.now
}

/// Asks the kernel's routes.
#[inline(always)]
fn route(tc: &mut Tc, query: &RouteQuery) -> Route {
    // SAFETY: plain numbers, for which zeros are the default.
    let mut params: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    params.l4_protocol = query.protocol;
    params.ifindex = tc.ifindex();
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
        // SAFETY: a helper on a number.
        Verdict::Deliver { ifindex } => unsafe { helpers::bpf_redirect_peer(ifindex, 0) },
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
