use watari_abi::{
    Address, ConnectionKey, Counter, Endpoint, FragmentKey, FragmentPorts, Reason, Side, Tuple,
};
use watari_wire::{ETHERNET, Family, Fragment, Kind, Transport, Walk, protocol, sctp, tcp};
use zerocopy::{FromZeros, Immutable, KnownLayout};

use crate::state::{self, FRAGMENT};
use crate::{Env, Step};

/// How much of a datagram the packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromZeros, Immutable, KnownLayout)]
#[repr(u8)]
pub(crate) enum Part {
    /// All of it.
    Whole,
    /// Its beginning, with the ports.
    First,
    /// A later part; the first one told its ports.
    Later,
    /// A later part; nobody knows its ports.
    Unknown,
}

/// What an ICMP error quotes of the packet that it is about.
#[derive(FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Quoted {
    pub(crate) tuple: Tuple,
    /// Of its connection.
    pub(crate) key: ConnectionKey,
    /// Where its transport header begins.
    pub(crate) transport: u32,
    /// Which end of the key sent it.
    pub(crate) side: Side,
    pub(crate) kind: Kind,
}

/// How a connection begins.
#[derive(FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Plan {
    /// How long it is kept without another packet, in ns.
    pub(crate) timeout: u64,
    /// Its [`watari_abi::flags`].
    pub(crate) flags: u16,
    /// Its [`watari_abi::State`].
    pub(crate) state: u8,
    /// The packet goes back to who opened the connection.
    pub(crate) answers: bool,
    /// The packet counts where it is seen now.
    pub(crate) counts: bool,
    /// It takes the place of one among the established.
    pub(crate) replaces: bool,
}

/// A packet that was read, and what was found out about it.
///
/// The caller lends the memory. In the kernel it is a map's: what a program keeps there takes no
/// stack, and the verifier forgets what it knows of it, so it need not follow each combination of
/// values to the end.
#[derive(FromZeros, Immutable, KnownLayout)]
#[repr(C)]
pub struct Packet {
    // Of every packet, in as few lines of the cache as may be.
    pub(crate) tuple: Tuple,
    /// Of its connection.
    pub(crate) key: ConnectionKey,
    /// When it was seen.
    pub(crate) now: u64,
    /// Where the transport header begins.
    pub(crate) transport: u32,
    /// Where the packet ends.
    pub(crate) end: u32,
    /// The pod that it is for, if it is one of this node.
    pub(crate) target: Endpoint,
    /// Which end of the key sent it.
    pub(crate) side: Side,
    pub(crate) kind: Kind,
    /// TCP flags, or type of the SCTP chunk; zero in later fragments.
    pub(crate) control: u8,
    /// Bytes of the transport header.
    pub(crate) header: u8,
    pub(crate) part: Part,
    /// It is for a pod of this node.
    pub(crate) local: bool,
    /// Why it is dropped: a [`Reason`].
    pub(crate) reason: u16,
    /// The link to send it by.
    pub(crate) out: u32,
    // Of some.
    /// The neighbour to send it to.
    pub(crate) next_hop: Address,
    /// How its connection begins, if it opens one.
    pub(crate) plan: Plan,
    /// The packet that it quotes, if it is an ICMP error.
    pub(crate) quoted: Quoted,
    /// How extension headers were passed, its own or those of the packet that it quotes.
    pub(crate) walk: Walk,
}

impl Default for Packet {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

impl Packet {
    /// Begins with a packet of which the addresses are known.
    #[inline(always)]
    pub(crate) fn begin<F: Family>(&mut self, header: &F::Header) {
        self.tuple = Tuple {
            source: F::source(header),
            destination: F::destination(header),
            source_port: 0,
            destination_port: 0,
            protocol: 0,
            pad: [0; 3],
        };
        self.kind = Kind::Other;
        self.control = 0;
        self.header = 0;
        self.part = Part::Whole;
        self.local = false;
    }

    /// Reads what follows the network header.
    #[inline(always)]
    pub(crate) fn read<F: Family, E: Env>(
        &mut self,
        env: &mut E,
        header: &F::Header,
    ) -> Result<(), Reason> {
        let network = F::locate(env, header, ETHERNET, true, &mut self.walk)?;
        self.transport = network.transport;
        self.end = network.end;
        self.tuple.protocol = network.protocol;
        match network.fragment {
            None => self.take(Transport::read::<F>(env, &network, true)?),
            Some(fragment) if fragment.first => {
                self.take(Transport::read::<F>(env, &network, true)?);
                self.part = Part::First;
                remember(env, &self.tuple, fragment, self.now);
            }
            Some(fragment) => self.later(env, fragment, F::ICMP),
        }
        (self.key, self.side) = self.tuple.key();
        env.step(Step::Packet { tuple: self.tuple });
        Ok(())
    }

