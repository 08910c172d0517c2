//! The interface plugin as a runtime executes it: the real program, in a namespace that plays
//! the node, over its own IPAM, over those of the reference plugins, and its IPAM under theirs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fast;
mod pods;
mod protocol;
mod world;
