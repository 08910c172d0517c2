//! Netlink messages of netfilter: `struct nlmsghdr`, `struct nfgenmsg`, attributes.

use nix::errno::Errno;

use crate::attr::{Attrs, Malformed};

/// `NLM_F_REQUEST`.
pub(crate) const REQUEST: u16 = 0x1;
/// `NLM_F_MULTI`.
const MULTI: u16 = 0x2;
/// `NLM_F_ACK`.
pub(crate) const ACK: u16 = 0x4;
/// `NLM_F_DUMP_INTR`: the tables changed while they were dumped.
const DUMP_INTERRUPTED: u16 = 0x10;
/// `NLM_F_DUMP` (root and match).
pub(crate) const DUMP: u16 = 0x300;
/// `NLM_F_EXCL`: fail when it exists.
pub(crate) const EXCLUSIVE: u16 = 0x200;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_APPEND`.
pub(crate) const APPEND: u16 = 0x800;

/// `NLMSG_ERROR`.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
const HEADER: usize = 16;
/// `sizeof(struct nfgenmsg)`.
const GENERIC: usize = 4;

/// The address family of a netfilter message or expression (`NFPROTO_*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// None in particular.
    Unspecified = 0,
    /// IPv4 and IPv6 together.
    Inet = 1,
    /// IPv4.
    Ip = 2,
    /// All frames of a device.
    Netdev = 5,
    /// IPv6.
    Ip6 = 10,
}

/// One request to the kernel.
#[derive(Debug, Clone)]
pub struct Message {
    /// Subsystem in the high byte, message of it in the low one.
    pub kind: u16,
    /// `NLM_F_*`; "request" is added when it is sent.
    pub flags: u16,
    /// `nfgenmsg.nfgen_family`.
    pub family: Family,
    /// `nfgenmsg.version`.
    pub version: u8,
    /// `nfgenmsg.res_id`, here in the host's byte order.
    pub resource: u16,
    /// The attributes.
    pub body: Attrs,
    /// What it asks for, for errors: continues "cannot …".
    pub what: String,
}

impl Message {
    /// A message without flags.
    pub fn new(kind: u16, family: Family, body: Attrs, what: impl Into<String>) -> Self {
        Self {
            kind,
            flags: 0,
            family,
            version: 0,
            resource: 0,
            body,
            what: what.into(),
        }
    }

    /// The same with further flags.
    #[must_use]
    pub fn with(mut self, flags: u16) -> Self {
        self.flags |= flags;
        self
    }

    /// Appends the encoded message. `flags` are added to its own.
    pub fn encode(&self, sequence: u32, flags: u16, out: &mut Vec<u8>) {
        let body = self.body.as_bytes();
        let length = u32::try_from(HEADER + GENERIC + body.len()).unwrap_or(u32::MAX);
        out.extend(length.to_ne_bytes());
        out.extend(self.kind.to_ne_bytes());
        out.extend((self.flags | REQUEST | flags).to_ne_bytes());
        out.extend(sequence.to_ne_bytes());
        out.extend([0; 4]);
        out.extend([self.family as u8, self.version]);
        out.extend(self.resource.to_be_bytes());
        out.extend(body);
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type.
    pub kind: u16,
    /// Flags.
    pub flags: u16,
    /// The sequence number of the request that it answers.
    pub sequence: u32,
    /// What follows `struct nlmsghdr`.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// An acknowledgement (`Ok`) or an error, if it is either. The end of a dump carries the
    /// same: zero, or what broke it off.
    pub fn outcome(&self) -> Option<Result<(), Errno>> {
        if self.kind != ERROR && self.kind != DONE {
            return None;
        }
        let code = self
            .payload
            .first_chunk::<4>()
            .map_or(0, |code| i32::from_ne_bytes(*code));
        Some(match code {
            0 => Ok(()),
            code => Err(Errno::from_raw(code.saturating_neg())),
        })
    }

    /// Whether it ends a dump.
    pub fn is_done(&self) -> bool {
        self.kind == DONE
    }

    /// Whether it is a part of a dump.
    pub fn is_part(&self) -> bool {
        self.flags & MULTI != 0
    }

    /// Whether the tables changed while the dump was taken.
    pub fn is_interrupted(&self) -> bool {
        self.flags & DUMP_INTERRUPTED != 0
    }

    /// The attributes, after `struct nfgenmsg`.
    pub fn attributes(&self) -> Result<&'a [u8], Malformed> {
        self.payload
            .get(GENERIC..)
            .ok_or(Malformed("a netfilter header is cut off"))
    }
}

/// Splits what one `recv` returned into messages.
pub fn parse_frames(bytes: &[u8]) -> Result<Vec<Frame<'_>>, Malformed> {
    let mut rest = bytes;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let header: &[u8; HEADER] = rest
            .first_chunk()
            .ok_or(Malformed("a message's header is cut off"))?;
        let [l0, l1, l2, l3, k0, k1, f0, f1, s0, s1, s2, s3, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let payload = rest
            .get(HEADER..length)
            .ok_or(Malformed("a message's length does not fit"))?;
        found.push(Frame {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            sequence: u32::from_ne_bytes([s0, s1, s2, s3]),
            payload,
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_reads_back() {
        let body = Attrs::new().text(1, "t");
        let mut bytes = Vec::new();
        Message::new(0xa00, Family::Inet, body.clone(), "test")
            .with(CREATE)
            .encode(7, ACK, &mut bytes);
        let frames = parse_frames(&bytes).unwrap();
        assert_eq!(frames.len(), 1);
        assert_eq!((frames[0].kind, frames[0].sequence), (0xa00, 7));
        assert_eq!(frames[0].flags, REQUEST | CREATE | ACK);
        assert_eq!(frames[0].payload[..4], [1, 0, 0, 0]);
        assert_eq!(frames[0].attributes().unwrap(), body.as_bytes());
    }

    #[test]
    fn an_error_is_an_errno_and_cuts_never_panic() {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(2_u16.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend((-2_i32).to_ne_bytes());
        bytes.extend([0; 16]);
        let frame = parse_frames(&bytes).unwrap()[0];
        assert_eq!(frame.outcome(), Some(Err(Errno::ENOENT)));
        for end in 1..bytes.len() {
            assert!(parse_frames(&bytes[..end]).is_err(), "{end}");
        }
        let least = i32::MIN.to_ne_bytes();
        let frame = Frame {
            kind: ERROR,
            flags: 0,
            sequence: 0,
            payload: &least,
        };
        assert!(matches!(frame.outcome(), Some(Err(_))));
    }
}
