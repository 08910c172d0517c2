use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::Address;

/// Sender and receiver of a packet, as it stands in the packet.
///
/// Ports are in network order. ICMP echo has its identifier in both ports, other ICMP its type in
/// `source_port` and its code in `destination_port`; a protocol without ports has zeros.
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
pub struct Tuple {
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// The sender's port, network order.
    pub source_port: u16,
    /// The receiver's port, network order.
    pub destination_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// The key of a connection: a tuple with its two ends in a fixed order, so that the packets of both
/// directions find the same entry with one look-up.
///
/// The order is that of the words of address and port, last word first; it has no meaning but to
/// be the same everywhere.
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
pub struct ConnectionKey {
    /// The end that comes first.
    pub low: Address,
    /// The other end.
    pub high: Address,
    /// Port of `low`, network order.
    pub low_port: u16,
    /// Port of `high`, network order.
    pub high_port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Which end of a [`ConnectionKey`] sent something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable, KnownLayout)]
#[repr(u8)]
pub enum Side {
    /// [`ConnectionKey::low`].
    Low = 0,
    /// [`ConnectionKey::high`].
    High = 1,
}

/// Which way a packet of a connection goes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Flow {
    /// From who opened the connection.
    Original = 0,
    /// Back to who opened it.
    Reply = 1,
}

/// States of a connection; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// First packet seen, nothing came back (TCP: SYN; UDP, ICMP, others: unanswered).
    New = 1,
    /// TCP: SYN-ACK seen. SCTP: INIT-ACK seen.
    Replied = 2,
    /// TCP: handshake complete, or both directions of a picked-up connection seen. UDP, ICMP and
    /// others: answered.
    Established = 3,
    /// TCP: one side has sent FIN. SCTP: SHUTDOWN seen.
    Closing = 4,
    /// TCP: both sides have sent FIN; waits for stray packets.
    TimeWait = 5,
    /// Reset or aborted.
    Closed = 6,
    /// TCP found mid-stream, seen in one direction so far.
    PickedUp = 7,
}

/// What was decided about a direction; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// Nobody judged it yet.
    Unjudged = 0,
    /// It passes.
    Allowed = 1,
    /// It is dropped.
    Denied = 2,
}

/// How a connection is translated; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum TranslationKind {
    /// Not at all.
    None = 0,
    /// The original direction was for `address:port`, and goes to the entry's other end; replies
    /// get that source again.
    Destination = 1,
    /// The original direction leaves with the source `address:port`; replies for it go to who
    /// opened the connection.
    Source = 2,
}

/// The translation of a connection. The entry is found by what the ends really are; this is what
/// one of them believes.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Translation {
    /// The other address of the translated end.
    pub address: Address,
    /// Its other port, network order.
    pub port: u16,
    /// A [`TranslationKind`].
    pub kind: u8,
    /// Zero.
    pub pad: u8,
    /// The Service that chose it; zero for none.
    pub service: u32,
}

/// One direction of a connection.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Direction {
    /// Packets, as the programs saw them: one of many segments counts once.
    pub packets: u64,
    /// Bytes of them, link header included.
    pub bytes: u64,
    /// When the first was seen, in ns of `CLOCK_MONOTONIC`; zero for none.
    pub first: u64,
    /// When the last was seen.
    pub last: u64,
    /// The policy rule that decided; zero for none.
    pub rule: u32,
    /// The policy revision under which it was judged.
    pub revision: u32,
    /// All TCP flags seen, or-ed (RFC 9293 section 3.1).
    pub tcp_flags: u8,
    /// A [`Verdict`].
    pub verdict: u8,
    /// Zero.
    pub pad: [u8; 6],
}

/// Bits of [`Connection::flags`].
pub mod flags {
    /// The end that comes first in the key opened the connection.
    pub const LOW_IS_ORIGINATOR: u16 = 1;
    /// The stack delivers it, and may translate it: packets of both directions go to the stack.
    pub const VIA_STACK: u16 = 2;
    /// A packet from who opened it was seen where it entered the node, with this very tuple. When
    /// the stack then delivers the tuple unchanged in the same direction, nobody translates it, and
    /// [`VIA_STACK`] ends.
    pub const SEEN_AT_SOURCE: u16 = 4;
    /// Found mid-stream.
    pub const PICKED_UP: u16 = 8;
    /// The table of established connections was full when this one was; it stays where it may be
    /// evicted.
    pub const NOT_PROMOTED: u16 = 16;
    /// As [`SEEN_AT_SOURCE`], for a packet back to who opened it.
    pub const REPLY_SEEN_AT_SOURCE: u16 = 32;
    /// The stack delivered its first packet, so the tuple may be one that the stack made. It never
    /// proves itself: another connection may enter the node with that very tuple.
    pub const FROM_STACK: u16 = 64;
}

