//! Frames, as they come by.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use watari_testkit::Netns;
use watari_trace::Packet;

/// How long a packet may take: far longer than on any machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// All frames of one namespace from now on.
pub struct Catcher(OwnedFd);

impl Catcher {
    /// Begins to catch.
    pub fn new(netns: &Netns) -> Self {
        let fd = netns.enter(|| {
            let (family, kind) = (AddressFamily::Packet, SockType::Raw);
            socket(family, kind, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll).unwrap()
        });
        setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(100)).unwrap();
        Self(fd)
    }

    /// Waits for the packet with these ends, whatever else comes by.
    pub fn wait(&self, like: &Packet) -> Packet {
        self.wait_for(like, |found| {
            let ports = |packet: &Packet| (packet.source_port, packet.destination_port);
            ports(found) == ports(like)
        })
    }

    /// The same, whatever its ports.
    pub fn wait_ends(&self, like: &Packet) -> Packet {
        self.wait_for(like, |_| true)
    }

    fn wait_for(&self, like: &Packet, is_it: impl Fn(&Packet) -> bool) -> Packet {
        let end = Instant::now() + PATIENCE;
        let mut buffer = vec![0; 70_000];
        let ends = |packet: &Packet| (packet.source, packet.destination, packet.protocol);
        while Instant::now() < end {
            let Ok(length) = recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) else {
                continue;
            };
            if let Some(found) = like.rewritten(&buffer[..length])
                && ends(&found) == ends(like)
                && is_it(&found)
            {
                return found;
            }
        }
        panic!("nobody saw {like}");
    }
}
