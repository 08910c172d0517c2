//! `nf_tables` and connection tracking by netlink, and the port mappings and the masquerading made
//! of them.
//!
//! The lower half speaks `NETLINK_NETFILTER`: [`attr`] and [`message`] are the bytes, [`object`]
//! and [`expr`] the tables, chains, maps, elements and rules, [`Batch`] a transaction, [`Socket`]
//! the kernel's answers. It knows no table of ours. The upper half is [`portmap`] and
//! [`masquerade`], a table each.
//!
//! No program is executed and no C library linked. Whatever the kernel sends is parsed with
//! bounds checks ([`attr::parse_attrs`], [`message::parse_frames`], [`object::parse_elements`],
//! [`object::parse_comment`], [`object::parse_generation`]); a malformed reply is an error, never
//! a panic.

pub mod attr;
mod check;
pub mod conntrack;
pub mod expr;
pub mod interval;
pub mod masquerade;
pub mod message;
pub mod monitor;
pub mod object;
pub mod portmap;
mod socket;

pub use socket::{Batch, Error, Reply, Socket};
