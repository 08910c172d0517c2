//! The few messages of traffic control that are needed: qdisc `clsact` and filters of kind `bpf`;
//! and the names of links.
//!
//! Numbers and layouts: `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`. What other
//! tools configured comes along in every dump, so only the attributes of interest are read.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::{TimeVal, TimeValLike};
use watari_model::IfName;

use crate::links::Names;
use crate::sys::ProgramFd;

/// How long one answer may take, in seconds.
const PATIENCE_S: i64 = 30;

const GET_LINK: u16 = 18;
const NEW_QDISC: u16 = 36;
const DEL_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_FILTER: u16 = 44;
const DEL_FILTER: u16 = 45;
const GET_FILTER: u16 = 46;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const DUMP: u16 = 0x300;
const EXCL: u16 = 0x200;
const CREATE: u16 = 0x400;
/// The dump may miss what changed meanwhile (`NLM_F_DUMP_INTR`).
const INTERRUPTED: u16 = 0x10;
/// Attempts at a dump that is interrupted.
const DUMP_ATTEMPTS: usize = 8;

/// `IFLA_IFNAME`.
const LINK_NAME: u16 = 3;
/// `IFLA_EXT_MASK`.
const LINK_MASK: u16 = 29;
/// `RTEXT_FILTER_SKIP_STATS`: statistics are a kilobyte for each link.
const WITHOUT_STATISTICS: u32 = 8;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const BPF_FD: u16 = 6;
const BPF_NAME: u16 = 7;
const BPF_FLAGS: u16 = 8;
const BPF_ID: u16 = 11;
/// `TCA_BPF_FLAG_ACT_DIRECT`: what the program returns is the verdict.
const ACT_DIRECT: u32 = 1;

/// `TC_H_CLSACT`.
const CLSACT: u32 = 0xffff_fff1;
/// The handle of a clsact qdisc.
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`.
const INGRESS: u32 = 0xffff_fff2;
/// The same for the egress.
const EGRESS: u32 = 0xffff_fff3;
/// `ETH_P_ALL` in network order.
const ALL_PROTOCOLS: u32 = 0x0300_u32;

/// Our filters' priority, which no other tool uses by itself.
pub(super) const PRIORITY: u16 = 0x5741;
/// Our filters' handle.
pub(super) const HANDLE: u32 = 0x7761;

const HEADER: usize = 16;
const TCMSG: usize = 20;
const IFINFOMSG: usize = 16;

/// A filter of kind `bpf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    pub ifindex: u32,
    pub egress: bool,
    pub priority: u16,
    pub handle: u32,
    /// `TCA_BPF_NAME`; empty for a filter of another kind.
    pub name: String,
    /// The program's number; zero for a filter of another kind.
    pub program: u32,
}

/// A socket of the calling thread's network namespace.
pub(super) struct TrafficControl {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

fn parent(egress: bool) -> u32 {
    if egress { EGRESS } else { INGRESS }
}

fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | ALL_PROTOCOLS
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// `struct tcmsg`.
fn tcmsg(ifindex: u32, handle: u32, parent: u32, info: u32) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    for word in [ifindex, handle, parent, info] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes
}

