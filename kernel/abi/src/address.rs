use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// An address of either family: sixteen bytes in network order; IPv4 as v4-mapped
/// (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2). A real IPv6 packet that carries a mapped address is
/// dropped when it is parsed, so the two never meet.
///
/// Kept as four words, so that a program compares and copies it by words; each holds its four
/// bytes as they are in memory, whatever the machine's byte order.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct Address {
    /// The address, four bytes a word.
    pub words: [u32; 4],
}

const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Address {
    /// The unspecified address `::`.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// An IPv4 address, given as its word in memory order (as it stands in a header).
    #[inline(always)]
    pub const fn v4(word: u32) -> Self {
        Self {
            words: [0, 0, MAPPED, word],
        }
    }

    /// An IPv6 address as its words in memory order; the caller checks [`Self::is_mapped`].
    #[inline(always)]
    pub const fn v6(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// True for IPv4 (a mapped address).
    #[inline(always)]
    pub const fn is_mapped(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// Sixteen bytes in network order.
    pub const fn from_octets(bytes: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut at = 0;
        while at < 4 {
            words[at] = u32::from_ne_bytes([
                bytes[at * 4],
                bytes[at * 4 + 1],
                bytes[at * 4 + 2],
                bytes[at * 4 + 3],
            ]);
            at += 1;
        }
        Self { words }
    }

    /// The sixteen bytes in network order.
    pub fn octets(&self) -> [u8; 16] {
        zerocopy::transmute!(self.words)
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(u32::from_ne_bytes(v4.octets())),
            core::net::IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        core::net::Ipv6Addr::from(address.octets()).to_canonical()
    }
}
