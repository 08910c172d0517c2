//! The plugin `portmap` against the real kernel: namespaces, real traffic.

mod books;
mod sctp;
mod traffic;
mod world;
