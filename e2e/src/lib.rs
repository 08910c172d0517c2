//! Tests of the whole: the built binaries, nodes, and a real container runtime.
//!
//! The tests are in `tests/`; here is what they share. It is for tests only: what fails panics
//! and says what was tried.

pub mod containerd;
pub mod cri;
pub mod holdings;
pub mod http;
pub mod image;
pub mod lab;
pub mod node;
pub mod traffic;
pub mod watch;
