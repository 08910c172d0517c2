//! The adapter against the running kernel, in namespaces and file systems of its own.

mod attach;
mod compiled;
mod corpus;
mod fastpath;
mod migrate;
mod node;
#[path = "../../build/object.rs"]
#[allow(dead_code)] // The build script uses all of it.
mod object;
mod reuse;
mod traffic;
mod world;