    /// Reads the packet that this one quotes, whose network header is at `offset`. Of later
    /// fragments nobody knows the ports.
    #[inline(always)]
    pub(crate) fn read_quoted<F: Family, E: Env>(
        &mut self,
        env: &E,
        header: &F::Header,
        offset: u32,
    ) -> Result<(), Reason> {
        let network = F::locate(env, header, offset, false, &mut self.walk)?;
        if network.fragment.is_some_and(|fragment| !fragment.first) {
            return Err(Reason::Malformed);
        }
        let transport = Transport::read::<F>(env, &network, false)?;
        let quoted = &mut self.quoted;
        quoted.transport = network.transport;
        quoted.kind = transport.kind;
        quoted.tuple = Tuple {
            source: F::source(header),
            destination: F::destination(header),
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            protocol: network.protocol,
            pad: [0; 3],
        };
        (quoted.key, quoted.side) = quoted.tuple.key();
        Ok(())
    }

    #[inline(always)]
    fn take(&mut self, transport: Transport) {
        self.kind = transport.kind;
        self.control = transport.control;
        self.header = transport.header;
        self.tuple.source_port = transport.source_port;
        self.tuple.destination_port = transport.destination_port;
    }

    /// A fragment without ports. A function of its own in the object: few packets need it.
    #[inline(never)]
    fn later<E: Env>(&mut self, env: &mut E, fragment: Fragment, icmp: u8) {
        let now = self.now;
        let key = fragment_key(&self.tuple, fragment);
        let found = env
            .fragment(&key)
            .filter(|ports| state::is_recent(now, ports.seen, FRAGMENT));
        env.step(Step::Fragment {
            key,
            found: found.map(|found| *found),
        });
        let Some(ports) = found else {
            self.part = Part::Unknown;
            env.count(Counter::FragmentUntracked);
            return;
        };
        self.part = Part::Later;
        self.tuple.source_port = ports.source_port;
        self.tuple.destination_port = ports.destination_port;
        self.tuple.protocol = ports.protocol;
        self.kind = match ports.protocol {
            protocol::TCP => Kind::Tcp,
            protocol::SCTP => Kind::Sctp,
            protocol::UDP => Kind::Udp,
            number if number == icmp => Kind::Icmp,
            _ => Kind::Other,
        };
    }

    /// The TCP flags, for who counts them.
    #[inline(always)]
    pub(crate) const fn tcp_flags(&self) -> u8 {
        match self.kind {
            Kind::Tcp => self.control,
            _ => 0,
        }
    }

    /// A packet that may be the first of a connection.
    #[inline(always)]
    pub(crate) const fn opens(&self) -> bool {
        match self.kind {
            Kind::Tcp => self.control & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN,
            Kind::Sctp => self.control == sctp::INIT,
            Kind::Udp | Kind::EchoRequest | Kind::Other => true,
            _ => false,
        }
    }

    /// A packet that only answers another: who gets it opened the connection.
    #[inline(always)]
    pub(crate) const fn answers(&self) -> bool {
        match self.kind {
            Kind::Tcp => self.control & (tcp::SYN | tcp::ACK) == tcp::SYN | tcp::ACK,
            Kind::Sctp => self.control == sctp::INIT_ACK,
            Kind::EchoReply => true,
            _ => false,
        }
    }

    /// The end of a connection, or a packet that no connection has: it opens nothing.
    #[inline(always)]
    pub(crate) const fn is_stray(&self) -> bool {
        match self.kind {
            Kind::Tcp => self.control & tcp::RST != 0 || self.control & (tcp::SYN | tcp::ACK) == 0,
            Kind::Sctp => matches!(self.control, sctp::ABORT | sctp::SHUTDOWN_COMPLETE),
            _ => false,
        }
    }

    /// Its protocol has a handshake.
    #[inline(always)]
    pub(crate) const fn has_handshake(&self) -> bool {
        state::has_handshake(self.tuple.protocol)
    }

    /// Bytes from the network header on, of one segment when it is many.
    #[inline(always)]
    pub(crate) fn segment_length<E: Env>(&self, env: &E) -> u16 {
        let segment = env.segment();
        let end = if segment == 0 {
            self.end
        } else {
            self.transport + u32::from(self.header) + segment
        };
        let length = end.wrapping_sub(ETHERNET);
        u16::try_from(length).unwrap_or(u16::MAX)
    }
}

#[inline(always)]
const fn fragment_key(tuple: &Tuple, fragment: Fragment) -> FragmentKey {
    FragmentKey {
        source: tuple.source,
        destination: tuple.destination,
        id: fragment.id,
        protocol: fragment.protocol,
        pad: [0; 3],
    }
}

/// Keeps the ports for the later fragments. A function of its own in the object: few packets need
/// it.
#[inline(never)]
fn remember<E: Env>(env: &mut E, tuple: &Tuple, fragment: Fragment, now: u64) {
    let key = fragment_key(tuple, fragment);
    let ports = FragmentPorts {
        seen: now,
        source_port: tuple.source_port,
        destination_port: tuple.destination_port,
        protocol: tuple.protocol,
        pad: [0; 3],
    };
    env.remember_fragment(&key, &ports);
}
