//! Long datagrams, much data, and ways that are too narrow.

use std::net::SocketAddr;

use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::witness::LONGEST;
use watari_testbed::{Cluster, WAYS, Way, Who};
use watari_testkit::Netns;

use super::{PROTOCOLS, at, behind_a_narrow_link, open, past_the_routes};
use crate::FAMILIES;

const PORT: u16 = 30_080;
/// Linux' number of it.
const EMSGSIZE: i32 = 90;

/// A Service with that one endpoint, and who reaches it how, by a family.
fn ways(cluster: &mut Cluster, node: u8, pod: u8, v6: bool) -> Vec<(Who, Way, SocketAddr)> {
    let web = Said::new("web", 1)
        .web()
        .node_port(PORT)
        .ends([end(node, pod)]);
    cluster.say(&web);
    let inner = at(web.cluster_ip(v6), 80);
    let mut all = WAYS.map(|way| (Who::Pod(0, 0), way, inner)).to_vec();
    all.push((Who::Outside, Way::Packet, cluster.node_port(0, v6, PORT)));
    all
}

#[test]
fn datagrams_in_fragments_are_translated() {
    past_the_routes(|cluster| {
        let lengths = [1, 1300, 1400, 1500, 3000, 10_000, 40_000, LONGEST];
        for v6 in FAMILIES {
            for (node, pod) in [(0, 1), (1, 0)] {
                for (who, way, to) in ways(cluster, node, pod, v6) {
                    let mut talk = open(cluster, who, way, Protocol::Udp, to);
                    for length in lengths {
                        let went = talk.exchange(length);
                        went.unwrap_or_else(|error| {
                            panic!("{who:?} by {way:?}, {length} bytes to {to}: {error:#}")
                        });
                    }
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn much_data_passes_both_ways() {
    past_the_routes(|cluster| {
        for v6 in FAMILIES {
            for (node, pod) in [(0, 1), (1, 0)] {
                for (who, way, to) in ways(cluster, node, pod, v6) {
                    let mut talk = open(cluster, who, way, Protocol::Tcp, to);
                    let went = talk.exchange(3 << 20);
                    went.unwrap_or_else(|error| {
                        panic!("{who:?} by {way:?}, much to {to}: {error:#}")
                    });
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// Somebody on the way says that a packet is too long, and means the translated one. The client is
/// told of whom it believes to talk to.
#[test]
fn a_narrow_link_far_away_is_found_out() {
    behind_a_narrow_link(|cluster| {
        for v6 in FAMILIES {
            for (who, way, to) in ways(cluster, 1, 0, v6) {
                for protocol in PROTOCOLS {
                    // A server that knows would ask for shorter segments at once.
                    forget(&cluster.pod(1, 0).netns);
                    passes(cluster, who, way, protocol, to);
                    if way == Way::Packet {
                        knows(cluster, who, to);
                    }
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// What fits into the first link and not into the last.
fn passes(cluster: &Cluster, who: Who, way: Way, protocol: Protocol, to: SocketAddr) {
    let what = format!("{who:?} by {way:?}, {protocol:?} to {to}");
    let mut talk = open(cluster, who, way, protocol, to);
    if protocol == Protocol::Tcp {
        let went = talk.exchange(1 << 20);
        went.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        return;
    }
    // The socket is told, and the process has to send it once more (ip(7), `IP_MTU_DISCOVER`).
    let mut went = talk.exchange(1440);
    for _ in 0..2 {
        let told = |error: &anyhow::Error| {
            let error = error.downcast_ref::<std::io::Error>();
            error.and_then(std::io::Error::raw_os_error) == Some(EMSGSIZE)
        };
        if went.as_ref().is_err_and(told) {
            went = talk.exchange(1440);
        }
    }
    went.unwrap_or_else(|error| panic!("{what}: {error:#}"));
}

/// It knows how narrow the way is, and forgets it.
fn knows(cluster: &Cluster, who: Who, to: SocketAddr) {
    let netns = match who {
        Who::Outside => &cluster.outside.netns,
        _ => &cluster.pod(0, 0).netns,
    };
    let known = netns.run(&["ip", "route", "get", &to.ip().to_string()]);
    assert!(known.contains("mtu 1400"), "{who:?} to {to}: {known}");
    forget(netns);
}

fn forget(netns: &Netns) {
    netns.run(&["ip", "route", "flush", "cache"]);
    netns.run(&["ip", "-6", "route", "flush", "cache"]);
}

/// A backend behind a narrow link answers at length.
#[test]
fn a_narrow_link_before_the_backend_is_found_out() {
    behind_a_narrow_link(|cluster| {
        let web = Said::new("web", 1).web().node_port(PORT).ends([end(1, 0)]);
        cluster.say(&web);
        for v6 in FAMILIES {
            // The node's own uplink is the narrow one.
            let to = cluster.node_port(1, v6, PORT);
            let mut talk = open(cluster, Who::Outside, Way::Packet, Protocol::Tcp, to);
            talk.exchange(1 << 20).unwrap();
            let mut talk = open(cluster, Who::Outside, Way::Packet, Protocol::Udp, to);
            talk.exchange(1300).unwrap();
            talk.exchange(5000).unwrap();
        }
        assert_eq!(cluster.drops(), []);
    });
}
