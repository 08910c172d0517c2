//! The maps by name, with their keys, values and sizes. A name is at most 15 bytes long, as the
//! kernel keeps it. The programs declare them, user space opens them, both by these.

/// [`Address`](crate::Address) → [`Endpoint`](crate::Endpoint): hash. Pods of this node.
pub const ENDPOINTS: &str = "endpoints";
/// Entries of [`ENDPOINTS`].
pub const ENDPOINTS_MAX: u32 = 8192;

/// `u32` index of a host-side link → [`Link`](crate::Link): hash.
pub const LINKS: &str = "links";
/// Entries of [`LINKS`].
pub const LINKS_MAX: u32 = 4096;

/// [`PrefixKey`](crate::PrefixKey) → [`Remote`](crate::Remote): longest prefix. Pods elsewhere.
pub const REMOTES: &str = "remotes";
/// Entries of [`REMOTES`].
pub const REMOTES_MAX: u32 = 65536;

/// [`ConnectionKey`](crate::ConnectionKey) → [`Connection`](crate::Connection): hash that evicts
/// nothing and takes memory as it fills. Established TCP and SCTP.
pub const ESTABLISHED: &str = "established";
/// Entries of [`ESTABLISHED`], unless the agent is told otherwise.
pub const ESTABLISHED_MAX: u32 = 131_072;

/// The same key and value: hash that evicts the least recently used. All other connections.
pub const TRANSIENT: &str = "transient";
/// Entries of [`TRANSIENT`], unless the agent is told otherwise.
pub const TRANSIENT_MAX: u32 = 65_536;

/// [`FragmentKey`](crate::FragmentKey) → [`FragmentPorts`](crate::FragmentPorts): least recently
/// used.
pub const FRAGMENTS: &str = "fragments";
/// Entries of [`FRAGMENTS`].
pub const FRAGMENTS_MAX: u32 = 8192;

/// [`StackPort`](crate::StackPort) → `u64` time of last use: least recently used.
pub const STACK_PORTS: &str = "stack_ports";
/// Entries of [`STACK_PORTS`].
pub const STACK_PORTS_MAX: u32 = 16_384;

/// [`Reason`](crate::Reason) → [`Tally`](crate::Tally): per-CPU array of
/// [`Reason::TABLE`](crate::Reason::TABLE).
pub const DROP_TOTALS: &str = "drop_totals";

/// [`DropKey`](crate::DropKey) → [`Tally`](crate::Tally): per-CPU, least recently used.
pub const DROPS_BY_LINK: &str = "drops_by_link";
/// Entries of [`DROPS_BY_LINK`].
pub const DROPS_BY_LINK_MAX: u32 = 4096;

/// [`Counter`](crate::Counter) → [`Tally`](crate::Tally): per-CPU array of
/// [`Counter::TABLE`](crate::Counter::TABLE).
pub const COUNTERS: &str = "counters";

/// The only entry, zero → [`Config`](crate::Config): array.
pub const CONFIG: &str = "config";

/// Ring of [`FlowEvent`](crate::FlowEvent).
pub const FLOW_EVENTS: &str = "flow_events";
/// Bytes of [`FLOW_EVENTS`]: a power of two and of pages.
pub const FLOW_EVENTS_BYTES: u32 = 1 << 20;

/// Ring of [`DropEvent`](crate::DropEvent).
pub const DROP_EVENTS: &str = "drop_events";
/// Bytes of [`DROP_EVENTS`].
pub const DROP_EVENTS_BYTES: u32 = 1 << 18;

/// [`FrontendKey`](crate::FrontendKey) → [`Frontend`](crate::Frontend): hash. Where Services are
/// reached.
pub const FRONTENDS: &str = "frontends";
/// Entries of [`FRONTENDS`].
pub const FRONTENDS_MAX: u32 = 262_144;

/// [`PortRangeKey`](crate::PortRangeKey) → [`Frontend`](crate::Frontend): longest prefix. Ranges of
/// ports of addresses that have some.
pub const PORT_RANGES: &str = "port_ranges";
/// Entries of [`PORT_RANGES`].
pub const PORT_RANGES_MAX: u32 = 65_536;

/// [`PrefixKey`](crate::PrefixKey) → `u32` zero: longest prefix. The ranges of Service addresses: one
/// that no Service has is dropped.
pub const SERVICE_CIDRS: &str = "service_cidrs";
/// Entries of [`SERVICE_CIDRS`].
pub const SERVICE_CIDRS_MAX: u32 = 256;

/// `u32` → [`Set`](crate::Set): array. Number zero is the empty set.
pub const SETS: &str = "sets";
/// Entries of [`SETS`].
pub const SETS_MAX: u32 = 262_144;

/// `u32` → `u32` number of a backend: array. Sets are stretches of it.
pub const SLOTS: &str = "slots";
/// Entries of [`SLOTS`], unless the agent is told otherwise.
pub const SLOTS_MAX: u32 = 2_097_152;

/// `u32` → [`Backend`](crate::Backend): array. Number zero is none.
pub const BACKENDS: &str = "backends";
/// Entries of [`BACKENDS`].
pub const BACKENDS_MAX: u32 = 262_144;

/// `u32` number of a backend → `u64`: array. Connections that this node opened to it and that have
/// not ended, as far as programs saw; the agent corrects it.
pub const BACKEND_LOADS: &str = "backend_loads";

/// [`AffinityKey`](crate::AffinityKey) → [`Affinity`](crate::Affinity): least recently used.
pub const AFFINITIES: &str = "affinities";
/// Entries of [`AFFINITIES`].
pub const AFFINITIES_MAX: u32 = 65_536;

/// [`SourceRangeKey`](crate::SourceRangeKey) → `u32` zero: longest prefix. Who may come from outside.
pub const SOURCE_RANGES: &str = "source_ranges";
/// Entries of [`SOURCE_RANGES`].
pub const SOURCE_RANGES_MAX: u32 = 65_536;

/// [`SocketKey`](crate::SocketKey) → [`SocketService`](crate::SocketService): least recently used.
pub const SOCKETS: &str = "sockets";
/// Entries of [`SOCKETS`].
pub const SOCKETS_MAX: u32 = 131_072;

/// A socket → [`Talks`](crate::Talks): kept with the socket (`BPF_MAP_TYPE_SK_STORAGE`), and read by
/// the programs alone.
pub const TALKS: &str = "talks";

/// `u64` cookie of a network namespace → [`Client`](crate::Client): hash.
pub const CLIENTS: &str = "clients";
/// Entries of [`CLIENTS`].
pub const CLIENTS_MAX: u32 = 4096;

/// `u32` → [`ServiceName`](crate::ServiceName): hash. The numbers of Services' ports; user space alone
/// reads it.
pub const SERVICE_NAMES: &str = "service_names";
/// Entries of [`SERVICE_NAMES`].
pub const SERVICE_NAMES_MAX: u32 = 131_072;

/// Every map.
pub const ALL: &[&str] = &[
    ENDPOINTS,
    LINKS,
    REMOTES,
    ESTABLISHED,
    TRANSIENT,
    FRAGMENTS,
    STACK_PORTS,
    DROP_TOTALS,
    DROPS_BY_LINK,
    COUNTERS,
    CONFIG,
    FRONTENDS,
    PORT_RANGES,
    SERVICE_CIDRS,
    SETS,
    SLOTS,
    BACKENDS,
    BACKEND_LOADS,
    AFFINITIES,
    SOURCE_RANGES,
    SOCKETS,
    TALKS,
    CLIENTS,
    SERVICE_NAMES,
    FLOW_EVENTS,
    DROP_EVENTS,
];
