//! What the programs in the kernel and user space share: map keys and values, events, reasons.
//!
//! Every type is plain bytes (`zerocopy`), its padding is spelt out, and its size is asserted at
//! compile time, on both sides. Whatever changes a size, a meaning or a map below changes
//! [`ABI_VERSION`], which names the directory that the maps are pinned in.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "in the kernel a call costs stack, and what the compiler knows of its arguments"
)]

mod address;
mod connection;
mod counters;
mod drops;
mod endpoint;
mod event;
pub mod maps;

pub use address::Address;
pub use connection::{
    Connection, ConnectionKey, Direction, Flow, FragmentKey, FragmentPorts, Side, StackPort, State,
    Translation, TranslationKind, Tuple, Verdict, flags,
};
pub use counters::{Counter, Tally};
pub use drops::{DropKey, Reason};
pub use endpoint::{Config, Endpoint, Link, PrefixKey, Remote, config_flags};
pub use event::{DropEvent, FlowEvent, FlowEventKind, HEADER_BYTES, Hook};

/// The version of everything in this crate. A change of layout, meaning or set of maps raises it.
pub const ABI_VERSION: u32 = if cfg!(feature = "other-abi") {
    OTHER_ABI
} else {
    1
};

/// The version that only tests build (feature `other-abi`): [`Connection`] has one more field.
pub const OTHER_ABI: u32 = 1_000_001;
