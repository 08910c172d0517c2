use watari_abi::Reason;
use zerocopy::{FromZeros, Immutable, KnownLayout};

use crate::{ETHERNET, Family, Frame, Network};

/// IANA protocol numbers.
pub mod protocol {
    /// ICMP of IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP of IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// Flags of TCP (RFC 9293 section 3.1).
pub mod tcp {
    /// The sender is done.
    pub const FIN: u8 = 1;
    /// Begins a connection.
    pub const SYN: u8 = 2;
    /// Ends it at once.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// Types of SCTP chunks (RFC 9260 section 3.2).
pub mod sctp {
    /// Begins an association.
    pub const INIT: u8 = 1;
    /// Answers it.
    pub const INIT_ACK: u8 = 2;
    /// Ends it at once.
    pub const ABORT: u8 = 6;
    /// The sender is done.
    pub const SHUTDOWN: u8 = 7;
    /// And so is the other.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// Third step of the handshake.
    pub const COOKIE_ECHO: u8 = 10;
    /// Last step of the handshake.
    pub const COOKIE_ACK: u8 = 11;
    /// The end.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Where checksums stand in their headers.
pub mod icmp {
    /// Bytes of an ICMP header; an error quotes the packet behind it.
    pub const HEADER: u32 = 8;
    /// Where the checksum stands.
    pub const CHECKSUM: u32 = 2;
}

/// What kind of packet it is, as far as connections are concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable, KnownLayout)]
#[repr(u8)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP echo request.
    EchoRequest,
    /// ICMP echo reply.
    EchoReply,
    /// An ICMP error, which quotes the packet it is about.
    Error,
    /// Of neighbours and groups on one link.
    Neighbour,
    /// Any other ICMP.
    Icmp,
    /// Any other protocol.
    Other,
}

/// What the header above IP says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transport {
    /// What it is.
    pub kind: Kind,
    /// TCP: its flags. SCTP: the type of the first chunk.
    pub control: u8,
    /// Bytes of its header, as far as it has one.
    pub header: u8,
    /// As in [`watari_abi::Tuple::source_port`].
    pub source_port: u16,
    /// As in [`watari_abi::Tuple::destination_port`].
    pub destination_port: u16,
}

impl Transport {
    /// Of a protocol without ports, or of a packet that shows none.
    #[inline(always)]
    pub const fn bare(kind: Kind) -> Self {
        Self {
            kind,
            control: 0,
            header: 0,
            source_port: 0,
            destination_port: 0,
        }
    }

    /// Reads the header of a packet that is no later fragment.
    ///
    /// `whole`: all of it is there; the packet in an ICMP error has its first eight bytes alone.
    #[inline(always)]
    pub fn read<F: Family>(
        frame: &impl Frame,
        network: &Network,
        whole: bool,
    ) -> Result<Self, Reason> {
        // The constant is what the compiler needs to read the packet directly.
        let fixed = ETHERNET + F::HEADER;
        let at = network.transport;
        let room = network.end.wrapping_sub(at);
        let (kind, least) = match network.protocol {
            protocol::TCP => (Kind::Tcp, 20),
            protocol::UDP => (Kind::Udp, 8),
            protocol::SCTP => (Kind::Sctp, 16),
            number if number == F::ICMP => (Kind::Icmp, 8),
            _ => return Ok(Self::bare(Kind::Other)),
        };
        if whole && (at > network.end || room < least) {
            return Err(Reason::Malformed);
        }
        let words: Option<[u32; 2]> = if at == fixed {
            frame.fixed(fixed)
        } else {
            frame.load(at)
        };
        let [first, second] = words.ok_or(Reason::Malformed)?;
        if kind == Kind::Icmp {
            return Ok(Self::icmp::<F>(first, second));
        }
        let (control, header) = if whole {
            let third: Option<u32> = if kind == Kind::Udp {
                Some(0)
            } else if at == fixed {
                frame.fixed(fixed + 12)
            } else {
                frame.load(at + 12)
            };
            read_control(kind, third, room)?
        } else {
            (0, 0)
        };
        let [a, b, c, d] = first.to_ne_bytes();
        Ok(Self {
            kind,
            control,
            header,
            source_port: u16::from_ne_bytes([a, b]),
            destination_port: u16::from_ne_bytes([c, d]),
        })
    }

    #[inline(always)]
    fn icmp<F: Family>(first: u32, second: u32) -> Self {
        let [number, code, ..] = first.to_ne_bytes();
        let [high, low, ..] = second.to_ne_bytes();
        let identifier = u16::from_ne_bytes([high, low]);
        let kind = if number == F::ECHO.0 {
            Kind::EchoRequest
        } else if number == F::ECHO.1 {
            Kind::EchoReply
        } else if F::is_error(number) {
            Kind::Error
        } else if F::is_neighbourly(number) {
            Kind::Neighbour
        } else {
            Kind::Icmp
        };
        let echo = matches!(kind, Kind::EchoRequest | Kind::EchoReply);
        Self {
            kind,
            control: 0,
            header: 8,
            source_port: if echo {
                identifier
            } else {
                u16::from(number).to_be()
            },
            destination_port: if echo {
                identifier
            } else {
                u16::from(code).to_be()
            },
        }
    }
}

/// Flags or chunk type, and the header's length.
#[inline(always)]
fn read_control(kind: Kind, third: Option<u32>, room: u32) -> Result<(u8, u8), Reason> {
    match kind {
        Kind::Udp => Ok((0, 8)),
        Kind::Tcp => {
            let [offset, flags, ..] = third.ok_or(Reason::Malformed)?.to_ne_bytes();
            let length = (offset >> 4) * 4;
            if length < 20 || u32::from(length) > room {
                return Err(Reason::Malformed);
            }
            Ok((flags, length))
        }
        _ => {
            let [chunk, ..] = third.ok_or(Reason::Malformed)?.to_ne_bytes();
            Ok((chunk, 12))
        }
    }
}
