//! Address pools and their allocation; no I/O, no clock.
//!
//! Sources (Azure documents, `ranges`, Pod CIDRs) become [`Pool`]s; [`lease`] decides which address
//! of a pool an attachment gets, over the books that a [`Ledger`] keeps.

mod conf;
mod document;
mod lease;
mod pool;
mod span;

pub use conf::{
    DEFAULT_REFRESH, IpamConf, Kind, MIN_REFRESH, NODE_FILE, STACK_FILE, Source, WIRE_SERVER,
    parse_node_file, parse_resolv_conf,
};
pub use document::{
    Document, DocumentError, MAX_ADDRESSES, MAX_DOCUMENT, NodeInterface, NodeSubnet, Select,
};
pub use lease::{
    DEFAULT_COOL_DOWN, Holder, LeaseError, Ledger, Millis, Refusal, Standing, Wish, lease,
};
pub use pool::{Pool, PoolError, PoolId, Subnet, first_host};
pub use span::{Family, Span, next, previous};
