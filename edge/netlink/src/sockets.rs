//! Sockets of a namespace that are connected to somebody: found, and ended (`sock_diag`, which is
//! `ss -K`). Their processes are told `ECONNABORTED`.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_sys::{Socket, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use nix::libc::{IPPROTO_TCP, IPPROTO_UDP};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::NetlinkError;

/// How long one answer may take, in seconds.
const PATIENCE_S: i64 = 10;
/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` of `linux/sock_diag.h`.
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// `NLMSG_ERROR` and `NLMSG_DONE`; the flags of `linux/netlink.h`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct inet_diag_msg` is `family, state, timer, retrans`, then the id.
const ID_AT: usize = 4;
/// The length of `struct inet_diag_sockid`: two ports, two addresses, an interface, a cookie.
const ID: usize = 48;
/// The length of `struct inet_diag_req_v2`: family, protocol, extensions, a pad, states, the id.
const ASK: usize = 8 + ID;
/// The states that a socket with a peer is in (`TCP_ESTABLISHED`, 1, to `TCP_CLOSING`, 11, as
/// bits), without those that no process has any more (`TCP_TIME_WAIT`, 6; `TCP_CLOSE`, 7) or not
/// yet (`TCP_LISTEN`, 10). UDP knows `TCP_ESTABLISHED` alone.
const WITH_PEER: u32 = 0b1011_0011_1110;

/// A protocol whose sockets can be looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP; only connected sockets have a peer.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A socket as the kernel tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerSocket {
    /// By which it is known in the kernel, to eBPF programs too.
    pub cookie: u64,
    /// Its own end.
    pub local: SocketAddr,
    /// Whom it is connected to: IPv4 also of a socket of IPv6.
    pub peer: SocketAddr,
    family: u8,
    transport: Transport,
    /// `struct inet_diag_sockid`, as the kernel wants it back.
    id: [u8; ID],
}

/// A `sock_diag` socket: one network namespace's sockets.
pub struct Sockets {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Of the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::connect().map_err(|source| failed("cannot open a sock_diag socket", source))
    }

    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; 32 << 10],
        })
    }

    /// Every socket that has a peer. One that comes or goes meanwhile may be missed.
    pub fn connected(&mut self, transport: Transport) -> Result<Vec<PeerSocket>, NetlinkError> {
        let mut found = Vec::new();
        for family in [nix::libc::AF_INET, nix::libc::AF_INET6] {
            let family = u8::try_from(family).unwrap_or_default();
            let ask = request(family, transport, WITH_PEER, &[0; ID]);
            let dumped = self.exchange(BY_FAMILY, DUMP, &ask, |message| {
                found.extend(read(message, transport));
            });
            match dumped {
                // A kernel without IPv6, or without the protocol's part (it loads it if it can).
                Err(error) if error.is_absent() => {}
                other => other?,
            }
        }
        Ok(found)
    }

    /// Ends a socket; false if it is gone already. A kernel without `INET_DIAG_DESTROY`
    /// refuses with `EOPNOTSUPP`.
    pub fn end(&mut self, socket: &PeerSocket) -> Result<bool, NetlinkError> {
        let ask = request(socket.family, socket.transport, u32::MAX, &socket.id);
        match self.exchange(DESTROY, ACK, &ask, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if error.is_absent() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends those of these cookies that are connected to whom is said of them; gives the cookies
    /// that were found.
    pub fn end_all(
        &mut self,
        transport: Transport,
        wanted: &BTreeMap<u64, SocketAddr>,
    ) -> Result<Vec<u64>, NetlinkError> {
        let mut ended = Vec::new();
        for socket in self.connected(transport)? {
            // A cookie is never given twice, but the socket may have connected to another since.
            if wanted.get(&socket.cookie) == Some(&socket.peer) && self.end(&socket)? {
                ended.push(socket.cookie);
            }
        }
        Ok(ended)
    }

    fn exchange(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), NetlinkError> {
        let what = if kind == DESTROY {
            "cannot end a socket"
        } else {
            "cannot list sockets"
        };
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend(length.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | flags).to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(body);
        let sent = self.socket.send(&message, 0);
        sent.map_err(|source| failed(what, source))?;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other.map_err(|source| failed(what, source))?,
            };
            let mut rest = &self.buffer[..length];
            while let Some((message, more)) = next(rest) {
                rest = more;
                if message.sequence != self.sequence {
                    continue;
                }
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => return acknowledged(what, message.body),
                    _ => take(message.body),
                }
            }
        }
    }
}

