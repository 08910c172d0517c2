//! The packet that is traced: its fields, its bytes, its answer.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use watari_model::MacAddr;
use watari_wire::{Sum, ethertype, protocol, tcp};

/// Hops that a system gives its packets (IANA's recommended default).
pub const HOPS: u8 = 64;

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an IPv4 header.
const IPV4: usize = 20;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;

/// What the packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A segment without data: SYN, answered by SYN-ACK.
    Tcp,
    /// A datagram.
    Udp,
    /// An echo request, answered by its reply; `ICMPv6` between IPv6 addresses.
    Icmp,
}

impl Protocol {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Icmp => "icmp",
        }
    }
}

/// A packet, as far as its way depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Packet {
    /// The MAC that it is sent from; none where it is not known, or none is needed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_mac: Option<MacAddr>,
    /// The MAC that it is sent to.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub destination_mac: Option<MacAddr>,
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for; of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub protocol: Protocol,
    /// The sender's port; of an echo its identifier.
    pub source_port: u16,
    /// The receiver's port; of an echo its identifier.
    pub destination_port: u16,
    /// It answers another packet.
    pub answer: bool,
    /// Hops left.
    pub ttl: u8,
    /// Bytes of data behind the transport header.
    pub data: u16,
}

impl Packet {
    /// The packet that answers this one, with hops of its own.
    #[must_use]
    pub fn answered(&self) -> Self {
        Self {
            source_mac: None,
            destination_mac: None,
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            answer: !self.answer,
            ttl: HOPS,
            ..self.clone()
        }
    }

    /// Bytes from the network header on.
    pub fn length(&self) -> usize {
        let network = if self.source.is_ipv4() { IPV4 } else { IPV6 };
        let transport = match self.protocol {
            Protocol::Tcp => 20,
            Protocol::Udp | Protocol::Icmp => 8,
        };
        network + transport + usize::from(self.data)
    }

    /// Its flags, if it is TCP.
    const fn tcp_flags(&self) -> u8 {
        if self.answer {
            tcp::SYN | tcp::ACK
        } else {
            tcp::SYN
        }
    }

