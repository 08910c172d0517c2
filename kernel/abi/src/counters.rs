use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Packets and bytes, of one CPU.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes, link header included.
    pub bytes: u64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What the programs count for the whole node: entries of a per-CPU array of [`Tally`].
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Counter { $($(#[$doc])* $variant = $number,)* }

        impl Counter {
            /// Every counter.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, the metric's label.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

counters! {
    /// Delivered straight to a pod of this node.
    Delivered = 0, "delivered";
    /// Sent straight towards another node.
    Forwarded = 1, "forwarded";
    /// Handed to the stack.
    ToStack = 2, "to-stack";
    /// Delivered to a pod by the stack.
    FromStack = 3, "from-stack";
    /// Handed to the stack, since the kernel's routes know no way to the owning node.
    NoRoute = 4, "no-route";
    /// Events that found no room.
    EventsLost = 5, "events-lost";
    /// Connections that were established while their table was full.
    NotPromoted = 6, "not-promoted";
    /// Connections that found no room at all; their packets pass unrecorded.
    Untracked = 7, "untracked";
    /// Fragments whose first one was not seen; they pass unrecorded.
    FragmentUntracked = 8, "fragment-untracked";
    /// Connections opened.
    Opened = 9, "opened";
    /// TCP connections found mid-stream.
    PickedUp = 10, "picked-up";
    /// Handed to the stack since the packet is too long for the way out.
    TooLong = 11, "too-long";
    /// Handed to the stack since its time to live ends here.
    TtlExpired = 12, "ttl-expired";
}

impl Counter {
    /// Entries of the table: room for counters to come.
    pub const TABLE: u32 = 32;
}

const _: () = assert!(size_of::<Tally>() == 16);
