//! The command line of Watari.
fn main() {}
