//! What a trace says is what the real packet then does: same way, same bytes, same reasons.
//!
//! Each test asks first, then sends that very packet, and catches it where it should come out.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod catch;
mod ports;
mod stage;
mod ways;
