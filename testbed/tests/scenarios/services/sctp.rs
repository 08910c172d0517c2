//! SCTP, by packets of our own: no kernel has to know it.

use std::net::SocketAddr;

use watari_model::Protocol;
use watari_testbed::raw::{self, RawSocket, SctpSocket};
use watari_testbed::said::{Said, end};
use watari_testbed::witness::PATIENCE;
use watari_testbed::{Cluster, Way, Who};

use super::{SILENCE, at, fresh_ports, past_the_routes};
use crate::FAMILIES;

const PORT: u16 = 30_080;
/// The endpoints' port.
const TARGET: u16 = 3868;

/// Types of chunks (RFC 9260, 3.2).
const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const COOKIE_ECHO: u8 = 10;
const COOKIE_ACK: u8 = 11;

/// What INIT and INIT ACK hold: a tag, a window, streams each way, a number.
fn body(tag: u8) -> Vec<u8> {
    vec![0, 0, 0, tag, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9]
}

struct End {
    raw: RawSocket,
    sctp: SctpSocket,
    own: SocketAddr,
}

impl End {
    fn open(cluster: &Cluster, who: Who, own: SocketAddr) -> Self {
        let v6 = own.is_ipv6();
        cluster.at(who, Way::Packet, || Self {
            raw: RawSocket::open(v6).unwrap(),
            sctp: SctpSocket::open(v6).unwrap(),
            own,
        })
    }

    fn send(&self, to: SocketAddr, tag: u32, kind: u8, body: &[u8]) {
        let segment = raw::sctp(self.own.port(), to.port(), tag, kind, body);
        let packet = raw::packet(self.own, to, raw::SCTP, &segment);
        self.raw.send(&packet, to.ip()).unwrap();
    }

    /// The next packet, which has to be of that kind: its sender.
    fn hears(&self, kind: u8) -> SocketAddr {
        let (from, port, chunks) = self.sctp.receive(PATIENCE).unwrap();
        assert_eq!((port, chunks[0]), (self.own.port(), kind), "from {from}");
        from
    }
}

/// A whole handshake; gives whom the backend saw.
fn associate(client: &End, server: &End, to: SocketAddr) -> SocketAddr {
    client.send(to, 0, INIT, &body(1));
    let seen = server.hears(INIT);
    server.send(seen, 1, INIT_ACK, &body(2));
    assert_eq!(client.hears(INIT_ACK), to);
    client.send(to, 2, COOKIE_ECHO, b"cookie");
    assert_eq!(server.hears(COOKIE_ECHO), seen);
    server.send(seen, 1, COOKIE_ACK, &[]);
    assert_eq!(client.hears(COOKIE_ACK), to);
    client.send(to, 2, ABORT, &[]);
    assert_eq!(server.hears(ABORT), seen);
    seen
}

#[test]
fn associations_are_translated() {
    past_the_routes(|cluster| {
        for (node, pod) in [(0, 1), (1, 0)] {
            let diameter = Said::new("diameter", 1)
                .port("sctp", Protocol::Sctp, 80, TARGET)
                .node_port(PORT)
                .ends([end(node, pod)]);
            cluster.say(&diameter);
            let server = Who::Pod(node.into(), pod.into());
            for v6 in FAMILIES {
                let there = End::open(cluster, server, at(cluster.address(server, v6), TARGET));
                let asked = [
                    (Who::Pod(0, 0), at(diameter.cluster_ip(v6), 80)),
                    (Who::Outside, cluster.node_port(0, v6, PORT)),
                ];
                for (who, to) in asked {
                    let port = fresh_ports(1).start;
                    let client = End::open(cluster, who, at(cluster.address(who, v6), port));
                    let seen = associate(&client, &there, to);
                    let translated = who == Who::Outside && node == 1;
                    let expected = if translated { Who::Node(0) } else { who };
                    assert_eq!(seen.ip(), cluster.address(expected, v6), "{who:?} to {to}");
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// Nobody has the port: an ICMP error says so, and no packet of SCTP comes.
#[test]
fn sctp_without_endpoints_gets_no_answer_of_its_own() {
    past_the_routes(|cluster| {
        let none = Said::new("none", 1).port("sctp", Protocol::Sctp, 80, TARGET);
        cluster.say(&none);
        let before = cluster.count(0, watari_abi::Counter::Refused);
        for v6 in FAMILIES {
            let who = Who::Pod(0, 0);
            let port = fresh_ports(1).start;
            let client = End::open(cluster, who, at(cluster.address(who, v6), port));
            client.send(at(none.cluster_ip(v6), 80), 0, INIT, &body(1));
            assert!(client.sctp.receive(SILENCE).is_err());
        }
        let refused = cluster.count(0, watari_abi::Counter::Refused) - before;
        assert!(refused >= 2, "{refused}");
    });
}
