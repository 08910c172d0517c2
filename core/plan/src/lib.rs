//! From an attachment to the tables of its endpoint, and from two tables to their difference.
//! Pure.

mod difference;
mod transparent;

pub use difference::{Difference, differences};
pub use transparent::{
    GATEWAY_V4, GATEWAY_V6, Owner, Transparent, gateway, owner_of_alias, single, transparent,
};
