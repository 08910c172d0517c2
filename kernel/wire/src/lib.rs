//! Headers of packets, their checksums, and the two address families.
//!
//! Everything here reads through [`Frame`], which is the kernel's packet in the programs and a
//! vector of bytes on the desk. Offsets count from the first byte of the link header.
#![no_std]
#![forbid(unsafe_code)]
#![allow(
    clippy::inline_always,
    reason = "in the kernel a call costs stack, and what the compiler knows of its arguments"
)]

#[cfg(test)]
extern crate std;

mod checksum;
mod ether;
mod extension;
mod family;
mod frame;
mod ipv4;
mod ipv6;
mod transport;

pub use checksum::Sum;
pub use ether::{Arp, ETHERNET, Ethernet, ethertype};
pub use extension::{Outcome, Walk};
pub use family::{Family, Fragment, HopLimit, Network};
pub use frame::{Frame, Refused};
pub use ipv4::{Ipv4, V4};
pub use ipv6::{Ipv6, V6};
pub use transport::{Kind, Transport, icmp, protocol, sctp, tcp};
