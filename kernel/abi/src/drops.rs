use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// Why a packet was dropped. Numbers are never reused; the name is the metric's label.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u16)]
        pub enum Reason { $($(#[$doc])* $variant = $number,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason of that number, if there is one.
            pub const fn of(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

reasons! {
    /// A pod sent from an address that is not its own.
    SpoofedAddress = 1, "spoofed-address";
    /// A pod sent from a MAC that is not its own.
    SpoofedMac = 2, "spoofed-mac";
    /// An IPv6 packet carries an IPv4-mapped address, which no real packet does.
    MappedAddress = 3, "mapped-address";
    /// A header says it is longer than the packet is, or shorter than it can be.
    Malformed = 4, "malformed";
    /// More IPv6 extension headers than are looked at.
    TooManyHeaders = 5, "too-many-headers";
    /// A pod sent a frame with an 802.1Q tag.
    Tagged = 6, "tagged";
    /// A packet that came from no pod that this node knows of.
    UnknownLink = 7, "unknown-link";
    /// The kernel refused to change the packet.
    RewriteFailed = 8, "rewrite-failed";
    /// The kernel refused to redirect the packet.
    RedirectFailed = 9, "redirect-failed";
    /// A policy denies it.
    Policy = 10, "policy";
    /// An IPv6 routing header of a type that is forbidden (RFC 5095).
    RoutingHeader = 11, "routing-header";
}

impl Reason {
    /// Entries of the table of totals: room for reasons to come.
    pub const TABLE: u32 = 64;
}

/// Whose packets were dropped, and why.
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
pub struct DropKey {
    /// The link at which the packet was seen.
    pub ifindex: u32,
    /// A [`Reason`].
    pub reason: u16,
    /// A [`Hook`](crate::Hook).
    pub hook: u8,
    /// Zero.
    pub pad: u8,
}

const _: () = assert!(size_of::<DropKey>() == 8);
