//! The maps, by the names and sizes of `watari_abi::maps`.

use aya_ebpf::btf_maps::LpmTrie;
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, LruPerCpuHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use watari_abi::{
    Address, Config, Connection, ConnectionKey, Counter, DropKey, Endpoint, FlowEvent, FragmentKey,
    FragmentPorts, Link, Reason, Remote, StackPort, Tally, maps,
};
use watari_datapath::Packet;

const NO_PREALLOC: usize = aya_ebpf::bindings::BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<Address, Endpoint, { maps::ENDPOINTS_MAX as usize }, NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "links")]
pub static LINKS: HashMap<u32, Link, { maps::LINKS_MAX as usize }, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "remotes")]
pub static REMOTES: LpmTrie<Address, Remote, { maps::REMOTES_MAX as usize }> = LpmTrie::new();

#[btf_map(name = "established")]
pub static ESTABLISHED: HashMap<
    ConnectionKey,
    Connection,
    { maps::ESTABLISHED_MAX as usize },
    NO_PREALLOC,
> = HashMap::new();

#[btf_map(name = "transient")]
pub static TRANSIENT: LruHashMap<ConnectionKey, Connection, { maps::TRANSIENT_MAX as usize }> =
    LruHashMap::new();

#[btf_map(name = "fragments")]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentPorts, { maps::FRAGMENTS_MAX as usize }> =
    LruHashMap::new();

#[btf_map(name = "stack_ports")]
pub static STACK_PORTS: LruHashMap<StackPort, u64, { maps::STACK_PORTS_MAX as usize }> =
    LruHashMap::new();

#[btf_map(name = "drop_totals")]
pub static DROP_TOTALS: PerCpuArray<Tally, { Reason::TABLE as usize }> = PerCpuArray::new();

#[btf_map(name = "drops_by_link")]
pub static DROPS_BY_LINK: LruPerCpuHashMap<DropKey, Tally, { maps::DROPS_BY_LINK_MAX as usize }> =
    LruPerCpuHashMap::new();

#[btf_map(name = "counters")]
pub static COUNTERS: PerCpuArray<Tally, { Counter::TABLE as usize }> = PerCpuArray::new();

#[btf_map(name = "config")]
pub static CONFIG: Array<Config, 1> = Array::new();

#[btf_map(name = "flow_events")]
pub static FLOW_EVENTS: RingBuf<(), { maps::FLOW_EVENTS_BYTES as usize }> = RingBuf::new();

#[btf_map(name = "drop_events")]
pub static DROP_EVENTS: RingBuf<(), { maps::DROP_EVENTS_BYTES as usize }> = RingBuf::new();

/// Where a new connection and its event are put together: too large for the stack.
#[btf_map(name = "scratch")]
pub static SCRATCH: PerCpuArray<FlowEvent, 1> = PerCpuArray::new();

/// Where the packet at hand is taken apart.
#[btf_map(name = "packet")]
pub static PACKET: PerCpuArray<Packet, 1> = PerCpuArray::new();

/// The time, as this CPU last asked for it.
#[btf_map(name = "clock")]
pub static CLOCK: PerCpuArray<Clock, 1> = PerCpuArray::new();

/// A tick of the kernel, and when it was.
#[repr(C)]
pub struct Clock {
    /// `jiffies_64`. Zero for none yet: the kernel begins to count five minutes short of 2^32.
    pub tick: u64,
    /// In ns of `CLOCK_MONOTONIC`.
    pub now: u64,
}
