//! Packets that no socket would send. For tests: what cannot be a packet panics.
#![allow(clippy::missing_panics_doc)] // The line above says it for all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, sendto,
    socket,
};

/// IANA protocol numbers.
pub const TCP: u8 = 6;
/// The same.
pub const UDP: u8 = 17;
/// IPv6 extension headers: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// A routing header.
pub const ROUTING: u8 = 43;
/// Destination options.
pub const DESTINATION_OPTIONS: u8 = 60;

/// Sends whole packets of one family from the namespace in which it was opened.
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens one.
    pub fn open(v6: bool) -> Result<Self> {
        let family = if v6 {
            AddressFamily::Inet6
        } else {
            AddressFamily::Inet
        };
        let (kind, flags) = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
        let socket = socket(family, kind, flags, SockProtocol::Raw);
        Ok(Self(socket.context("cannot open a raw socket")?))
    }

    /// Sends a packet, IP header included, towards `to`.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> Result<()> {
        let (fd, flags) = (self.0.as_raw_fd(), MsgFlags::empty());
        let sent = match to {
            IpAddr::V4(to) => {
                let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
                sendto(fd, packet, &to, flags)
            }
            IpAddr::V6(to) => {
                let to = SockaddrIn6::from(SocketAddrV6::new(to, 0, 0, 0));
                sendto(fd, packet, &to, flags)
            }
        };
        sent.map(drop)
            .with_context(|| format!("cannot send a raw packet to {to}"))
    }
}

/// An IPv4 packet. Options are padded to whole words; the kernel fills the checksum in.
pub fn ipv4(
    [source, destination]: [Ipv4Addr; 2],
    protocol: u8,
    options: &[u8],
    payload: &[u8],
) -> Vec<u8> {
    let mut options = options.to_vec();
    options.resize(options.len().next_multiple_of(4), 0);
    let header = 20 + options.len();
    let length = u16::try_from(header + payload.len()).expect("a packet fits");
    let mut packet = vec![0x40 | u8::try_from(header / 4).expect("15 words"), 0];
    packet.extend(length.to_be_bytes());
    // No identification, no fragment; 64 hops.
    packet.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(options);
    packet.extend(payload);
    packet
}

/// An IPv6 packet with extension headers: their numbers, and their bodies of 6 + 8 n bytes.
pub fn ipv6(
    [source, destination]: [Ipv6Addr; 2],
    extensions: &[(u8, &[u8])],
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = Vec::new();
    let numbers = extensions.iter().map(|(number, _)| *number);
    let mut next = numbers.chain([protocol]);
    let first = next.next().expect("the protocol at least");
    for ((_, content), next) in extensions.iter().zip(next) {
        let eights = u8::try_from((content.len() + 2) / 8 - 1).expect("a short header");
        body.extend([next, eights]);
        body.extend(*content);
    }
    body.extend(payload);
    let length = u16::try_from(body.len()).expect("a packet fits");
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([first, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(body);
    packet
}

/// A UDP datagram with its checksum.
pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a datagram fits");
    let mut datagram = ports(source, destination);
    datagram.extend(length.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    checksum(source, destination, UDP, &mut datagram, 6);
    datagram
}

/// A TCP segment without data, with its checksum.
pub fn tcp(source: SocketAddr, destination: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    checksum(source, destination, TCP, &mut segment, 16);
    segment
}

fn ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    [
        source.port().to_be_bytes(),
        destination.port().to_be_bytes(),
    ]
    .concat()
}

/// RFC 1071, over the pseudo header too.
fn checksum(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    segment: &mut [u8],
    at: usize,
) {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u16::try_from(segment.len()).expect("a packet fits");
    let mut bytes = octets(source.ip());
    bytes.extend(octets(destination.ip()));
    bytes.extend([0, protocol]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(&*segment);
    if !bytes.len().is_multiple_of(2) {
        bytes.push(0);
    }
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum).expect("folded");
    // For UDP a zero would say that there is none.
    let sum = if sum == 0 { 0xffff } else { sum };
    segment[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// An IP packet of either family around a segment.
pub fn packet(
    source: SocketAddr,
    destination: SocketAddr,
    protocol: u8,
    segment: &[u8],
) -> Vec<u8> {
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ipv4([source, destination], protocol, &[], segment)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ipv6([source, destination], &[], protocol, segment)
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}
