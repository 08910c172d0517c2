use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// A pod of this node, by its address.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Endpoint {
    /// Its host-side link, in the node's namespace.
    pub ifindex: u32,
    /// The MAC of its interface.
    pub mac: [u8; 6],
    /// The MAC of its host-side link.
    pub host_mac: [u8; 6],
    /// Its identity; zero until there is policy.
    pub identity: u32,
    /// Zero; room for flags.
    pub flags: u32,
}

/// A host-side link of this node, by its index: whose packets come from it.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Link {
    /// The MAC of the pod's interface.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// The pod's identity; zero until there is policy.
    pub identity: u32,
    /// Zero; room for flags.
    pub flags: u32,
}

/// The key of a longest-prefix table: the kernel's `struct bpf_lpm_trie_key`.
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
pub struct PrefixKey {
    /// Bits of `address` that count, machine order; 96 more than an IPv4 prefix has.
    pub length: u32,
    /// The network's address.
    pub address: Address,
}

/// The node that owns a range of pod addresses.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Remote {
    /// That node's address: the next hop for its pods. Of the range's family.
    pub next_hop: Address,
    /// Zero; room for flags.
    pub flags: u32,
}

/// Bits of [`Config::flags`].
pub mod config_flags {
    /// Send no event for a new or closed connection.
    pub const QUIET: u32 = 1;
}

/// What holds for the whole node; the only entry of its map.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Config {
    /// The policy revision; a connection judged under an older one is judged again.
    pub revision: u32,
    /// [`config_flags`].
    pub flags: u32,
}

const _: () = {
    assert!(size_of::<Endpoint>() == 24);
    // As an Ethernet header has them: the programs copy both at once.
    assert!(core::mem::offset_of!(Endpoint, mac) == 4);
    assert!(core::mem::offset_of!(Endpoint, host_mac) == 10);
    assert!(size_of::<Link>() == 16);
    assert!(size_of::<PrefixKey>() == 20);
    assert!(size_of::<Remote>() == 20);
    assert!(size_of::<Config>() == 8);
};
