//! Sockets of a namespace: listed with their peers and cookies, and ended one by one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use watari_netlink::{Sockets, Transport};
use watari_testkit::{Netns, wait_until};

const DEADLINE: Duration = Duration::from_secs(10);

fn place() -> Netns {
    let netns = Netns::new("sockets");
    netns.run(&["ip", "link", "set", "lo", "up"]);
    netns
}

/// The cookie of the socket with this end and that peer.
fn cookie(sockets: &mut Sockets, transport: Transport, local: SocketAddr, peer: SocketAddr) -> u64 {
    let all = sockets.connected(transport).unwrap();
    let found: Vec<_> = all
        .iter()
        .filter(|socket| socket.local == local && socket.peer == peer)
        .collect();
    assert_eq!(found.len(), 1, "{all:?}");
    found[0].cookie
}

#[test]
fn a_tcp_client_is_told_and_others_are_not() {
    place().enter(|| {
        let mut sockets = Sockets::open().unwrap();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).unwrap();
            let peer = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(peer).unwrap();
            let mut other = TcpStream::connect(peer).unwrap();
            let own = client.local_addr().unwrap();
            let cookie = cookie(&mut sockets, Transport::Tcp, own, peer);

            let elsewhere = SocketAddr::new(peer.ip(), 9);
            let none = BTreeMap::from([(cookie, elsewhere), (cookie + 1_000_000, peer)]);
            assert_eq!(sockets.end_all(Transport::Tcp, &none).unwrap(), [0; 0]);

            let wanted = BTreeMap::from([(cookie, peer)]);
            assert_eq!(sockets.end_all(Transport::Tcp, &wanted).unwrap(), [cookie]);
            let told = client.read(&mut [0]).unwrap_err();
            assert_eq!(told.kind(), ErrorKind::ConnectionAborted);
            assert_eq!(
                sockets.end_all(Transport::Tcp, &wanted).unwrap(),
                [0; 0],
                "gone already"
            );

            other.set_nonblocking(true).unwrap();
            assert_eq!(
                other.read(&mut [0]).unwrap_err().kind(),
                ErrorKind::WouldBlock
            );
        }
    });
}

#[test]
fn ipv4_over_a_socket_of_ipv6_is_found_as_ipv4() {
    place().enter(|| {
        let mut sockets = Sockets::open().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = server.local_addr().unwrap();
        let mapped = format!("[::ffff:127.0.0.1]:{}", peer.port());
        let mut client = TcpStream::connect(mapped.parse::<SocketAddr>().unwrap()).unwrap();
        let port = client.local_addr().unwrap().port();
        let own = SocketAddr::from(([127, 0, 0, 1], port));
        let cookie = cookie(&mut sockets, Transport::Tcp, own, peer);
        let ended = sockets.end_all(Transport::Tcp, &BTreeMap::from([(cookie, peer)]));
        assert_eq!(ended.unwrap(), [cookie]);
        assert_eq!(
            client.read(&mut [0]).unwrap_err().kind(),
            ErrorKind::ConnectionAborted
        );
    });
}

#[test]
fn a_connected_udp_socket_is_told() {
    place().enter(|| {
        let mut sockets = Sockets::open().unwrap();
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(at).unwrap();
            let peer = server.local_addr().unwrap();
            let client = UdpSocket::bind(at).unwrap();
            let own = client.local_addr().unwrap();
            assert!(
                sockets.connected(Transport::Udp).unwrap().is_empty(),
                "unconnected ones have no peer"
            );
            client.connect(peer).unwrap();
            let cookie = cookie(&mut sockets, Transport::Udp, own, peer);
            let ended = sockets.end_all(Transport::Udp, &BTreeMap::from([(cookie, peer)]));
            assert_eq!(ended.unwrap(), [cookie]);
            client.set_nonblocking(true).unwrap();
            // It is told, then it is connected to nobody.
            wait_until(DEADLINE, "the client to be told", || {
                let told = client.recv(&mut [0]).map_err(|error| error.kind());
                told == Err(ErrorKind::ConnectionAborted)
            });
        }
    });
}
