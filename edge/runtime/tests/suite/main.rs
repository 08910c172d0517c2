//! The runtime over plugins made of shell, which do what a test says, and over the reference
//! plugins in real namespaces.

mod chain;
mod common;
mod exec;
mod reference;
