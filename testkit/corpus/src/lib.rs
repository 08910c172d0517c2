//! Packets, and what the datapath makes of them, as data: the desk runs them through
//! `watari_datapath`, and the tests of `watari-bpf` the same through the programs in the kernel.
//!
//! A [`Case`] is a world of tables and a sequence of [`Shot`]s: a frame at a hook, the verdict, the
//! frame afterwards, and what the tables then hold. [`cases`] makes all of them for a [`Place`],
//! which says the interface indexes and the time that a runner has.

#![allow(
    clippy::missing_panics_doc,
    reason = "a case that cannot be built is a mistake in this crate, and ends the test"
)]

mod cases;
pub mod desk;
mod packets;
mod scene;
mod world;

pub use cases::cases;
pub use packets::{Body, Extension, Mac, Packet, Part, arp, checksum};
pub use scene::{Case, Entry, Out, Scene, Shot};
pub use world::{Net, Place, Who, World};
