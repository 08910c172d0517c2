//! A socket that is closed behind the caller's back is closed.

use std::time::Duration;

use watari_nft::Socket;
use watari_nft::portmap::PortMaps;
use watari_testkit::{Netns, wait_until};

/// Netfilter sockets of the current namespace that are not the kernel's own.
fn sockets() -> usize {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink");
    let table = table.expect("read the namespace's netlink sockets");
    let netfilter = |line: &&str| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next() == Some("12") && fields.next() != Some("0")
    };
    table.lines().filter(netfilter).count()
}

#[test]
fn what_is_closed_behind_the_back_is_closed() {
    Netns::new("close").enter(|| {
        let mut maps = PortMaps::open().expect("a socket of the test");
        let idle = Socket::open().expect("a socket of the test");
        // Sending gives a socket its number.
        maps.probe().expect("nftables is there");
        assert_eq!(sockets(), 1);
        maps.leave();
        idle.close_behind();
        wait_until(Duration::from_secs(10), "the sockets to be closed", || {
            sockets() == 0
        });
    });
}
