//! The eBPF programs.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

use aya_ebpf::{
    macros::{classifier, map},
    maps::{Array, HashMap, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf, lpm_trie::LpmTrie},
    programs::TcContext,
};
use watari_abi::{
    Address, Config, Connection, ConnectionKey, Counter, DropKey, Endpoint, FragmentKey,
    FragmentPorts, Link, Reason, Remote, StackPort, Tally, Tuple, maps,
};

#[map(name = "endpoints")]
static ENDPOINTS: HashMap<Address, Endpoint> = HashMap::with_max_entries(maps::ENDPOINTS_MAX, 1);
#[map(name = "links")]
static LINKS: HashMap<u32, Link> = HashMap::with_max_entries(maps::LINKS_MAX, 1);
#[map(name = "remotes")]
static REMOTES: LpmTrie<Address, Remote> = LpmTrie::with_max_entries(maps::REMOTES_MAX, 1);
#[map(name = "established")]
static ESTABLISHED: HashMap<ConnectionKey, Connection> =
    HashMap::with_max_entries(maps::ESTABLISHED_MAX, 1);
#[map(name = "transient")]
static TRANSIENT: LruHashMap<ConnectionKey, Connection> =
    LruHashMap::with_max_entries(maps::TRANSIENT_MAX, 0);
#[map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts> =
    LruHashMap::with_max_entries(maps::FRAGMENTS_MAX, 0);
#[map(name = "stack_ports")]
static STACK_PORTS: LruHashMap<StackPort, u64> =
    LruHashMap::with_max_entries(maps::STACK_PORTS_MAX, 0);
#[map(name = "drop_totals")]
static DROP_TOTALS: PerCpuArray<Tally> = PerCpuArray::with_max_entries(Reason::TABLE, 0);
#[map(name = "drops_by_link")]
static DROPS_BY_LINK: LruPerCpuHashMap<DropKey, Tally> =
    LruPerCpuHashMap::with_max_entries(maps::DROPS_BY_LINK_MAX, 0);
#[map(name = "counters")]
static COUNTERS: PerCpuArray<Tally> = PerCpuArray::with_max_entries(Counter::TABLE, 0);
#[map(name = "config")]
static CONFIG: Array<Config> = Array::with_max_entries(1, 0);
#[map(name = "flow_events")]
static FLOW_EVENTS: RingBuf = RingBuf::with_byte_size(maps::FLOW_EVENTS_BYTES, 0);
#[map(name = "drop_events")]
static DROP_EVENTS: RingBuf = RingBuf::with_byte_size(maps::DROP_EVENTS_BYTES, 0);

#[inline(always)]
fn count(ctx: &TcContext) -> i32 {
    if let Some(tally) = COUNTERS.get_ptr_mut(2) {
        unsafe {
            (*tally).packets += 1;
            (*tally).bytes += u64::from(ctx.len());
        }
    }
    let (key, _) = Tuple::default().key();
    if let Some(c) = ESTABLISHED.get_ptr_mut(&key) {
        unsafe { (*c).directions[0].packets += 1 };
    }
    -1
}

#[classifier]
pub fn from_pod(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
pub fn to_pod(ctx: TcContext) -> i32 {
    count(&ctx)
}
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    count(&ctx)
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
