//! Packets from their parts, byte by byte, with every checksum computed over the whole.

use std::net::IpAddr;

/// A MAC.
pub type Mac = [u8; 6];

/// What is above IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// TCP without options.
    Tcp {
        /// Sender's port.
        source: u16,
        /// Receiver's port.
        destination: u16,
        /// As in RFC 9293.
        flags: u8,
    },
    /// UDP.
    Udp {
        /// Sender's port.
        source: u16,
        /// Receiver's port.
        destination: u16,
        /// With a checksum; IPv4 may do without.
        checksum: bool,
    },
    /// SCTP with one chunk, whose CRC is not computed: nothing here looks at it.
    Sctp {
        /// Sender's port.
        source: u16,
        /// Receiver's port.
        destination: u16,
        /// Type of the chunk.
        chunk: u8,
    },
    /// ICMP echo of the family.
    Echo {
        /// A request, or a reply.
        request: bool,
        /// Its identifier.
        id: u16,
    },
    /// Another ICMP message of the family: type, code, and the four bytes behind the checksum.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What follows the checksum.
        rest: [u8; 4],
    },
    /// Another protocol, without a header that is known.
    Raw {
        /// IANA number.
        protocol: u8,
    },
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options (0), padding alone.
    HopByHop,
    /// Destination options (60), padding alone.
    Destination,
    /// Routing (43) of that type, with no segments left.
    Routing(u8),
    /// Authentication (51), 24 bytes.
    Authentication,
}

/// Part of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Names the datagram.
    pub id: u32,
    /// Offset in bytes: a multiple of eight.
    pub offset: u16,
    /// More parts follow.
    pub more: bool,
}

