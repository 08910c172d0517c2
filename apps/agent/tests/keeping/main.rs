//! An agent over real links and a real store, with a datapath in memory: what it brings about, what
//! it repairs, what it takes back.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod keep;
mod reclaim;
mod recover;
mod world;
