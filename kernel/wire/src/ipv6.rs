use watari_abi::{Address, Reason, Tuple};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::extension;
use crate::{ETHERNET, Family, Frame, HopLimit, Network, Refused, Sum, Walk, protocol};

/// The fixed header of IPv6 (RFC 8200). Fields of two bytes and more are in network order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ipv6 {
    /// Version, traffic class, flow label.
    pub version_flow: [u8; 4],
    /// Bytes behind this header.
    pub payload: u16,
    /// What follows.
    pub next: u8,
    /// Hops left.
    pub hops: u8,
    /// Who sent it.
    pub source: [u32; 4],
    /// Whom it is for.
    pub destination: [u32; 4],
}

/// IPv6.
#[derive(Clone, Copy, Debug)]
pub struct V6;

const HOPS: u32 = ETHERNET + 6;
const SOURCE: u32 = 8;

#[inline(always)]
const fn plus(sum: Sum, address: &Address) -> Sum {
    let [a, b, c, d] = address.words;
    sum.plus32(a).plus32(b).plus32(c).plus32(d)
}

#[inline(always)]
const fn minus(sum: Sum, address: &Address) -> Sum {
    let [a, b, c, d] = address.words;
    sum.minus32(a).minus32(b).minus32(c).minus32(d)
}

impl Family for V6 {
    type Header = Ipv6;
    const VERSION: u8 = 6;
    const HEADER: u32 = 40;
    const ICMP: u8 = protocol::ICMPV6;
    const ICMP_COVERS_ADDRESSES: bool = true;
    const ECHO: (u8, u8) = (128, 129);

    #[inline(always)]
    fn source(header: &Ipv6) -> Address {
        Address::v6(header.source)
    }

    #[inline(always)]
    fn destination(header: &Ipv6) -> Address {
        Address::v6(header.destination)
    }

    #[inline(always)]
    fn check(header: &Ipv6) -> Result<(), Reason> {
        if Self::source(header).is_mapped() || Self::destination(header).is_mapped() {
            return Err(Reason::MappedAddress);
        }
        Ok(())
    }

    #[inline(always)]
    fn locate(
        frame: &impl Frame,
        header: &Ipv6,
        offset: u32,
        whole: bool,
        walk: &mut Walk,
    ) -> Result<Network, Reason> {
        let payload = u32::from(u16::from_be(header.payload));
        let start = offset + Self::HEADER;
        if header.version_flow[0] >> 4 != 6 || (whole && start + payload > frame.length()) {
            return Err(Reason::Malformed);
        }
        // Zero: a jumbogram (RFC 2675), or many segments at once (Linux' "BIG TCP").
        let end = if payload == 0 && frame.length() > 0xffff {
            frame.length()
        } else {
            start + payload
        };
        let direct = Network {
            protocol: header.next,
            transport: start,
            end,
            fragment: None,
        };
        if !extension::is_extension(header.next) {
            return Ok(direct);
        }
        walk.start(header.next, start, whole);
        frame.walk(walk).refused()?;
        Ok(Network {
            protocol: walk.next,
            transport: walk.offset,
            end,
            fragment: walk.fragment(),
        })
    }

    #[inline(always)]
    fn hops(header: &Ipv6) -> HopLimit {
        if header.hops > 1 {
            HopLimit::Enough
        } else {
            HopLimit::Expired
        }
    }

    #[inline(always)]
    fn decrement(frame: &mut impl Frame, header: &Ipv6) -> Result<(), Refused> {
        let before = u16::from_ne_bytes([header.next, header.hops]);
        let after = u16::from_ne_bytes([header.next, header.hops.wrapping_sub(1)]);
        frame.store_fixed(HOPS, after)?;
        frame.uncompensated(Sum::ZERO.minus16(before).plus16(after));
        Ok(())
    }

    #[inline(always)]
    fn readdress(
        frame: &mut impl Frame,
        offset: u32,
        from: &Tuple,
        to: &Tuple,
    ) -> Result<Sum, Refused> {
        let less = minus(minus(Sum::ZERO, &from.source), &from.destination);
        let change = plus(plus(less, &to.source), &to.destination);
        frame.store(offset + SOURCE, to.source.words)?;
        frame.store(offset + SOURCE + 16, to.destination.words)?;
        Ok(change)
    }

    #[inline(always)]
    fn is_group(address: &Address) -> bool {
        address.words[0].to_ne_bytes()[0] == 0xff
    }

    // Link-local (RFC 4291 section 2.5.6) and unspecified.
    #[inline(always)]
    fn is_local(address: &Address) -> bool {
        let [first, second, ..] = address.words[0].to_ne_bytes();
        // By words: they were just written so, and a wider read would wait for the writes.
        let [a, b, c, d] = address.words;
        (first == 0xfe && second & 0xc0 == 0x80) || a | b | c | d == 0
    }

    // MLD (130 to 132, 143), NDP (133 to 137).
    #[inline(always)]
    fn is_neighbourly(kind: u8) -> bool {
        matches!(kind, 130..=137 | 143)
    }

    #[inline(always)]
    fn is_error(kind: u8) -> bool {
        matches!(kind, 1..=4)
    }
}

const _: () = assert!(size_of::<Ipv6>() == V6::HEADER as usize);