/// A frame in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's MAC.
    pub source_mac: Mac,
    /// The receiver's MAC.
    pub destination_mac: Mac,
    /// Sender.
    pub source: IpAddr,
    /// Receiver; of the same family.
    pub destination: IpAddr,
    /// Hops left.
    pub hops: u8,
    /// IPv4 options: a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv6 extension headers before the fragment header.
    pub extensions: Vec<Extension>,
    /// Part of a datagram.
    pub part: Option<Part>,
    /// The header above IP.
    pub body: Body,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Packet {
    /// A whole packet with 64 hops left and nothing in it.
    pub fn new(source: IpAddr, destination: IpAddr, body: Body) -> Self {
        Self {
            source_mac: [0; 6],
            destination_mac: [0; 6],
            source,
            destination,
            hops: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            part: None,
            body,
            payload: Vec::new(),
        }
    }

    /// With these MACs.
    #[must_use]
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.source_mac = source;
        self.destination_mac = destination;
        self
    }

    /// With that payload.
    #[must_use]
    pub fn carrying(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.payload = payload.into();
        self
    }

    /// With so many hops left.
    #[must_use]
    pub fn hops(mut self, hops: u8) -> Self {
        self.hops = hops;
        self
    }

    /// As part of a datagram: the payload is the datagram's, header and all, from there on.
    #[must_use]
    pub fn fragment(mut self, part: Part) -> Self {
        self.part = Some(part);
        self
    }

    /// The frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        frame.extend(if self.source.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(self.network());
        frame
    }

    /// The packet without its link header.
    pub fn network(&self) -> Vec<u8> {
        let transport = match self.part {
            Some(_) => self.payload.clone(),
            None => self.transport(),
        };
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.v4(source.octets(), destination.octets(), &transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.v6(source.octets(), destination.octets(), &transport)
            }
            _ => panic!(
                "{} and {} are of two families",
                self.source, self.destination
            ),
        }
    }

    fn v4(&self, source: [u8; 4], destination: [u8; 4], transport: &[u8]) -> Vec<u8> {
        assert!(self.extensions.is_empty(), "extension headers are IPv6's");
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | short(header / 4), 0];
        bytes.extend(word(header + transport.len()));
        let (id, place) = match self.part {
            None => (0x1234, 0),
            Some(part) => (
                part.id as usize & 0xffff,
                usize::from(part.offset / 8) | usize::from(part.more) << 13,
            ),
        };
        bytes.extend(word(id));
        bytes.extend(word(place));
        bytes.extend([self.hops, self.protocol(), 0, 0]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(&self.options);
        let checksum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&checksum);
        bytes.extend(transport);
        bytes
    }

    fn v6(&self, source: [u8; 16], destination: [u8; 16], transport: &[u8]) -> Vec<u8> {
        assert!(self.options.is_empty(), "options are IPv4's");
        let mut last = self.protocol();
        let mut headers: Vec<Vec<u8>> = Vec::new();
        if let Some(part) = self.part {
            let mut header = vec![last, 0];
            header.extend(word(usize::from(part.offset) | usize::from(part.more)));
            header.extend(part.id.to_be_bytes());
            headers.push(header);
            last = 44;
        }
        for extension in self.extensions.iter().rev() {
            let (number, header) = extension.bytes(last);
            headers.push(header);
            last = number;
        }
        let behind: usize = headers.iter().map(Vec::len).sum::<usize>() + transport.len();
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(word(behind));
        bytes.extend([last, self.hops]);
        bytes.extend(source);
        bytes.extend(destination);
        bytes.extend(headers.into_iter().rev().flatten());
        bytes.extend(transport);
        bytes
    }

    /// IANA number of the body.
    pub fn protocol(&self) -> u8 {
        match self.body {
            Body::Tcp { .. } => 6,
            Body::Udp { .. } => 17,
            Body::Sctp { .. } => 132,
            Body::Echo { .. } | Body::Icmp { .. } if self.source.is_ipv4() => 1,
            Body::Echo { .. } | Body::Icmp { .. } => 58,
            Body::Raw { protocol } => protocol,
        }
    }

    /// Header and payload above IP, with their checksum.
    pub fn transport(&self) -> Vec<u8> {
        let mut bytes = self.header();
        bytes.extend(&self.payload);
        let place = match self.body {
            Body::Tcp { .. } => 16,
            Body::Udp { checksum: true, .. } => 6,
            Body::Echo { .. } | Body::Icmp { .. } => 2,
            _ => return bytes,
        };
        let pseudo = match self.body {
            Body::Echo { .. } | Body::Icmp { .. } if self.source.is_ipv4() => Vec::new(),
            _ => self.pseudo(bytes.len()),
        };
        let mut value = checksum(&[&pseudo, &bytes]);
        if matches!(self.body, Body::Udp { .. }) && value == [0, 0] {
            value = [0xff, 0xff];
        }
        bytes[place..place + 2].copy_from_slice(&value);
        bytes
    }

    fn header(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        match self.body {
            Body::Tcp {
                source,
                destination,
                flags,
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([
                    0, 0, 0x10, 0, 0, 0, 0x20, 0, 0x50, flags, 0x72, 0x10, 0, 0, 0, 0,
                ]);
            }
            Body::Udp {
                source,
                destination,
                ..
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend(word(8 + self.payload.len()));
                bytes.extend([0, 0]);
            }
            Body::Sctp {
                source,
                destination,
                chunk,
            } => {
                bytes.extend(source.to_be_bytes());
                bytes.extend(destination.to_be_bytes());
                bytes.extend([0, 0, 0, 9, 0, 0, 0, 0, chunk, 0, 0, 4]);
            }
            Body::Echo { request, id } => {
                let kind = match (self.source.is_ipv4(), request) {
                    (true, true) => 8,
                    (true, false) => 0,
                    (false, true) => 128,
                    (false, false) => 129,
                };
                bytes.extend([kind, 0, 0, 0]);
                bytes.extend(id.to_be_bytes());
                bytes.extend([0, 1]);
            }
            Body::Icmp { kind, code, rest } => {
                bytes.extend([kind, code, 0, 0]);
                bytes.extend(rest);
            }
            Body::Raw { .. } => {}
        }
        bytes
    }

    /// What checksums cover beside the packet: ends, length, protocol.
    fn pseudo(&self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for address in [self.source, self.destination] {
            match address {
                IpAddr::V4(v4) => bytes.extend(v4.octets()),
                IpAddr::V6(v6) => bytes.extend(v6.octets()),
            }
        }
        bytes.extend(
            u32::try_from(length)
                .expect("a packet's length")
                .to_be_bytes(),
        );
        bytes.extend([0, 0, 0, self.protocol()]);
        bytes
    }

    /// The packet in parts, of at most so many bytes above IP each: a multiple of eight.
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Self> {
        let whole = self.transport();
        let mut parts = Vec::new();
        let mut at = 0;
        while at < whole.len() {
            let end = (at + size).min(whole.len());
            let part = Part {
                id,
                offset: u16::try_from(at).expect("an offset"),
                more: end < whole.len(),
            };
            let mut packet = self.clone().fragment(part);
            packet.payload = whole[at..end].to_vec();
            parts.push(packet);
            at = end;
        }
        parts
    }
}

impl Extension {
    fn bytes(self, next: u8) -> (u8, Vec<u8>) {
        match self {
            Self::HopByHop => (0, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            Self::Destination => (60, vec![next, 0, 1, 4, 0, 0, 0, 0]),
            Self::Routing(kind) => (43, vec![next, 0, kind, 0, 0, 0, 0, 0]),
            Self::Authentication => {
                let mut bytes = vec![next, 4];
                bytes.resize(24, 0);
                (51, bytes)
            }
        }
    }
}

/// An ARP frame that the sender broadcasts.
pub fn arp(ethernet: Mac, sender_mac: Mac, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend(ethernet);
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    bytes.extend(sender_mac);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes
}

/// A checksum (RFC 1071) over these bytes; each slice of even length but the last.
pub fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u64 = 0;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    [high, low]
}

fn word(value: usize) -> [u8; 2] {
    let [.., high, low] = value.to_be_bytes();
    [high, low]
}

fn short(value: usize) -> u8 {
    let [.., low] = value.to_be_bytes();
    low
}