    /// Its bytes from the link header on, with right checksums. None if its addresses are of two
    /// families, or if it is longer than a packet can be.
    pub fn frame(&self) -> Option<Vec<u8>> {
        let mut frame = Vec::with_capacity(ETHERNET + self.length());
        for mac in [self.destination_mac, self.source_mac] {
            frame.extend(mac.map_or([0; 6], |mac| mac.0));
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(ethertype::IPV4.to_ne_bytes());
                let octets = [source.octets(), destination.octets()].concat();
                self.push_ipv4(&mut frame, &octets)?;
                self.push_transport(&mut frame, &octets, protocol::ICMP)?;
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(ethertype::IPV6.to_ne_bytes());
                let octets = [source.octets(), destination.octets()].concat();
                let length = u16::try_from(self.length() - IPV6).ok()?;
                frame.extend([0x60, 0, 0, 0]);
                frame.extend(length.to_be_bytes());
                frame.extend([self.number(protocol::ICMPV6), self.ttl]);
                frame.extend(&octets);
                self.push_transport(&mut frame, &octets, protocol::ICMPV6)?;
            }
            _ => return None,
        }
        Some(frame)
    }

    fn push_ipv4(&self, frame: &mut Vec<u8>, octets: &[u8]) -> Option<()> {
        let length = u16::try_from(self.length()).ok()?;
        let mut header = vec![0x45, 0];
        header.extend(length.to_be_bytes());
        // No identification; may not be fragmented, as Linux sends it.
        header.extend([0, 0, 0x40, 0, self.ttl, self.number(protocol::ICMP), 0, 0]);
        header.extend(octets);
        let sum = Sum::ZERO.plus_bytes(&header).checksum();
        header.splice(10..12, sum.to_ne_bytes());
        frame.extend(header);
        Some(())
    }

    const fn number(&self, icmp: u8) -> u8 {
        match self.protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
            Protocol::Icmp => icmp,
        }
    }

    fn push_transport(&self, frame: &mut Vec<u8>, octets: &[u8], icmp: u8) -> Option<()> {
        let ports = [
            self.source_port.to_be_bytes(),
            self.destination_port.to_be_bytes(),
        ]
        .concat();
        let data = usize::from(self.data);
        let (mut bytes, at) = match self.protocol {
            Protocol::Tcp => {
                let mut bytes = ports;
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, self.tcp_flags()]);
                bytes.extend([0xff, 0xff, 0, 0, 0, 0]);
                (bytes, 16)
            }
            Protocol::Udp => {
                let mut bytes = ports;
                bytes.extend(u16::try_from(8 + data).ok()?.to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, 6)
            }
            Protocol::Icmp => {
                let (request, reply) = if icmp == protocol::ICMP {
                    (8, 0)
                } else {
                    (128, 129)
                };
                let mut bytes = vec![if self.answer { reply } else { request }, 0, 0, 0];
                bytes.extend(self.source_port.to_be_bytes());
                bytes.extend([0, 1]);
                (bytes, 2)
            }
        };
        bytes.resize(bytes.len() + data, 0);
        let mut sum = Sum::ZERO.plus_bytes(&bytes);
        if self.protocol != Protocol::Icmp || icmp == protocol::ICMPV6 {
            let length = u32::try_from(bytes.len()).ok()?;
            sum = sum.plus_bytes(octets).plus_bytes(&length.to_be_bytes());
            sum = sum.plus_bytes(&[0, self.number(icmp)]);
        }
        let mut sum = sum.checksum().to_ne_bytes();
        if self.protocol == Protocol::Udp && sum == [0, 0] {
            // Zero would say that there is none.
            sum = [0xff, 0xff];
        }
        bytes.splice(at..at + 2, sum);
        frame.extend(bytes);
        Some(())
    }

    /// This packet after somebody rewrote its [`Self::frame`].
    pub fn rewritten(&self, frame: &[u8]) -> Option<Self> {
        let mac = |at: usize| Some(MacAddr(frame.get(at..at + 6)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(word(frame, 12)?);
        let packet = frame.get(ETHERNET..)?;
        let (source, destination, number, ttl, header): (IpAddr, IpAddr, _, _, _) = match kind {
            ethertype::IPV4 => (
                Ipv4Addr::from(array::<4>(packet, 12)?).into(),
                Ipv4Addr::from(array::<4>(packet, 16)?).into(),
                *packet.get(9)?,
                *packet.get(8)?,
                IPV4,
            ),
            ethertype::IPV6 => (
                Ipv6Addr::from(array::<16>(packet, 8)?).into(),
                Ipv6Addr::from(array::<16>(packet, 24)?).into(),
                *packet.get(6)?,
                *packet.get(7)?,
                IPV6,
            ),
            _ => return None,
        };
        let transport = packet.get(header..)?;
        let port = |at| word(transport, at).map(u16::from_be_bytes);
        let (protocol, ports) = match number {
            protocol::TCP => (Protocol::Tcp, (port(0)?, port(2)?)),
            protocol::UDP => (Protocol::Udp, (port(0)?, port(2)?)),
            protocol::ICMP | protocol::ICMPV6 => (Protocol::Icmp, (port(4)?, port(4)?)),
            _ => return None,
        };
        Some(Self {
            source_mac: mac(6),
            destination_mac: mac(0),
            source,
            destination,
            protocol,
            source_port: ports.0,
            destination_port: ports.1,
            ttl,
            ..self.clone()
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<[u8; 2]> {
    array(bytes, at)
}

/// An address with a port, as URLs write it.
pub fn with_port(address: IpAddr, port: u16) -> String {
    match address {
        IpAddr::V4(v4) => format!("{v4}:{port}"),
        IpAddr::V6(v6) => format!("[{v6}]:{port}"),
    }
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.protocol, self.answer) {
            (Protocol::Tcp, false) => "tcp SYN",
            (Protocol::Tcp, true) => "tcp SYN-ACK",
            (Protocol::Udp, _) => "udp",
            (Protocol::Icmp, false) => "icmp echo request",
            (Protocol::Icmp, true) => "icmp echo reply",
        };
        if self.protocol == Protocol::Icmp {
            write!(
                f,
                "{} → {} {what} (id {})",
                self.source, self.destination, self.source_port
            )
        } else {
            let (from, to) = (
                with_port(self.source, self.source_port),
                with_port(self.destination, self.destination_port),
            );
            write!(f, "{from} → {to} {what}")
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packets() -> impl Strategy<Value = Packet> {
        let protocols = prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Icmp)
        ];
        let addresses = prop_oneof![
            any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
            any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        ];
        let numbers = any::<([u8; 12], u16, u16, bool, u8)>();
        (protocols, addresses, numbers, 0..2000u16).prop_map(|(protocol, ends, numbers, data)| {
            let (macs, source_port, other_port, answer, ttl) = numbers;
            let mac = |at: usize| MacAddr(macs[at..at + 6].try_into().unwrap());
            let destination_port = if protocol == Protocol::Icmp {
                source_port
            } else {
                other_port
            };
            Packet {
                source_mac: Some(mac(0)),
                destination_mac: Some(mac(6)),
                source: ends.0,
                destination: ends.1,
                protocol,
                source_port,
                destination_port,
                answer,
                ttl,
                data,
            }
        })
    }

    /// RFC 1071, without help.
    fn sums_up(parts: &[&[u8]]) -> bool {
        let mut sum = 0u32;
        for part in parts {
            for pair in part.chunks(2) {
                let low = pair.get(1).copied().unwrap_or_default();
                sum += u32::from(u16::from_be_bytes([pair[0], low]));
            }
        }
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }

    proptest! {
        #[test]
        fn a_frame_says_what_the_packet_is(packet in packets()) {
            let frame = packet.frame().unwrap();
            prop_assert_eq!(frame.len(), ETHERNET + packet.length());
            let blank = Packet {
                source_mac: None,
                destination_mac: None,
                source: [0; 4].into(),
                destination: [0; 4].into(),
                source_port: 0,
                destination_port: 0,
                ttl: 0,
                ..packet.clone()
            };
            prop_assert_eq!(blank.rewritten(&frame).unwrap(), packet);
        }

        #[test]
        fn every_checksum_is_right(packet in packets()) {
            let frame = packet.frame().unwrap();
            let ip = &frame[ETHERNET..];
            let (addresses, segment) = match packet.source {
                IpAddr::V4(_) => {
                    prop_assert!(sums_up(&[&ip[..IPV4]]));
                    (&ip[12..20], &ip[IPV4..])
                }
                IpAddr::V6(_) => (&ip[8..40], &ip[IPV6..]),
            };
            let number = packet.number(if packet.source.is_ipv4() { 1 } else { 58 });
            let length = u32::try_from(segment.len()).unwrap().to_be_bytes();
            let pseudo = [addresses, &length, &[0, number]].concat();
            if number == 1 {
                prop_assert!(sums_up(&[segment]));
            } else {
                prop_assert!(sums_up(&[&pseudo, segment]));
            }
        }

        #[test]
        fn the_answer_to_the_answer_goes_where_the_packet_went(packet in packets()) {
            let again = packet.answered().answered();
            let same = Packet { source_mac: None, destination_mac: None, ttl: HOPS, ..packet };
            prop_assert_eq!(again, same);
        }
    }

    #[test]
    fn families_do_not_mix() {
        let packet = Packet {
            source_mac: None,
            destination_mac: None,
            source: "10.0.0.1".parse().unwrap(),
            destination: "fd00::1".parse().unwrap(),
            protocol: Protocol::Tcp,
            source_port: 1,
            destination_port: 2,
            answer: false,
            ttl: HOPS,
            data: 0,
        };
        assert_eq!(packet.frame(), None);
    }
}
