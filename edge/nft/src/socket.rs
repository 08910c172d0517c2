//! A `NETLINK_NETFILTER` socket: transactions, look-ups and dumps.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv,
    sendmsg, sendto, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::attr::{Attrs, Malformed};
use crate::message::{ACK, DUMP, Family, Message, parse_frames};

/// `NFNL_MSG_BATCH_BEGIN`.
const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`.
const BATCH_END: u16 = 0x11;
/// `NFNL_BATCH_GENID`.
const BATCH_GENERATION: u16 = 1;
/// `NFNL_SUBSYS_NFTABLES`, which a batch names as its resource.
const NFTABLES: u16 = 10;
/// How long the kernel may take to continue a dump. It does so within `recv`; this only keeps a
/// plugin from hanging should it not.
const PATIENCE_SECONDS: i64 = 10;
/// The kernel writes at most this much of a dump at once when the reader has room for it.
const ROOM: usize = 32 * 1024;
/// Look-ups sent at once: so many replies fit a receive buffer of the default size.
const WINDOW: usize = 64;
/// Requests longer than this need a larger buffer than the default (212,992 bytes, of which the
/// kernel's own bookkeeping takes a part).
const LARGE: usize = 96 * 1024;
/// A dump that changes while it is read is read again, this many times in all.
const DUMP_ATTEMPTS: usize = 8;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error("cannot {what}: {errno}{}", advice(*errno))]
    Kernel {
        /// What was tried.
        what: String,
        /// The error number it gave.
        errno: Errno,
    },
    /// A reply does not parse.
    #[error("cannot {what}: {source}")]
    Malformed {
        /// What was tried.
        what: String,
        /// Where it breaks the format.
        source: Malformed,
    },
    /// No reply.
    #[error("cannot {what}: the kernel did not answer; is this netlink of another version?")]
    Silent {
        /// What was tried.
        what: String,
    },
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => " (CAP_NET_ADMIN in this network namespace is needed)",
        Errno::EPROTONOSUPPORT => " (the kernel has no nfnetlink: load the module nf_tables)",
        Errno::EOPNOTSUPP => {
            " (the kernel lacks this: nf_tables with nft_nat, nft_masq and nft_fib_inet are needed)"
        }
        _ => "",
    }
}

impl Error {
    /// The error number, when the kernel gave one.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Kernel { errno, .. } => Some(*errno),
            Self::Malformed { .. } | Self::Silent { .. } => None,
        }
    }

    pub(crate) fn kernel(what: &str, errno: Errno) -> Self {
        let what = what.to_owned();
        Self::Kernel { what, errno }
    }

    pub(crate) fn malformed(what: &str, source: Malformed) -> Self {
        let what = what.to_owned();
        Self::Malformed { what, source }
    }
}

/// A sequence of changes to `nf_tables` that the kernel makes all at once or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    messages: Vec<Message>,
    generation: Option<u32>,
}

impl Batch {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only if the ruleset is still of this generation; else it fails with `ERESTART`.
    #[must_use]
    pub fn at(mut self, generation: u32) -> Self {
        self.generation = Some(generation);
        self
    }

    /// Adds a change.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// The bytes of the transaction; its messages are numbered from `first` (the beginning) on.
    /// The last change asks for an acknowledgement; errors come without asking.
    pub fn encode(&self, first: u32) -> Vec<u8> {
        let body = self
            .generation
            .map_or_else(Attrs::new, |id| Attrs::new().be32(BATCH_GENERATION, id));
        let mut frame = Message::new(BATCH_BEGIN, Family::Unspecified, body, "");
        frame.resource = NFTABLES;
        let mut bytes = Vec::new();
        frame.encode(first, 0, &mut bytes);
        let mut sequence = first;
        for (at, message) in self.messages.iter().enumerate() {
            sequence = sequence.wrapping_add(1);
            let last = at + 1 == self.messages.len();
            message.encode(sequence, if last { ACK } else { 0 }, &mut bytes);
        }
        frame.kind = BATCH_END;
        frame.body = Attrs::new();
        frame.encode(sequence.wrapping_add(1), 0, &mut bytes);
        bytes
    }
}

impl Extend<Message> for Batch {
    fn extend<T: IntoIterator<Item = Message>>(&mut self, messages: T) {
        self.messages.extend(messages);
    }
}

/// The attributes of one reply.
pub type Reply = Vec<u8>;

/// A connection to netfilter of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
    enlarged: bool,
}

impl Socket {
    /// Opens one in the current network namespace.
    pub fn open() -> Result<Self, Error> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(|errno| Error::kernel("open a netfilter socket", errno))?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(PATIENCE_SECONDS),
        )
        .map_err(|errno| Error::kernel("bound the waiting on a netfilter socket", errno))?;
        Ok(Self {
            fd,
            sequence: 1,
            buffer: vec![0; ROOM],
            enlarged: false,
        })
    }

    /// Closes the socket, where the kernel can do so behind the caller's back.
    ///
    /// After a deletion `close` (and the end of the process) waits until the kernel has freed what
    /// was deleted: `nft_rcv_nl_event` flushes that work, which sits out an RCU grace period
    /// (8 to 10 ms at 250 Hz). Nobody sees the deleted any more, so nobody has to wait. A
    /// descriptor that is on its way through a Unix socket which is itself only on its way is
    /// garbage, and the kernel closes it; since Linux 6.9 in a worker of its own. Before, and where
    /// any of this fails, it closes and waits as ever.
    pub fn close_behind(self) {
        let pair = socketpair(
            AddressFamily::Unix,
            SockType::Datagram,
            None,
            SockFlag::SOCK_CLOEXEC,
        );
        let Ok((near, far)) = pair else { return };
        let fds = [self.fd.as_raw_fd(), far.as_raw_fd()];
        // Unsent, the descriptors are closed here and now.
        let _ = sendmsg::<()>(
            near.as_raw_fd(),
            &[IoSlice::new(&[0])],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_DONTWAIT,
            None,
        );
        drop((self.fd, far));
        // Closing a Unix socket wakes the collector, so what it shall collect goes first.
        drop(near);
    }

    /// Makes all changes of a batch, or none. The error names the first change refused.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.messages.is_empty() {
            return Ok(());
        }
        let first = self.sequence;
        let count = u32::try_from(batch.messages.len()).unwrap_or(u32::MAX);
        self.sequence = first.wrapping_add(count).wrapping_add(2);
        let what = |sequence: u32| {
            let at = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            at.checked_sub(1)
                .and_then(|at| batch.messages.get(at))
                .map_or("commit a transaction of nf_tables", |m| m.what.as_str())
        };
        self.send(&batch.encode(first), what(first))?;
        let mut failed = None;
        loop {
            // The kernel has answered everything by the time that sending returns.
            let frames = match self.receive(MsgFlags::MSG_DONTWAIT, what(first)) {
                Ok(frames) => frames,
                Err(error) if error.errno() == Some(Errno::EAGAIN) => {
                    let what = what(first).to_owned();
                    return Err(failed.unwrap_or(Error::Silent { what }));
                }
                Err(error) => return Err(failed.unwrap_or(error)),
            };
            for (sequence, outcome, _) in frames {
                let at = sequence.wrapping_sub(first);
                if at > count {
                    continue;
                }
                if let Some(Err(errno)) = outcome {
                    failed.get_or_insert_with(|| Error::kernel(what(sequence), errno));
                }
                if at == count {
                    return failed.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends requests that have one reply each, and returns the replies in that order: the
    /// attributes, or the error of that request alone.
    pub fn get(&mut self, requests: &[Message]) -> Result<Vec<Result<Reply, Errno>>, Error> {
        let mut replies = Vec::with_capacity(requests.len());
        for window in requests.chunks(WINDOW) {
            let first = self.sequence;
            let mut bytes = Vec::new();
            for request in window {
                request.encode(self.sequence, 0, &mut bytes);
                self.sequence = self.sequence.wrapping_add(1);
            }
            self.send(&bytes, &window[0].what)?;
            let mut found = BTreeMap::new();
            while found.len() < window.len() {
                for (sequence, outcome, reply) in
                    self.receive(MsgFlags::empty(), &window[0].what)?
                {
                    let at = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
                    if at < window.len() {
                        let reply = match outcome {
                            Some(Err(errno)) => Err(errno),
                            Some(Ok(())) | None => Ok(reply),
                        };
                        found.insert(at, reply);
                    }
                }
            }
            replies.extend(found.into_values());
        }
        Ok(replies)
    }

    /// The reply to one request; none when what it asks for is not there.
    pub fn find(&mut self, request: &Message) -> Result<Option<Reply>, Error> {
        match self.get(std::slice::from_ref(request))?.pop() {
            None | Some(Err(Errno::ENOENT)) => Ok(None),
            Some(Err(errno)) => Err(Error::kernel(&request.what, errno)),
            Some(Ok(reply)) => Ok(Some(reply)),
        }
    }

    /// Sends one request that is only acknowledged.
    pub fn request(&mut self, request: &Message) -> Result<(), Error> {
        let acknowledged = request.clone().with(ACK);
        match self.get(std::slice::from_ref(&acknowledged))?.pop() {
            Some(Err(errno)) => Err(Error::kernel(&request.what, errno)),
            Some(Ok(_)) | None => Ok(()),
        }
    }

    /// All objects that a request matches. One that changes while it is read is read again; what
    /// any of the readings found is returned, so an object that existed all the while is in it.
    pub fn dump(&mut self, request: &Message) -> Result<Vec<Reply>, Error> {
        let mut all = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            if !self.dump_once(request, &mut all)? {
                break;
            }
        }
        Ok(all)
    }

    /// Whether it was interrupted.
    fn dump_once(&mut self, request: &Message, all: &mut Vec<Reply>) -> Result<bool, Error> {
        let sequence = self.sequence;
        self.sequence = sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        request.encode(sequence, DUMP, &mut bytes);
        self.send(&bytes, &request.what)?;
        let mut interrupted = false;
        loop {
            let received = self.receive_raw(MsgFlags::empty(), &request.what)?;
            let frames = parse_frames(&self.buffer[..received])
                .map_err(|source| Error::malformed(&request.what, source))?;
            for frame in frames.iter().filter(|frame| frame.sequence == sequence) {
                interrupted |= frame.is_interrupted();
                match frame.outcome() {
                    Some(Ok(())) => return Ok(interrupted),
                    Some(Err(errno)) => return Err(Error::kernel(&request.what, errno)),
                    None => all.push(
                        frame
                            .attributes()
                            .map_err(|source| Error::malformed(&request.what, source))?
                            .to_vec(),
                    ),
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8], what: &str) -> Result<(), Error> {
        if bytes.len() > LARGE && !self.enlarged {
            let size = bytes.len() * 4;
            setsockopt(&self.fd, sockopt::SndBufForce, &size)
                .and_then(|()| setsockopt(&self.fd, sockopt::RcvBufForce, &size))
                .map_err(|errno| Error::kernel("enlarge a netfilter socket's buffers", errno))?;
            self.enlarged = true;
        }
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty())
            .map(|_| ())
            .map_err(|errno| Error::kernel(what, errno))
    }

    fn receive_raw(&mut self, flags: MsgFlags, what: &str) -> Result<usize, Error> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(received) => return Ok(received),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::kernel(what, errno)),
            }
        }
    }

    #[allow(clippy::type_complexity)] // Sequence, outcome, attributes: used within this file only.
    fn receive(
        &mut self,
        flags: MsgFlags,
        what: &str,
    ) -> Result<Vec<(u32, Option<Result<(), Errno>>, Reply)>, Error> {
        let received = self.receive_raw(flags, what)?;
        parse_frames(&self.buffer[..received])
            .and_then(|frames| {
                frames
                    .into_iter()
                    .map(|frame| {
                        let outcome = frame.outcome();
                        let reply = match outcome {
                            Some(_) => Reply::new(),
                            None => frame.attributes()?.to_vec(),
                        };
                        Ok((frame.sequence, outcome, reply))
                    })
                    .collect()
            })
            .map_err(|source| Error::malformed(what, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_its_last_change_acknowledged() {
        let mut batch = Batch::new().at(0x0102_0304);
        for what in ["one", "two"] {
            batch.push(Message::new(0xa0c, Family::Inet, Attrs::new(), what));
        }
        let bytes = batch.encode(5);
        let frames = parse_frames(&bytes).unwrap();
        let kinds: Vec<u16> = frames.iter().map(|frame| frame.kind).collect();
        assert_eq!(kinds, [0x10, 0xa0c, 0xa0c, 0x11]);
        let sequences: Vec<u32> = frames.iter().map(|frame| frame.sequence).collect();
        assert_eq!(sequences, [5, 6, 7, 8]);
        let acknowledged: Vec<bool> = frames.iter().map(|f| f.flags & ACK != 0).collect();
        assert_eq!(acknowledged, [false, false, true, false]);
        assert_eq!(frames[0].payload[..4], [0, 0, 0, 10]);
        assert_eq!(frames[0].payload[8..], [1, 2, 3, 4]);
    }
}
