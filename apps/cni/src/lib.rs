//! The CNI plugins of Watari.

pub mod ipam;
pub mod portmap;
