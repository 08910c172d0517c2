//! Address pools and their allocation; no I/O, no clock.
//!
//! Sources (Azure documents, `ranges`, Pod CIDRs) become [`Pool`]s; [`lease`] decides which address
//! of a pool an attachment gets, over the books that a [`Ledger`] keeps.

mod lease;
mod pool;
mod span;

pub use lease::{
    DEFAULT_COOL_DOWN, Holder, LeaseError, Ledger, Millis, Refusal, Standing, Wish, lease,
};
pub use pool::{Pool, PoolError, PoolId, Subnet, first_host};
pub use span::{Family, Span, next, previous};
