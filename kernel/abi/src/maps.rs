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
    FLOW_EVENTS,
    DROP_EVENTS,
];
