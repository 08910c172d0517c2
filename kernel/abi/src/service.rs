use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Address;

macro_rules! plain {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
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
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
    };
}

plain! {
    /// Where a Service is reached: an address and a port of it. With port and protocol zero it is
    /// the entry of the address itself, which says what becomes of its other ports.
    FrontendKey {
        /// The Service's address, or one of this node's for a node port.
        address: Address,
        /// Network order.
        port: u16,
        /// IANA protocol number.
        protocol: u8,
        /// Zero.
        pad: u8,
    }
}

plain! {
    /// The key of [`maps::PORT_RANGES`](crate::maps): a longest-prefix key of an address, a protocol and
    /// a port. A range is as many prefixes as it takes; `length` counts bits from the address on:
    /// 152 for one port, 136 for all of a protocol's.
    PortRangeKey {
        /// Bits that count, machine order.
        length: u32,
        /// The Service's address.
        address: Address,
        /// IANA protocol number.
        protocol: u8,
        /// The port, most significant byte first.
        port: [u8; 2],
        /// Zero.
        pad: u8,
    }
}

plain! {
    /// What is behind a [`FrontendKey`].
    Frontend {
        /// The Service's port: a key of [`maps::SERVICE_NAMES`](crate::maps). Zero in an address' entry.
        service: u32,
        /// The backends of clients inside the cluster (pods, and this node's processes): an index of
        /// [`maps::SETS`](crate::maps); zero for no backend at all.
        inside: u32,
        /// Those of clients outside.
        outside: u32,
        /// For clients outside, the set that is a table of Maglev; zero: any of `outside`.
        ring: u32,
        /// How long a client stays with its backend after its last connection, in seconds; zero: not
        /// at all.
        affinity: u32,
        /// [`frontend_flags`].
        flags: u32,
    }
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// Without a backend, packets of clients inside are dropped; else they are refused.
    pub const INSIDE_DROPS: u32 = 1;
    /// The same for clients outside.
    pub const OUTSIDE_DROPS: u32 = 2;
    /// Clients outside keep their source: all of `outside` are on this node.
    pub const KEEPS_SOURCE: u32 = 4;
    /// Clients outside are held to the Service's source ranges.
    pub const SOURCE_RANGES: u32 = 8;
    /// The backend answers clients outside by itself.
    pub const DIRECT_RETURN: u32 = 16;
    /// Of two backends the one with fewer connections is chosen.
    pub const LEAST_CONNECTIONS: u32 = 32;
    /// The backend gets the port that the client chose (a range of ports).
    pub const KEEPS_PORT: u32 = 64;
    /// In an address' entry: other ports are refused. Without it the stack has them.
    pub const REFUSES_OTHERS: u32 = 128;
    /// In an address' entry: it has ranges of ports.
    pub const HAS_RANGES: u32 = 256;
    /// The address is the node's own: what is no Service's is the node's.
    pub const NODE_PORT: u32 = 512;
    /// Clients outside are judged as clients inside, and have their source translated (a
    /// cluster address that is reached from outside).
    pub const CLUSTER_ADDRESS: u32 = 1024;
    /// The address is a load balancer's. No program asks: it is for who reads the tables back.
    pub const LOAD_BALANCER: u32 = 2048;
}

plain! {
    /// A set of backends: a stretch of [`maps::SLOTS`](crate::maps). Eight bytes, so that a program sees
    /// it as it was or as it is. A backend of weight two stands in two slots.
    Set {
        /// Its first slot.
        base: u32,
        /// How many slots it has.
        count: u32,
    }
}

plain! {
    /// An endpoint of a Service, by its number. It stays as it is while any slot has its number,
    /// and for a while longer.
    Backend {
        /// Its address.
        address: Address,
        /// Its port, network order.
        port: u16,
        /// [`backend_flags`].
        flags: u16,
    }
}

/// Bits of [`Backend::flags`].
pub mod backend_flags {
    /// It takes new connections; without it only those that it has go on (a remembered client's too
    /// chooses anew).
    pub const READY: u16 = 1;
}

plain! {
    /// A client that stays with its backend.
    AffinityKey {
        /// The client's address: of the pod, or this node's. At the socket it comes of
        /// [`maps::CLIENTS`](crate::maps), so both ways know a client by the same.
        client: Address,
        /// The Service's port: a key of [`maps::SERVICE_NAMES`](crate::maps).
        service: u32,
    }
}

plain! {
    /// With whom it stays.
    Affinity {
        /// When it last opened a connection, in ns of `CLOCK_MONOTONIC`.
        seen: u64,
        /// The backend's number.
        backend: u32,
        /// Zero.
        pad: u32,
    }
}

plain! {
    /// A socket that was given another destination than it asked for.
    ///
    /// A stream socket has one peer, and one entry: address and port are zeros. A datagram socket
    /// may have many, and an entry for each.
    SocketKey {
        /// The kernel's cookie of the socket.
        cookie: u64,
        /// The backend's address, of a datagram socket.
        address: Address,
        /// Its port, network order.
        port: u16,
        /// IANA protocol number.
        protocol: u8,
        /// Zero.
        pad: [u8; 5],
    }
}

plain! {
    /// What it asked for.
    SocketService {
        /// The Service's address.
        address: Address,
        /// Its port, network order.
        port: u16,
        /// [`socket_flags`](crate::socket_flags).
        flags: u16,
        /// The Service's port: a key of [`maps::SERVICE_NAMES`](crate::maps).
        service: u32,
        /// The backend's number.
        backend: u32,
    }
}

plain! {
    /// The key of [`maps::SOURCE_RANGES`](crate::maps): a longest-prefix key of a Service's port and a
    /// client's network; `length` is 32 more than that of the network.
    SourceRangeKey {
        /// Bits that count, machine order.
        length: u32,
        /// The Service's port, all bits of it.
        service: u32,
        /// The network.
        address: Address,
    }
}

plain! {
    /// Whose processes are in a network namespace, by the kernel's cookie of it: what a socket's
    /// packets will have for a source. Unspecified for a family that it has not.
    Client {
        /// IPv4, mapped.
        v4: Address,
        /// IPv6.
        v6: Address,
    }
}

/// What a Service's port is called: `NAMESPACE/NAME:PORT`, UTF-8, filled up with zeros; its names are at
/// most 63 bytes each.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Debug,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
#[repr(C)]
pub struct ServiceName {
    /// The text.
    pub text: [u8; 192],
}

const _: () = {
    assert!(size_of::<FrontendKey>() == 20);
    assert!(size_of::<PortRangeKey>() == 24);
    assert!(size_of::<Frontend>() == 24);
    assert!(size_of::<Set>() == 8);
    assert!(size_of::<Backend>() == 20);
    assert!(size_of::<AffinityKey>() == 20);
    assert!(size_of::<Affinity>() == 16);
    assert!(size_of::<SocketKey>() == 32);
    assert!(size_of::<SocketService>() == 28);
    assert!(size_of::<SourceRangeKey>() == 24);
    assert!(size_of::<Client>() == 32);
    assert!(size_of::<ServiceName>() == 192);
};
