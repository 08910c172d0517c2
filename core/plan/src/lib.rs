//! From an attachment to the tables of its endpoint, from a node's endpoints and the cluster's nodes
//! to the tables of its datapath, and from two tables to their difference. Pure.

mod datapath;
mod difference;
mod transparent;

pub use datapath::{NodeView, Note, datapath, prefixes};
pub use difference::{Difference, differences};
pub use transparent::{
    GATEWAY_V4, GATEWAY_V6, Owner, Transparent, gateway, owner_of_alias, single, transparent,
};
