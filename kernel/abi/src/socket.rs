use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

macro_rules! hooks {
    ($($(#[$doc:meta])* $variant:ident = $number:literal, $name:literal;)*) => {
        /// What a process does with a socket, where a program sees it. The numbers are the kernel's
        /// (`enum bpf_attach_type` of `linux/bpf.h`).
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u32)]
        pub enum SocketHook { $($(#[$doc])* $variant = $number,)* }

        impl SocketHook {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name of the program there, and of the hook.
            pub const fn program(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

hooks! {
    /// `connect(2)`, IPv4; UDP to a mapped address too.
    Connect4 = 10, "connect4";
    /// The same of IPv6; TCP to a mapped address too.
    Connect6 = 11, "connect6";
    /// A datagram to an address that is given with it.
    Sendmsg4 = 14, "sendmsg4";
    /// The same of IPv6.
    Sendmsg6 = 15, "sendmsg6";
    /// A datagram is handed to the process with its sender's address.
    Recvmsg4 = 19, "recvmsg4";
    /// The same of a socket of IPv6, from mapped addresses too.
    Recvmsg6 = 20, "recvmsg6";
    /// `getpeername(2)`.
    Getpeername4 = 29, "getpeername4";
    /// The same of IPv6.
    Getpeername6 = 30, "getpeername6";
    /// A socket is closed for good.
    Release = 34, "sock_release";
}

/// One Service that a datagram socket talks to.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Talk {
    /// The Service's address.
    pub asked: Address,
    /// The address of the backend that it was given.
    pub peer: Address,
    /// The Service's port, network order.
    pub asked_port: u16,
    /// The backend's, network order.
    pub peer_port: u16,
    /// The Service's port: a key of [`maps::SERVICE_NAMES`](crate::maps).
    pub service: u32,
    /// The backend's number; zero: there is no such talk.
    pub backend: u32,
    /// [`socket_flags`].
    pub flags: u32,
}

/// Bits of [`Talk::flags`] and of [`SocketService::flags`](crate::SocketService::flags).
pub mod socket_flags {
    /// It counts in [`maps::BACKEND_LOADS`](crate::maps).
    pub const COUNTED: u16 = 1;
}

/// What a datagram socket talks to: the last few Services. It goes with the socket.
#[derive(
    Clone, Copy, PartialEq, Eq, Default, Debug, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Talks {
    /// Each of them.
    pub talks: [Talk; Self::MOST],
    /// Which is the next to be forgotten, modulo their number.
    pub next: u32,
    /// Zero.
    pub pad: u32,
}

impl Talks {
    /// How many Services one socket may talk to at once, and stay with its backends.
    pub const MOST: usize = 4;
}

const _: () = {
    assert!(size_of::<Talk>() == 48);
    assert!(size_of::<Talks>() == 48 * Talks::MOST + 8);
};
