//! Who changes `nf_tables`, told by the kernel.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};

use crate::Error;
use crate::attr::{Malformed, find, parse_attrs};
use crate::message::parse_frames;

/// `NFNLGRP_NFTABLES`, 7, as a bit of `sockaddr_nl.nl_groups`.
const GROUP: u32 = 1 << 6;
/// `NFNL_SUBSYS_NFTABLES`, the high byte of a message's type.
const NFTABLES: u16 = 10;
/// `NFT_MSG_NEWGEN`: a transaction ends; it is about no table.
const NEW_GENERATION: u16 = 0xa0f;
/// A message of the kernel is no longer.
const ROOM: usize = 32 * 1024;
/// What is read at once at most, so that a reader comes back from a flood.
const MESSAGES: usize = 1024;

/// What was changed since the last look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// The names of tables in which something was made, changed or removed, by anybody.
    pub tables: BTreeSet<String>,
    /// There was more than the kernel could keep: any table may have changed.
    pub lost: bool,
}

impl Changed {
    /// Whether a table may have changed.
    pub fn concerns(&self, table: &str) -> bool {
        self.lost || self.tables.contains(table)
    }
}

/// Hears of every change of `nf_tables` in the network namespace in which it was opened.
#[derive(Debug)]
pub struct Monitor {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens from now on, in the calling thread's network namespace.
    pub fn open() -> Result<Self, Error> {
        let failed = |errno| Error::kernel("listen to nf_tables", errno);
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUP)).map_err(failed)?;
        let buffer = vec![0; ROOM];
        Ok(Self { fd, buffer })
    }

    /// What was changed since the last reading. Never waits: the descriptor becomes readable.
    pub fn read(&mut self) -> Result<Changed, Error> {
        const WHAT: &str = "hear of changes of nf_tables";
        let mut changed = Changed::default();
        for _ in 0..MESSAGES {
            match recv(
                self.fd.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(received) => read_changes(&self.buffer[..received], &mut changed)
                    .map_err(|source| Error::malformed(WHAT, source))?,
                Err(Errno::EAGAIN) => break,
                Err(Errno::ENOBUFS) => changed.lost = true,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(Error::kernel(WHAT, errno)),
            }
        }
        Ok(changed)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Adds what one datagram of the kernel tells.
pub fn read_changes(bytes: &[u8], changed: &mut Changed) -> Result<(), Malformed> {
    for frame in parse_frames(bytes)? {
        if frame.kind >> 8 != NFTABLES || frame.kind == NEW_GENERATION {
            continue;
        }
        // The table's name is attribute 1 of tables, chains, rules, sets and elements alike.
        if let Some(name) = find(&parse_attrs(frame.attributes()?)?, 1) {
            changed.tables.insert(name.text()?.to_owned());
        }
    }
    Ok(())
}
