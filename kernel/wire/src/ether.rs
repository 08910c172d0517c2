use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of an Ethernet header without a tag: where the network header begins.
pub const ETHERNET: u32 = 14;

/// An Ethernet header (IEEE 802.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ethernet {
    /// Whom it is for.
    pub destination: [u8; 6],
    /// Who sent it.
    pub source: [u8; 6],
    /// What follows, network order: one of [`ethertype`].
    pub kind: u16,
}

/// Types of Ethernet frames, as they are in memory.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800_u16.to_be();
    /// ARP.
    pub const ARP: u16 = 0x0806_u16.to_be();
    /// IPv6.
    pub const IPV6: u16 = 0x86dd_u16.to_be();
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100_u16.to_be();
    /// 802.1ad service tag.
    pub const SERVICE_VLAN: u16 = 0x88a8_u16.to_be();
}

impl Ethernet {
    /// For more than one station: multicast or broadcast.
    #[inline(always)]
    pub const fn is_group(&self) -> bool {
        self.destination[0] & 1 != 0
    }
}

/// ARP for IPv4 over Ethernet (RFC 826).
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Arp {
    /// Kind of link, network order: 1 is Ethernet.
    pub hardware: u16,
    /// Kind of address, network order: an [`ethertype`].
    pub network: u16,
    /// Lengths of the two.
    pub lengths: [u8; 2],
    /// What is said, network order.
    pub operation: u16,
    /// The sender's MAC.
    pub sender_mac: [u8; 6],
    /// Its address.
    pub sender: [u8; 4],
    /// Whom it is about.
    pub target_mac: [u8; 6],
    /// Its address.
    pub target: [u8; 4],
}

impl Arp {
    /// For IPv4 over Ethernet, as the other fields are read.
    #[inline(always)]
    pub const fn is_ipv4_over_ethernet(&self) -> bool {
        self.hardware == 1_u16.to_be()
            && self.network == ethertype::IPV4
            && self.lengths[0] == 6
            && self.lengths[1] == 4
    }
}

const _: () = {
    assert!(size_of::<Ethernet>() == ETHERNET as usize);
    assert!(size_of::<Arp>() == 28);
};