fn failed(what: &str, source: io::Error) -> NetlinkError {
    NetlinkError::Socket {
        what: what.to_owned(),
        source,
    }
}

fn acknowledged(what: &str, body: &[u8]) -> Result<(), NetlinkError> {
    let number = body
        .first_chunk()
        .map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    if number == 0 {
        return Ok(());
    }
    let source = io::Error::from_raw_os_error(number.saturating_abs());
    let (what, kernel) = (what.to_owned(), String::new());
    Err(NetlinkError::Refused {
        what,
        source,
        kernel,
    })
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

/// The message at the head of a datagram, and what follows.
fn next(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let whole = bytes.get(..length).filter(|_| length >= HEADER)?;
    let message = Message {
        kind: u16::from_ne_bytes([whole[4], whole[5]]),
        sequence: u32::from_ne_bytes([whole[8], whole[9], whole[10], whole[11]]),
        body: &whole[HEADER..],
    };
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((message, rest))
}

fn request(family: u8, transport: Transport, states: u32, id: &[u8; ID]) -> [u8; ASK] {
    let protocol = match transport {
        Transport::Tcp => IPPROTO_TCP,
        Transport::Udp => IPPROTO_UDP,
    };
    let mut ask = [0; ASK];
    ask[0] = family;
    ask[1] = u8::try_from(protocol).unwrap_or_default();
    ask[4..8].copy_from_slice(&states.to_ne_bytes());
    ask[8..].copy_from_slice(id);
    ask
}

fn read(message: &[u8], transport: Transport) -> Option<PeerSocket> {
    let family = *message.first()?;
    let id: [u8; ID] = *message.get(ID_AT..)?.first_chunk()?;
    let address = |at: usize| -> IpAddr {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&id[at..at + 16]);
        if i32::from(family) == nix::libc::AF_INET {
            Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()
        } else {
            Ipv6Addr::from(bytes).to_canonical()
        }
    };
    let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
    let word = |at: usize| u32::from_ne_bytes([id[at], id[at + 1], id[at + 2], id[at + 3]]);
    let socket = PeerSocket {
        // Two words, the lower one first.
        cookie: u64::from(word(40)) | u64::from(word(44)) << 32,
        local: SocketAddr::new(address(4), port(0)),
        peer: SocketAddr::new(address(20), port(2)),
        family,
        transport,
        id,
    };
    (socket.peer.port() != 0).then_some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_and_what_is_short_is_not() {
        let mut message = vec![0; 72];
        message[0] = 2;
        message[4..8].copy_from_slice(&[0x9c, 0x40, 0, 80]);
        message[8..12].copy_from_slice(&[10, 0, 0, 1]);
        message[24..28].copy_from_slice(&[10, 0, 0, 2]);
        message[44..52].copy_from_slice(&[7, 0, 0, 0, 1, 0, 0, 0]);
        let socket = read(&message, Transport::Tcp).unwrap();
        assert_eq!(socket.local.to_string(), "10.0.0.1:40000");
        assert_eq!(socket.peer.to_string(), "10.0.0.2:80");
        assert_eq!(socket.cookie, (1 << 32) + 7);
        for length in 0..52 {
            assert!(read(&message[..length], Transport::Tcp).is_none());
        }
        message[0] = 10;
        message[24..40].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 2]);
        let socket = read(&message, Transport::Udp).unwrap();
        assert_eq!(
            socket.peer.to_string(),
            "10.0.0.2:80",
            "IPv4 over a socket of IPv6"
        );
    }

    #[test]
    fn datagrams_are_cut_into_messages() {
        let one = |length: u32, body: &[u8]| {
            let mut bytes = length.to_ne_bytes().to_vec();
            bytes.extend([20, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
            bytes.extend(body);
            bytes
        };
        let mut both = one(18, &[1, 2, 0, 0]);
        both.extend(one(16, &[]));
        let (first, rest) = next(&both).unwrap();
        assert_eq!(
            (first.kind, first.sequence, first.body),
            (20, 9, &[1, 2][..])
        );
        let (second, rest) = next(rest).unwrap();
        assert!(second.body.is_empty() && rest.is_empty());
        for wrong in [one(15, &[]), one(400, &[]), vec![1]] {
            assert!(next(&wrong).is_none());
        }
    }
}
