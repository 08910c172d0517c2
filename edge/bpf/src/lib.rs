//! The datapath in the kernel: programs loaded, pinned and attached, maps read and written.
//!
//! Without the feature `load` it is what the plugin needs: [`PodHooks`], over pinned maps and
//! programs by the bare system call. With it come the programs themselves, and what loads,
//! upgrades, compares and removes them.

mod attach;
#[cfg(feature = "load")]
mod datapath;
mod error;
#[cfg(feature = "load")]
mod fake;
/// Names and indexes of links.
pub mod links;
#[cfg(feature = "load")]
mod load;
mod map;
#[cfg(feature = "load")]
mod node;
mod pins;
mod pod;
#[cfg(feature = "load")]
mod probe;
#[cfg(feature = "load")]
mod sweep;
pub mod sys;

pub use attach::{Attached, Attachment};
#[cfg(feature = "load")]
pub use datapath::{
    Applied, Change, Datapath, Drops, DropsAt, Event, Flow, Observed, Stray, Swept, abi_hook,
    difference, table_hook,
};
pub use error::BpfError;
#[cfg(feature = "load")]
pub use fake::FakeDatapath;
#[cfg(feature = "load")]
pub use load::{Image, LoadOptions, Loaded, load, load_image, remove};
pub use map::{Map, PerCpuMap, Plain};
#[cfg(feature = "load")]
pub use node::{Node, NodeTables};
pub use pins::{PinDir, ROOT, in_bpf_filesystem};
pub use pod::{PodHooks, PodLink};
#[cfg(feature = "load")]
pub use probe::{Feature, attachment, probe};