impl TrafficControl {
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.set_cap_ack(true)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(PATIENCE_S))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; 32 * 1024],
        })
    }

    /// The names of all links.
    pub fn link_names(&mut self) -> io::Result<Names> {
        let mut body = vec![0; IFINFOMSG];
        attribute(&mut body, LINK_MASK, &WITHOUT_STATISTICS.to_ne_bytes());
        let named = |payload: &[u8]| {
            let name = find(payload.get(IFINFOMSG..)?, LINK_NAME)?;
            let name = std::str::from_utf8(without_nul(name)).ok()?;
            Some((word(payload, 4), IfName::new(name).ok()?))
        };
        let answers = self.dump(GET_LINK, &body)?;
        Ok(answers.iter().filter_map(|answer| named(answer)).collect())
    }

    /// Makes the clsact qdisc of a link; false if there is one.
    pub fn add_clsact(&mut self, ifindex: u32) -> io::Result<bool> {
        let mut body = tcmsg(ifindex, CLSACT_HANDLE, CLSACT, 0);
        attribute(&mut body, KIND, b"clsact\0");
        match self.change(NEW_QDISC, CREATE | EXCL, &body) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Removes the clsact qdisc of a link, with all its filters.
    pub fn delete_clsact(&mut self, ifindex: u32) -> io::Result<()> {
        let body = tcmsg(ifindex, CLSACT_HANDLE, CLSACT, 0);
        self.change(DEL_QDISC, 0, &body)
    }

    /// The links that have a clsact qdisc.
    pub fn clsact_links(&mut self) -> io::Result<Vec<u32>> {
        let mut links = Vec::new();
        let body = tcmsg(0, 0, 0, 0);
        for answer in self.dump(GET_QDISC, &body)? {
            let clsact = Answer::read(&answer).filter(|qdisc| qdisc.kind() == b"clsact");
            links.extend(clsact.map(|qdisc| qdisc.ifindex));
        }
        links.sort_unstable();
        links.dedup();
        Ok(links)
    }

    /// Makes our filter, or puts another program in the place of its, in one step.
    pub fn set_filter(
        &mut self,
        ifindex: u32,
        egress: bool,
        program: &ProgramFd,
        name: &str,
    ) -> io::Result<()> {
        let mut options = Vec::new();
        let fd = program.as_fd().as_raw_fd().cast_unsigned();
        attribute(&mut options, BPF_FD, &fd.to_ne_bytes());
        attribute(&mut options, BPF_NAME, &[name.as_bytes(), b"\0"].concat());
        attribute(&mut options, BPF_FLAGS, &ACT_DIRECT.to_ne_bytes());
        let mut body = tcmsg(ifindex, HANDLE, parent(egress), info(PRIORITY));
        attribute(&mut body, KIND, b"bpf\0");
        attribute(&mut body, OPTIONS, &options);
        self.change(NEW_FILTER, CREATE, &body)
    }

    /// Removes a filter.
    pub fn delete_filter(&mut self, filter: &Filter) -> io::Result<()> {
        let mut body = tcmsg(
            filter.ifindex,
            filter.handle,
            parent(filter.egress),
            info(filter.priority),
        );
        attribute(&mut body, KIND, b"bpf\0");
        self.change(DEL_FILTER, 0, &body)
    }

    /// All filters of a link's clsact qdisc, whoever made them.
    pub fn filters(&mut self, ifindex: u32) -> io::Result<Vec<Filter>> {
        let mut filters = Vec::new();
        for egress in [false, true] {
            let body = tcmsg(ifindex, 0, parent(egress), 0);
            for answer in self.dump(GET_FILTER, &body)? {
                // Each priority comes once more for itself, without a handle.
                let filter = Answer::read(&answer).filter(|answer| answer.handle != 0);
                filters.extend(filter.map(|answer| answer.filter(egress)));
            }
        }
        Ok(filters)
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + body.len());
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        self.socket.send(&bytes, 0)?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        let sequence = self.send(kind, flags | ACK, body)?;
        loop {
            let length = self.receive()?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence == sequence && message.kind == ERROR {
                    return message.outcome();
                }
            }
        }
    }

    /// The answers to a question, without their headers.
    fn dump(&mut self, kind: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            if !self.dump_once(kind, body, &mut found)? {
                return Ok(found);
            }
        }
        Err(io::Error::other("it changed at every attempt to read it"))
    }

    /// Whether it was interrupted.
    fn dump_once(&mut self, kind: u16, body: &[u8], found: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        let sequence = self.send(kind, DUMP, body)?;
        let mut interrupted = false;
        loop {
            let length = self.receive()?;
            for message in Messages(&self.buffer[..length]) {
                if message.sequence != sequence {
                    continue;
                }
                interrupted |= message.flags & INTERRUPTED != 0;
                match message.kind {
                    DONE => return message.outcome().map(|()| interrupted),
                    ERROR => return message.outcome().map(|()| interrupted),
                    _ => found.push(message.payload.to_vec()),
                }
            }
        }
    }
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    u32::from_ne_bytes(word.unwrap_or_default())
}

fn half(bytes: &[u8], at: usize) -> u16 {
    let half = bytes.get(at..at + 2).and_then(|b| b.try_into().ok());
    u16::from_ne_bytes(half.unwrap_or_default())
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = word(self.0, 0) as usize;
        let payload = self.0.get(HEADER..length)?;
        let message = Message {
            kind: half(self.0, 4),
            flags: half(self.0, 6),
            sequence: word(self.0, 8),
            payload,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

impl Message<'_> {
    /// What an acknowledgement, or the end of a dump, says: zero or a negative error number.
    fn outcome(&self) -> io::Result<()> {
        match word(self.payload, 0).cast_signed() {
            0.. => Ok(()),
            error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        }
    }
}

/// An object of traffic control.
struct Answer<'a> {
    ifindex: u32,
    handle: u32,
    info: u32,
    attributes: &'a [u8],
}

/// The value of the first attribute of that kind.
fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = attributes;
    loop {
        let length = usize::from(half(rest, 0));
        let value = rest.get(4..length)?;
        // Without the flags of `NLA_TYPE_MASK`.
        if half(rest, 2) & 0x3fff == kind {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

fn without_nul(bytes: &[u8]) -> &[u8] {
    bytes.strip_suffix(b"\0").unwrap_or(bytes)
}

impl<'a> Answer<'a> {
    fn read(payload: &'a [u8]) -> Option<Self> {
        Some(Self {
            ifindex: word(payload, 4),
            handle: word(payload, 8),
            info: word(payload, 16),
            attributes: payload.get(TCMSG..)?,
        })
    }

    fn kind(&self) -> &[u8] {
        find(self.attributes, KIND).map_or(&[], without_nul)
    }

    fn filter(&self, egress: bool) -> Filter {
        let options = match self.kind() {
            b"bpf" => find(self.attributes, OPTIONS).unwrap_or_default(),
            _ => &[],
        };
        let name = find(options, BPF_NAME).map_or(&[][..], without_nul);
        Filter {
            ifindex: self.ifindex,
            egress,
            priority: u16::try_from(self.info >> 16).unwrap_or_default(),
            handle: self.handle,
            name: String::from_utf8_lossy(name).into_owned(),
            program: find(options, BPF_ID).map_or(0, |id| word(id, 0)),
        }
    }
}
