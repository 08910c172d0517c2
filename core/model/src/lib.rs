//! Domain types shared by every room.
//!
//! An address, a name or a MAC is parsed once, at the edge; past it only these types travel.

mod attachment;
mod cluster;
mod mac;
mod name;
mod pod;
mod protocol;

pub use attachment::{Attachment, DEFAULT_HOST_PREFIX, HostPrefix};
pub use cluster::ClusterNode;
pub use mac::MacAddr;
pub use name::{ContainerId, IfName, NameError, NetworkName};
pub use pod::PodName;
pub use protocol::Protocol;
