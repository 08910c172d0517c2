//! The headers of a dropped packet, as far as they were kept, for people.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use watari_model::MacAddr;

/// What the first bytes of a packet say. Whatever was cut off is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Headers {
    /// The sender's MAC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_mac: Option<MacAddr>,
    /// The receiver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_mac: Option<MacAddr>,
    /// 802.1Q tags, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<u16>,
    /// What the frame carries: an ethertype.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethertype: Option<u16>,
    /// The sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The receiver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<IpAddr>,
    /// TTL or hop limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// IANA protocol number, past IPv6's extension headers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// The sender's port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// The receiver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// ICMP's type and code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<(u8, u8)>,
    /// TCP's flags, as letters.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub tcp_flags: String,
}

const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const TAGS: [u16; 2] = [0x8100, 0x88a8];
/// Extension headers that are walked over: hop-by-hop, routing, fragment, destination options.
const EXTENSIONS: [u8; 4] = [0, 43, 44, 60];
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// The name of an IP protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    match number {
        ICMP => "icmp".to_owned(),
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMPV6 => "icmpv6".to_owned(),
        SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// TCP's flags as letters: C E U A P R S F (RFC 9293 section 3.1), in that order.
pub fn flag_letters(flags: u8) -> String {
    "FSRPAUEC"
        .chars()
        .enumerate()
        .filter(|(bit, _)| flags & (1 << bit) != 0)
        .map(|(_, letter)| letter)
        .collect()
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn mac(bytes: &[u8], at: usize) -> Option<MacAddr> {
    Some(MacAddr(bytes.get(at..at + 6)?.try_into().ok()?))
}

fn v4(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(IpAddr::V4(Ipv4Addr::from(octets)))
}

fn v6(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

impl Headers {
    /// Reads a frame from its link header on.
    pub fn read(frame: &[u8]) -> Self {
        let mut headers = Self {
            destination_mac: mac(frame, 0),
            source_mac: mac(frame, 6),
            ..Self::default()
        };
        let mut at = 12;
        let mut kind = be16(frame, at);
        while let Some(tag) = kind.filter(|kind| TAGS.contains(kind)) {
            headers.tags.push(be16(frame, at + 2).unwrap_or(tag));
            at += 4;
            kind = be16(frame, at);
        }
        headers.ethertype = kind;
        let packet = frame.get(at + 2..).unwrap_or_default();
        match kind {
            Some(IPV4) => headers.ipv4(packet),
            Some(IPV6) => headers.ipv6(packet),
            Some(ARP) => {
                headers.source = v4(packet, 14);
                headers.destination = v4(packet, 24);
            }
            _ => {}
        }
        headers
    }

    fn ipv4(&mut self, packet: &[u8]) {
        self.source = v4(packet, 12);
        self.destination = v4(packet, 16);
        self.ttl = packet.get(8).copied();
        self.protocol = packet.get(9).copied();
        let length = packet
            .first()
            .map_or(0, |first| usize::from(first & 15) * 4);
        // Only the first fragment has ports.
        let first = be16(packet, 6).is_some_and(|fragment| fragment % 0x2000 == 0);
        if first {
            self.transport(packet.get(length..).unwrap_or_default());
        }
    }

    fn ipv6(&mut self, packet: &[u8]) {
        self.source = v6(packet, 8);
        self.destination = v6(packet, 24);
        self.ttl = packet.get(7).copied();
        let (mut next, mut at, mut first) = (packet.get(6).copied(), 40, true);
        // As many as fit into what was kept.
        while let Some(kind) = next.filter(|next| EXTENSIONS.contains(next)) {
            let Some(&[after, length]) = packet.get(at..at + 2) else {
                return;
            };
            if kind == 44 {
                first = be16(packet, at + 2).is_some_and(|fragment| fragment & 0xfff8 == 0);
            }
            at += if kind == 44 {
                8
            } else {
                8 + usize::from(length) * 8
            };
            next = Some(after);
        }
        self.protocol = next;
        if first {
            self.transport(packet.get(at..).unwrap_or_default());
        }
    }

    fn transport(&mut self, bytes: &[u8]) {
        match self.protocol {
            Some(TCP | UDP | SCTP) => {
                self.source_port = be16(bytes, 0);
                self.destination_port = be16(bytes, 2);
                if self.protocol == Some(TCP) {
                    self.tcp_flags = flag_letters(bytes.get(13).copied().unwrap_or_default());
                }
            }
            Some(ICMP | ICMPV6) => self.icmp = bytes.first().copied().zip(bytes.get(1).copied()),
            _ => {}
        }
    }

    /// One line.
    pub fn line(&self) -> String {
        let mut text = String::new();
        let ethertype = self.ethertype.unwrap_or_default();
        // Writing to a string cannot fail.
        for tag in &self.tags {
            let _ = write!(text, "vlan {} ", tag & 0xfff);
        }
        match (self.source, self.destination) {
            (Some(source), Some(destination)) => {
                let end = |address: IpAddr, port: Option<u16>| match (address, port) {
                    (address, None) => address.to_string(),
                    (IpAddr::V4(v4), Some(port)) => format!("{v4}:{port}"),
                    (IpAddr::V6(v6), Some(port)) => format!("[{v6}]:{port}"),
                };
                let from = end(source, self.source_port);
                let to = end(destination, self.destination_port);
                if ethertype == ARP {
                    text.push_str("arp ");
                } else if let Some(protocol) = self.protocol {
                    let _ = write!(text, "{} ", protocol_name(protocol));
                }
                let _ = write!(text, "{from} > {to}");
            }
            _ => {
                let _ = write!(text, "ethertype {ethertype:#06x}");
            }
        }
        if !self.tcp_flags.is_empty() {
            let _ = write!(text, " [{}]", self.tcp_flags);
        }
        if let Some((kind, code)) = self.icmp {
            let _ = write!(text, " type {kind} code {code}");
        }
        if let Some(ttl) = self.ttl {
            let _ = write!(text, " ttl {ttl}");
        }
        if let (Some(source), Some(destination)) = (self.source_mac, self.destination_mac) {
            let _ = write!(text, " ({source} > {destination})");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MACS: [u8; 12] = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];

    fn frame(ethertype: u16, packet: &[u8]) -> Vec<u8> {
        [&MACS[..], &ethertype.to_be_bytes(), packet].concat()
    }

    fn ipv4(protocol: u8, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, protocol, 0, 0];
        header[6..8].copy_from_slice(&fragment.to_be_bytes());
        [&header[..], &[10, 0, 0, 1, 10, 0, 0, 2], rest].concat()
    }

    #[test]
    fn a_tcp_packet_is_one_line() {
        let tcp = [
            0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
        ];
        let headers = Headers::read(&frame(IPV4, &ipv4(TCP, 0, &tcp)));
        assert_eq!(
            headers.line(),
            "tcp 10.0.0.1:12345 > 10.0.0.2:80 [S] ttl 64 (02:00:00:00:00:01 > 02:00:00:00:00:02)"
        );
        let later = Headers::read(&frame(IPV4, &ipv4(TCP, 5, &tcp)));
        assert_eq!((later.source_port, later.tcp_flags.as_str()), (None, ""));
    }

    #[test]
    fn ipv6_is_read_past_its_extension_headers() {
        let mut packet = vec![0x60, 0, 0, 0, 0, 24, 0, 9];
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        // Hop-by-hop of 16 bytes, then ICMPv6 echo.
        packet.extend([ICMPV6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend([128, 0, 0, 0]);
        let line = Headers::read(&frame(IPV6, &packet)).line();
        assert!(
            line.starts_with("icmpv6 fd00::1 > fd00::2 type 128 code 0 ttl 9"),
            "{line}"
        );
    }

    #[test]
    fn arp_tags_and_others_are_named() {
        let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1];
        arp.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 2]);
        assert!(
            Headers::read(&frame(ARP, &arp))
                .line()
                .starts_with("arp 10.0.0.1 > 10.0.0.2")
        );
        let tagged = frame(0x8100, &[&[0, 7, 0x88, 0xcc], &[0u8; 4][..]].concat());
        let line = Headers::read(&tagged).line();
        assert!(line.starts_with("vlan 7 ethertype 0x88cc"), "{line}");
    }

    #[test]
    fn any_length_is_read() {
        let whole = frame(IPV4, &ipv4(ICMP, 0, &[8, 0, 0, 0]));
        for length in 0..=whole.len() {
            let headers = Headers::read(&whole[..length]);
            let back: Headers =
                serde_json::from_str(&serde_json::to_string(&headers).unwrap()).unwrap();
            assert_eq!(back, headers);
            assert!(!headers.line().is_empty());
        }
    }
}
