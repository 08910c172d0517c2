//! The Services of this node: what its source says, compiled, in the kernel.
//!
//! What comes of a change goes to the kernel by itself; everything is compared at the start, when
//! something failed, and at every look at everything. Nothing is done before the source gave its
//! first whole answer: what nobody has spoken of yet is not gone.

mod ending;
mod keeper;
mod ports;
mod show;

pub use ending::{Told, tell};
pub use keeper::Keeper;
pub use ports::{PortRange, source_ports};
pub use show::{ServiceBackend, ServiceDetail, ServiceFrontend, ServicePort, ServiceRow, Shown};
