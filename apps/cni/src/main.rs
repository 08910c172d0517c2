//! `watari-cni`: what a container runtime executes for each pod.

fn main() {}
