//! What the kernel tells of changes, without being asked.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkAttribute;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sys::socket::{setsockopt, sockopt::RcvBuf};
use watari_model::IfName;

use crate::handle::{Incoming, parse_all};
use crate::query::next_hop;
use crate::{NetlinkError, Netns};

/// Multicast groups (`RTNLGRP_*` of `linux/rtnetlink.h`): link, neighbour, and addresses and routes
/// of either family.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];

/// Room for what comes while nobody reads, in bytes: some thousand messages.
const BACKLOG: usize = 1 << 20;

/// Datagrams of one [`Monitor::read`], so that a storm holds nobody up for long.
const AT_ONCE: usize = 256;

/// Something of a namespace changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link came, changed, or went.
    Link {
        /// Its index.
        index: u32,
        /// Its name.
        name: Option<IfName>,
        /// It is gone.
        gone: bool,
    },
    /// An address of a link came or went.
    Address(u32),
    /// A route over a link, or over none, came or went.
    Route(Option<u32>),
    /// A neighbour of a link came, changed or went.
    Neighbour(u32),
    /// There were more messages than room: anything may have changed.
    Lost,
}

/// A socket on which one namespace's kernel tells of changes. It never blocks.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Of the calling thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Self::connect().map_err(|source| NetlinkError::Socket {
            what: "cannot listen to the kernel's changes of links, addresses and routes".to_owned(),
            source,
        })
    }

    /// Of `netns`; the calling thread stays where it is.
    pub fn open_in(netns: &Netns) -> Result<Self, NetlinkError> {
        netns.within(Self::open)?
    }

    fn connect() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket, RcvBuf, &BACKLOG)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self {
            socket,
            buffer: vec![0; 32 * 1024],
        })
    }

    /// What has come, up to some hundred messages; nothing if nothing has.
    pub fn read(&mut self) -> Result<Vec<Event>, NetlinkError> {
        let mut events = Vec::new();
        for _ in 0..AT_ONCE {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                    events.push(Event::Lost);
                    continue;
                }
                Err(source) => {
                    return Err(NetlinkError::Socket {
                        what: "cannot read the kernel's changes".to_owned(),
                        source,
                    });
                }
            };
            let mut take = |_, incoming| {
                if let Incoming::Answer(message) = incoming {
                    events.extend(event(&message));
                }
            };
            if parse_all(&self.buffer[..length], &mut take).is_err() {
                // Something that this library does not know changed.
                events.push(Event::Lost);
            }
        }
        Ok(events)
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn event(message: &RouteNetlinkMessage) -> Option<Event> {
    use RouteNetlinkMessage as Message;
    Some(match message {
        Message::NewLink(link) | Message::DelLink(link) => Event::Link {
            index: link.header.index,
            name: link
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => IfName::new(name.as_str()).ok(),
                    _ => None,
                }),
            gone: matches!(message, Message::DelLink(_)),
        },
        Message::NewAddress(address) | Message::DelAddress(address) => {
            Event::Address(address.header.index)
        }
        Message::NewRoute(route) | Message::DelRoute(route) => Event::Route(next_hop(route).0),
        Message::NewNeighbour(entry) | Message::DelNeighbour(entry) => {
            Event::Neighbour(entry.header.ifindex)
        }
        _ => return None,
    })
}
