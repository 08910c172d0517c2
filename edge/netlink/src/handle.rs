use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Change, NetlinkError, Netns};

/// How long one answer may take, in seconds. The kernel answers at once but for the deletion of
/// links, which waits for a grace period and for its turn.
const PATIENCE_S: i64 = 30;
/// `NLMSGERR_ATTR_MSG` of `linux/netlink.h`.
const ATTR_MSG: u16 = 1;
/// The length of `struct nlmsghdr`.
const HEADER: usize = 16;

/// An rtnetlink socket: one network namespace's links, addresses, routes and neighbours.
pub struct Handle {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// One message to the kernel, with the words for its failure.
pub(crate) struct Outgoing {
    pub message: RouteNetlinkMessage,
    pub flags: u16,
}

impl Handle {
    /// A handle on the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::connect().map_err(|source| NetlinkError::Socket {
            what: "cannot open a route netlink socket".to_owned(),
            source,
        })
    }

    /// A handle on `netns`; the calling thread stays where it is.
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        netns.within(Self::open)?
    }

    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.set_netlink_get_strict_chk(true)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; 32 * 1024],
        })
    }

    /// Makes the changes in order, in one system call. The kernel goes on after a failure, so
    /// later changes may stand although an earlier one failed; the first failure is returned.
    pub fn batch(&mut self, changes: &[Change<'_>]) -> Result<(), NetlinkError> {
        let results = self.batch_each(changes)?;
        results.into_iter().collect()
    }

    /// Like [`Self::batch`], with a result for each change.
    pub fn batch_each(
        &mut self,
        changes: &[Change<'_>],
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(changes.len() * 128);
        for change in changes {
            let Outgoing { message, flags } = change.message();
            self.append(&mut bytes, message, flags | NLM_F_ACK);
        }
        let what = || format!("{} and {} more", changes[0], changes.len() - 1);
        self.send(&bytes, what)?;
        let mut results: Vec<Option<Result<(), NetlinkError>>> = Vec::new();
        results.resize_with(changes.len(), || None);
        let mut missing = changes.len();
        while missing > 0 {
            self.receive(what, |sequence, payload| {
                let at = sequence.wrapping_sub(first) as usize;
                let (Some(slot), Incoming::Ack(ack)) = (results.get_mut(at), payload) else {
                    return;
                };
                if slot.is_none() {
                    *slot = Some(ack.into_result(|| changes[at].to_string()));
                    missing -= 1;
                }
            })?;
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Puts one question and returns its answers: one for a plain get, all for a dump. A get
    /// of what is not there is an empty answer.
    pub(crate) fn ask(
        &mut self,
        what: &str,
        message: RouteNetlinkMessage,
        dump: bool,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let flags = if dump { NLM_F_DUMP } else { NLM_F_ACK };
        let mut bytes = Vec::with_capacity(128);
        self.append(&mut bytes, message, flags);
        let want = self.sequence;
        self.send(&bytes, || what.to_owned())?;
        let mut answers = Vec::new();
        let mut end: Option<Result<(), NetlinkError>> = None;
        while end.is_none() {
            self.receive(
                || what.to_owned(),
                |sequence, payload| match payload {
                    _ if sequence != want => {}
                    Incoming::Answer(answer) => answers.push(answer),
                    Incoming::Ack(ack) => end = Some(ack.into_result(|| what.to_owned())),
                    Incoming::Done => end = Some(Ok(())),
                },
            )?;
        }
        match end {
            Some(Err(error)) if error.is_absent() => Ok(Vec::new()),
            Some(Err(error)) => Err(error),
            _ => Ok(answers),
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
        message.finalize();
        let at = bytes.len();
        // The next message starts on a multiple of four (NLMSG_ALIGN).
        bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[at..]);
    }

    fn send(&self, bytes: &[u8], what: impl Fn() -> String) -> Result<(), NetlinkError> {
        let sent = self.socket.send(bytes, 0);
        sent.map(drop).map_err(|source| NetlinkError::Socket {
            what: what(),
            source,
        })
    }

    /// Reads one datagram and hands each message in it to `take`.
    fn receive(
        &mut self,
        what: impl Fn() -> String,
        mut take: impl FnMut(u32, Incoming),
    ) -> Result<(), NetlinkError> {
        let failed = |source| NetlinkError::Socket {
            what: what(),
            source,
        };
        let length = loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(failed)?,
            }
        };
        let read = parse_all(&self.buffer[..length], &mut take);
        read.map_err(|why| NetlinkError::Answer { what: what(), why })
    }
}

/// Reads a datagram of the kernel as a [`Handle`] does, and drops what it says. For fuzzing.
#[doc(hidden)]
pub fn read_datagram(bytes: &[u8]) -> Result<(), String> {
    parse_all(bytes, &mut |_, incoming| match incoming {
        Incoming::Answer(answer) => crate::query::look_at(&answer),
        Incoming::Ack(ack) => drop(ack.into_result(String::new)),
        Incoming::Done => {}
    })
}

pub(crate) fn parse_all(bytes: &[u8], take: &mut impl FnMut(u32, Incoming)) -> Result<(), String> {
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let (sequence, incoming, used) = parse(rest)?;
        take(sequence, incoming);
        rest = rest.get(used..).unwrap_or_default();
    }
    Ok(())
}

/// What the kernel sends back.
pub(crate) enum Incoming {
    Answer(RouteNetlinkMessage),
    Ack(Ack),
    Done,
}

/// An acknowledgement: an error number (0: well) and the kernel's words.
pub(crate) struct Ack {
    errno: i32,
    words: String,
}

impl Ack {
    fn into_result(self, what: impl FnOnce() -> String) -> Result<(), NetlinkError> {
        if self.errno == 0 {
            return Ok(());
        }
        let source = io::Error::from_raw_os_error(self.errno);
        Err(NetlinkError::Refused {
            what: what(),
            source,
            kernel: self.words,
        })
    }
}

/// One message at the head of `bytes`: its sequence number, itself, and its aligned length.
fn parse(bytes: &[u8]) -> Result<(u32, Incoming, usize), String> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes)
        .map_err(|error| error.to_string())?;
    let length = message.header.length as usize;
    if length < HEADER || length > bytes.len() {
        return Err(format!("a message of {length} bytes in {}", bytes.len()));
    }
    let incoming = match message.payload {
        NetlinkPayload::InnerMessage(inner) => Incoming::Answer(inner),
        NetlinkPayload::Error(error) => Incoming::Ack(Ack {
            errno: error.code.map_or(0, |code| code.get().saturating_abs()),
            words: error_words(&bytes[HEADER..length]),
        }),
        NetlinkPayload::Done(done) if done.code < 0 => Incoming::Ack(Ack {
            errno: done.code.saturating_neg(),
            words: String::new(),
        }),
        NetlinkPayload::Done(_) => Incoming::Done,
        other => return Err(format!("an unexpected message: {other:?}")),
    };
    Ok((
        message.header.sequence_number,
        incoming,
        length.next_multiple_of(4),
    ))
}

/// The kernel's words in an error message: behind the number and the header of the request
/// (`NETLINK_CAP_ACK`) follow attributes.
fn error_words(payload: &[u8]) -> String {
    let mut rest = payload.get(4 + HEADER..).unwrap_or_default();
    while let [l0, l1, k0, k1, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]);
        let Some(value) = rest.get(4..length) else {
            break;
        };
        if kind == ATTR_MSG {
            return String::from_utf8_lossy(value)
                .trim_end_matches('\0')
                .to_owned();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}
