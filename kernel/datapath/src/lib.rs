//! The decisions: what becomes of a packet.
//!
//! [`from_pod`], [`to_pod`], [`from_uplink`] and [`to_uplink`] are the places where a packet is seen.
//! They reach packet, tables and time through [`Env`] alone, so the same code runs in the kernel and on
//! the desk. `docs/datapath.md` tells the rules in prose.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "in the kernel a call costs stack, and what the compiler knows of its arguments"
)]

#[cfg(any(test, feature = "desk"))]
extern crate std;

#[cfg(any(test, feature = "desk"))]
pub mod desk;
pub mod early;
mod env;
mod hooks;
mod packet;
pub mod quote;
mod send;
pub mod service;
pub mod socket;
pub mod state;
mod step;
pub mod track;
pub mod translate;

pub use early::{Driver, Early, Hop, Peeked, at_driver};
pub use env::{Dropped, Entry, Env, Route, RouteQuery, Table};
pub use hooks::{Verdict, from_pod, from_uplink, to_pod, to_uplink};
pub use packet::Packet;
pub use step::Step;
pub use track::Way;
