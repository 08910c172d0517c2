use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Connection, ConnectionKey};

/// Bytes of a dropped packet that its event carries.
pub const HEADER_BYTES: usize = 96;

/// Where a packet was seen; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Hook {
    /// Ingress of a host-side veth: from the pod.
    FromPod = 1,
    /// Egress of a host-side veth: from the stack to the pod.
    ToPod = 2,
    /// Ingress of an uplink.
    FromUplink = 3,
}

impl Hook {
    /// Every hook.
    pub const ALL: &[Self] = &[Self::FromPod, Self::ToPod, Self::FromUplink];

    /// The name of the program there, and of the hook.
    pub const fn program(self) -> &'static str {
        match self {
            Self::FromPod => "from_pod",
            Self::ToPod => "to_pod",
            Self::FromUplink => "from_uplink",
        }
    }

    /// The hook of that number, if there is one.
    pub const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::FromPod),
            2 => Some(Self::ToPod),
            3 => Some(Self::FromUplink),
            _ => None,
        }
    }
}

/// What became of a connection; numbers are never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u32)]
pub enum FlowEventKind {
    /// Its first packet was seen.
    Created = 1,
    /// It ended: TCP FIN from both sides or RST, SCTP SHUTDOWN-COMPLETE or ABORT.
    Closed = 2,
}

/// A connection was made or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct FlowEvent {
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// A [`FlowEventKind`].
    pub kind: u32,
    /// A [`Hook`].
    pub hook: u32,
    /// Which connection.
    pub key: ConnectionKey,
    /// As it was then.
    pub connection: Connection,
}

/// A packet was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct DropEvent {
    /// When, in ns of `CLOCK_MONOTONIC`.
    pub time: u64,
    /// The link at which it was seen.
    pub ifindex: u32,
    /// Its length in bytes, link header included.
    pub length: u32,
    /// A [`Reason`](crate::Reason).
    pub reason: u16,
    /// A [`Hook`].
    pub hook: u8,
    /// How many of `headers` are the packet's.
    pub captured: u8,
    /// The policy rule that decided; zero for none.
    pub rule: u32,
    /// Its first bytes, from the link header on.
    pub headers: [u8; HEADER_BYTES],
}

const _: () = {
    assert!(size_of::<FlowEvent>() == 56 + size_of::<Connection>());
    assert!(size_of::<DropEvent>() == 24 + HEADER_BYTES);
};
