//! The decisions: what becomes of a packet.
//!
//! [`from_pod`], [`from_uplink`] and [`to_pod`] are the three places where a packet is seen. They
//! reach packet, tables and time through [`Env`] alone, so the same code runs in the kernel and on
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
mod env;
mod hooks;
mod packet;
mod quote;
mod send;
pub mod state;
mod step;
mod track;
mod translate;

pub use env::{Dropped, Entry, Env, Route, RouteQuery, Table};
pub use hooks::{Verdict, from_pod, from_uplink, to_pod};
pub use packet::Packet;
pub use step::Step;
