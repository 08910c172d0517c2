use watari_abi::{Address, Reason, Tuple};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{ETHERNET, Family, Fragment, Frame, HopLimit, Network, Refused, Sum, Walk, protocol};

/// An IPv4 header without options (RFC 791). Fields of two bytes and more are in network order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv4 {
    /// Version, and the header's length in words of four bytes.
    pub version_length: u8,
    /// Type of service.
    pub service: u8,
    /// Bytes of header and payload.
    pub total: u16,
    /// Names the datagram.
    pub id: u16,
    /// Flags, and offset in units of eight bytes.
    pub fragment: u16,
    /// Hops left.
    pub ttl: u8,
    /// What follows.
    pub protocol: u8,
    /// Over the header.
    pub checksum: u16,
    /// Who sent it.
    pub source: u32,
    /// Whom it is for.
    pub destination: u32,
}

/// IPv4.
#[derive(Clone, Copy, Debug)]
pub struct V4;

const TTL: u32 = ETHERNET + 8;
const CHECKSUM: u32 = 10;
const SOURCE: u32 = 12;
const MORE: u16 = 0x2000_u16.to_be();
const OFFSET: u16 = 0x1fff_u16.to_be();

/// The word of an address, as it is in memory.
#[inline(always)]
const fn word(address: &Address) -> u32 {
    address.words[3]
}

impl Family for V4 {
    type Header = Ipv4;
    const VERSION: u8 = 4;
    const HEADER: u32 = 20;
    const ICMP: u8 = protocol::ICMP;
    const ICMP_COVERS_ADDRESSES: bool = false;
    const ECHO: (u8, u8) = (8, 0);

    #[inline(always)]
    fn source(header: &Ipv4) -> Address {
        Address::v4(header.source)
    }

    #[inline(always)]
    fn destination(header: &Ipv4) -> Address {
        Address::v4(header.destination)
    }

    #[inline(always)]
    fn check(_: &Ipv4) -> Result<(), Reason> {
        Ok(())
    }

    #[inline(always)]
    fn locate(
        frame: &impl Frame,
        header: &Ipv4,
        offset: u32,
        whole: bool,
        _: &mut Walk,
    ) -> Result<Network, Reason> {
        let start = offset;
        let length = u32::from(header.version_length & 0xf) * 4;
        let total = u32::from(u16::from_be(header.total));
        if header.version_length >> 4 != 4 || length < 20 {
            return Err(Reason::Malformed);
        }
        // Zero is the length of a packet that is too long for the field: many segments at once
        // (Linux' "BIG TCP"). The kernel made it, so what it says of the frame holds.
        let end = if total == 0 && frame.length() > 0xffff {
            frame.length()
        } else if total < length || (whole && start + total > frame.length()) {
            return Err(Reason::Malformed);
        } else {
            start + total
        };
        let fragment = if header.fragment & (MORE | OFFSET) == 0 {
            None
        } else {
            Some(Fragment {
                id: u32::from_ne_bytes({
                    let [high, low] = header.id.to_ne_bytes();
                    [high, low, 0, 0]
                }),
                protocol: header.protocol,
                first: header.fragment & OFFSET == 0,
            })
        };
        Ok(Network {
            protocol: header.protocol,
            transport: start + length,
            end,
            fragment,
        })
    }

    #[inline(always)]
    fn hops(header: &Ipv4) -> HopLimit {
        if header.ttl > 1 {
            HopLimit::Enough
        } else {
            HopLimit::Expired
        }
    }

    #[inline(always)]
    fn decrement(frame: &mut impl Frame, header: &Ipv4) -> Result<(), Refused> {
        let before = u16::from_ne_bytes([header.ttl, header.protocol]);
        let after = u16::from_ne_bytes([header.ttl.wrapping_sub(1), header.protocol]);
        let checksum = Sum::ZERO
            .minus16(before)
            .plus16(after)
            .correct(header.checksum);
        frame.store_fixed(TTL, [after, checksum])
    }

    #[inline(always)]
    fn readdress(
        frame: &mut impl Frame,
        offset: u32,
        from: &Tuple,
        to: &Tuple,
    ) -> Result<Sum, Refused> {
        let change = Sum::ZERO
            .minus32(word(&from.source))
            .minus32(word(&from.destination))
            .plus32(word(&to.source))
            .plus32(word(&to.destination));
        let checksum: u16 = frame.load(offset + CHECKSUM).ok_or(Refused)?;
        frame.store(offset + CHECKSUM, change.correct(checksum))?;
        frame.store(offset + SOURCE, [word(&to.source), word(&to.destination)])?;
        Ok(change)
    }

    #[inline(always)]
    fn is_group(address: &Address) -> bool {
        let [first, ..] = word(address).to_ne_bytes();
        first & 0xf0 == 0xe0 || word(address) == u32::MAX
    }

    #[inline(always)]
    fn is_local(_: &Address) -> bool {
        false
    }

    #[inline(always)]
    fn is_neighbourly(_: u8) -> bool {
        false
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 3 | 4 | 11 | 12)
    }
}

const _: () = assert!(size_of::<Ipv4>() == V4::HEADER as usize);