/// A connection: both directions.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Connection {
    /// When it was first seen, in ns of `CLOCK_MONOTONIC`.
    pub created: u64,
    /// From then on it counts as gone, whoever finds it.
    pub expires: u64,
    /// By [`Flow`]: from who opened it, and back.
    pub directions: [Direction; 2],
    /// How it is translated.
    pub translation: Translation,
    /// [`flags`].
    pub flags: u16,
    /// A [`State`].
    pub state: u8,
    /// Which sides have sent FIN, as bits by [`Flow`].
    pub closed: u8,
    /// The version of IP on the wire: 4 or 6.
    pub family: u8,
    /// Zero.
    pub pad: [u8; 3],
    /// Interface at which it was first seen.
    pub ifindex: u32,
    /// Zero; room for the identity of the other end.
    pub identity: u32,
    /// Makes the layout another one, for tests of upgrades.
    #[cfg(feature = "other-abi")]
    pub reserved: [u64; 1],
}

/// A datagram in fragments (RFC 791 section 3.2, RFC 8200 section 4.5).
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
pub struct FragmentKey {
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
    /// Its identification, as it stands in the header (IPv4: two bytes, then zeros).
    pub id: u32,
    /// IANA number of what the datagram begins with.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// What only the first fragment carries.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct FragmentPorts {
    /// When the first fragment passed, in ns of `CLOCK_MONOTONIC`.
    pub seen: u64,
    /// As in [`Tuple::source_port`].
    pub source_port: u16,
    /// As in [`Tuple::destination_port`].
    pub destination_port: u16,
    /// As in [`Tuple::protocol`]: behind extension headers it is another than the fragment's.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// A pod's port that it used towards somebody whom the stack may translate: an unknown packet
/// from outside to it may be such a reply, so the stack gets it.
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
pub struct StackPort {
    /// The pod.
    pub address: Address,
    /// Its port, network order.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

macro_rules! numbered {
    ($type:ident { $($variant:ident),* $(,)? }) => {
        impl $type {
            /// The value of that number, if there is one.
            #[inline(always)]
            pub const fn of(number: u8) -> Option<Self> {
                $(if number == Self::$variant as u8 { return Some(Self::$variant); })*
                None
            }
        }
    };
}

numbered!(State {
    New,
    Replied,
    Established,
    Closing,
    TimeWait,
    Closed,
    PickedUp
});
numbered!(Verdict {
    Unjudged,
    Allowed,
    Denied
});
numbered!(TranslationKind {
    None,
    Destination,
    Source
});

impl Tuple {
    /// The key of the packet's connection, and which of its ends sent the packet.
    #[inline(always)]
    pub const fn key(&self) -> (ConnectionKey, Side) {
        if self.source_is_low() {
            let key = ConnectionKey {
                low: self.source,
                high: self.destination,
                low_port: self.source_port,
                high_port: self.destination_port,
                protocol: self.protocol,
                pad: [0; 3],
            };
            (key, Side::Low)
        } else {
            let key = ConnectionKey {
                low: self.destination,
                high: self.source,
                low_port: self.destination_port,
                high_port: self.source_port,
                protocol: self.protocol,
                pad: [0; 3],
            };
            (key, Side::High)
        }
    }

    // The last word first: it is the only one that differs for IPv4.
    #[inline(always)]
    const fn source_is_low(&self) -> bool {
        let (source, destination) = (&self.source.words, &self.destination.words);
        if source[3] != destination[3] {
            return source[3] < destination[3];
        }
        if source[2] != destination[2] {
            return source[2] < destination[2];
        }
        if source[1] != destination[1] {
            return source[1] < destination[1];
        }
        if source[0] != destination[0] {
            return source[0] < destination[0];
        }
        self.source_port <= self.destination_port
    }

    /// The tuple of an answer.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }
}

impl ConnectionKey {
    /// The tuple of the packets that this side sends.
    #[inline(always)]
    pub const fn tuple(&self, sender: Side) -> Tuple {
        let low_sends = Tuple {
            source: self.low,
            destination: self.high,
            source_port: self.low_port,
            destination_port: self.high_port,
            protocol: self.protocol,
            pad: [0; 3],
        };
        match sender {
            Side::Low => low_sends,
            Side::High => low_sends.reversed(),
        }
    }
}

impl Connection {
    /// Which way a packet of this side goes.
    #[inline(always)]
    pub const fn flow(&self, sender: Side) -> Flow {
        let low_opened = self.flags & flags::LOW_IS_ORIGINATOR != 0;
        let low_sends = matches!(sender, Side::Low);
        if low_opened == low_sends {
            Flow::Original
        } else {
            Flow::Reply
        }
    }
}

const _: () = {
    assert!(size_of::<Tuple>() == 40);
    assert!(size_of::<ConnectionKey>() == 40);
    assert!(size_of::<Translation>() == 24);
    assert!(size_of::<Direction>() == 48);
    assert!(size_of::<Connection>() == 152 + if cfg!(feature = "other-abi") { 8 } else { 0 });
    assert!(size_of::<FragmentKey>() == 40);
    assert!(size_of::<FragmentPorts>() == 16);
    assert!(size_of::<StackPort>() == 20);
};
