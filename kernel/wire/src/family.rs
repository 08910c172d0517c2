use watari_abi::{Address, Reason, Tuple};
use zerocopy::{FromBytes, FromZeros, Immutable, KnownLayout};

use crate::{Frame, Refused, Sum, Walk};

/// Which part of a datagram a fragment is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fragment {
    /// Names the datagram; as it is in memory (IPv4: two bytes, then zeros).
    pub id: u32,
    /// The protocol that the fragment names, which begins the datagram.
    pub protocol: u8,
    /// The first one, which has the ports.
    pub first: bool,
}

/// What the headers of the network layer say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    /// IANA number of the protocol behind them.
    pub protocol: u8,
    /// Where its header begins, from the first byte of the frame.
    pub transport: u32,
    /// Where the packet ends, without what pads the frame.
    pub end: u32,
    /// The packet is a part of a datagram.
    pub fragment: Option<Fragment>,
}

/// How many more hops a packet may go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HopLimit {
    /// It may go on.
    Enough,
    /// It ends here; whoever sent it shall be told.
    Expired,
}

/// A family of addresses: what differs between IPv4 and IPv6, and nothing else.
pub trait Family {
    /// The fixed part of the header.
    type Header: FromBytes + Copy;
    /// The version in its first four bits.
    const VERSION: u8;
    /// Bytes of the fixed part.
    const HEADER: u32;
    /// The protocol number of its ICMP.
    const ICMP: u8;
    /// Whether the checksum of its ICMP covers addresses (the pseudo header of RFC 8200).
    const ICMP_COVERS_ADDRESSES: bool;

    /// Who sent it.
    fn source(header: &Self::Header) -> Address;
    /// Whom it is for.
    fn destination(header: &Self::Header) -> Address;

    /// Refuses addresses that no real packet has, before any table is asked for them.
    fn check(header: &Self::Header) -> Result<(), Reason>;

    /// Reads what follows the fixed header at `offset`. `whole`: the packet is all there (the one
    /// that an ICMP error quotes is not). `walk` is memory for the extension headers, if there are
    /// some.
    fn locate(
        frame: &impl Frame,
        header: &Self::Header,
        offset: u32,
        whole: bool,
        walk: &mut Walk,
    ) -> Result<Network, Reason>;

    /// Whether it may go one hop further.
    fn hops(header: &Self::Header) -> HopLimit;

    /// One hop less, with the checksums that cover it.
    fn decrement(frame: &mut impl Frame, header: &Self::Header) -> Result<(), Refused>;

    /// Writes other addresses into the header at `offset`, and its own checksum. Gives the change
    /// that a pseudo header sees; whether a sum over the packet must follow is said there.
    fn readdress(
        frame: &mut impl Frame,
        offset: u32,
        from: &Tuple,
        to: &Tuple,
    ) -> Result<Sum, Refused>;

    /// For more than one receiver: multicast, or broadcast.
    fn is_group(address: &Address) -> bool;

    /// An address that means something on one link alone, and is unique nowhere else.
    fn is_local(address: &Address) -> bool;

    /// The packet speaks of neighbours or groups of one link (NDP, MLD); `kind` is the ICMP type.
    fn is_neighbourly(kind: u8) -> bool;

    /// An ICMP error, which quotes the packet that it is about.
    fn is_error(kind: u8) -> bool;

    /// The ICMP types of an echo request and of its reply.
    const ECHO: (u8, u8);
}
