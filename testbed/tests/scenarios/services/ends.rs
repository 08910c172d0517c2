//! Endpoints that come, drain and go.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::witness::{Talk, ask_by};
use watari_testbed::{Cluster, WAYS, Way, Who};

use super::{PROTOCOLS, at, open, past_the_routes, reaches, refused};
use crate::FAMILIES;

const PORT: u16 = 30_080;
/// Within this who has to be told is told.
const PROMPT: Duration = Duration::from_secs(2);

fn web() -> Said {
    Said::new("web", 1).web().node_port(PORT)
}

/// Who reaches the Service, and how.
fn places(cluster: &Cluster, v6: bool) -> Vec<(Who, Way, SocketAddr)> {
    let inner = at(web().cluster_ip(v6), 80);
    let mut all = WAYS.map(|way| (Who::Pod(0, 0), way, inner)).to_vec();
    all.push((Who::Outside, Way::Packet, cluster.node_port(0, v6, PORT)));
    all
}

/// A connection to that backend.
fn open_to(
    cluster: &Cluster,
    (who, way, to): (Who, Way, SocketAddr),
    protocol: Protocol,
    name: &str,
) -> Talk {
    for _ in 0..super::MANY {
        let talk = open(cluster, who, way, protocol, to);
        if talk.seen.name == name {
            return talk;
        }
    }
    panic!("{who:?} by {way:?}, {protocol:?} to {to}: never {name}")
}

#[test]
fn a_terminating_endpoint_drains() {
    past_the_routes(|cluster| {
        for v6 in FAMILIES {
            cluster.say(&web().ends([end(0, 1), end(1, 0)]));
            let mut held = Vec::new();
            for place in places(cluster, v6) {
                for protocol in PROTOCOLS {
                    let talk = open_to(cluster, place, protocol, "2-1");
                    held.push((place, protocol, talk));
                }
            }
            cluster.say(&web().ends([end(0, 1), end(1, 0).terminating()]));
            for ((who, way, to), protocol, talk) in &mut held {
                let seen = talk.exchange(1000);
                let seen = seen.unwrap_or_else(|error| {
                    panic!("{who:?} by {way:?}, {protocol:?} to {to}: {error:#}")
                });
                assert_eq!(seen.name, "2-1");
                reaches(cluster, *who, *way, *protocol, *to, &["1-2"]);
            }
            cluster.forget(&web());
        }
    });
}

#[test]
fn terminating_endpoints_serve_where_there_are_no_others() {
    past_the_routes(|cluster| {
        cluster.say(&web().ends([end(0, 1).terminating(), end(1, 0).terminating()]));
        for v6 in FAMILIES {
            for (who, way, to) in places(cluster, v6) {
                reaches(cluster, who, way, Protocol::Tcp, to, &["1-2", "2-1"]);
            }
        }
        // One that serves no more is none.
        let mut gone = end(1, 0).terminating();
        gone.serving = false;
        cluster.say(&web().ends([end(0, 1).terminating(), gone]));
        for v6 in FAMILIES {
            for (who, way, to) in places(cluster, v6) {
                reaches(cluster, who, way, Protocol::Udp, to, &["1-2"]);
            }
        }
    });
}

/// The client of an endpoint that is gone is told, or goes on with another.
#[test]
fn a_removed_endpoint_is_left_by_its_clients() {
    past_the_routes(|cluster| {
        for v6 in FAMILIES {
            cluster.say(&web().ends([end(0, 1), end(1, 0)]));
            let mut held = Vec::new();
            let mut others = Vec::new();
            for place in places(cluster, v6) {
                for protocol in PROTOCOLS {
                    let talk = open_to(cluster, place, protocol, "2-1");
                    held.push((place, protocol, talk));
                    others.push(open_to(cluster, place, protocol, "1-2"));
                }
            }
            cluster.say(&web().ends([end(0, 1)]));
            cluster.stop(1, 0);
            for ((who, way, to), protocol, talk) in &mut held {
                let what = format!("{who:?} by {way:?}, {protocol:?} to {to}");
                // What is connected to the backend itself is told, as TCP is.
                let moves = *protocol == Protocol::Udp && *way == Way::Packet;
                let start = Instant::now();
                match talk.exchange(1000) {
                    Ok(seen) if moves => assert_eq!(seen.name, "1-2", "{what}"),
                    Err(_) if !moves => assert!(start.elapsed() < PROMPT, "{what}: not told"),
                    other => panic!("{what}: {other:?}"),
                }
                reaches(cluster, *who, *way, *protocol, *to, &["1-2"]);
            }
            // Those of others are none of its business.
            for talk in &mut others {
                assert_eq!(talk.exchange(1000).unwrap().name, "1-2");
            }
            cluster.start(1, 0).unwrap();
            cluster.forget(&web());
        }
    });
}

/// A socket that is connected to nobody goes on with another.
#[test]
fn an_unconnected_socket_leaves_a_removed_endpoint() {
    past_the_routes(|cluster| {
        for (way, v6) in WAYS
            .into_iter()
            .flat_map(|way| FAMILIES.map(|v6| (way, v6)))
        {
            let (who, to) = (Who::Pod(0, 0), at(web().cluster_ip(v6), 80));
            cluster.say(&web().ends([end(1, 0)]));
            let socket = cluster.at(who, way, || {
                let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
                let socket = UdpSocket::bind(any).unwrap();
                assert_eq!(ask_by(&socket, to).unwrap().0.name, "2-1");
                socket
            });
            cluster.say(&web().ends([end(0, 1)]));
            let (seen, from) = ask_by(&socket, to).unwrap();
            assert_eq!((&*seen.name, from), ("1-2", to), "{way:?}");
            cluster.forget(&web());
        }
    });
}

#[test]
fn a_service_comes_and_goes() {
    past_the_routes(|cluster| {
        for v6 in FAMILIES {
            for (who, way, to) in places(cluster, v6) {
                let protocol = Protocol::Tcp;
                cluster.say(&web());
                refused(cluster, who, way, protocol, to);
                cluster.say(&web().ends([end(1, 0)]));
                reaches(cluster, who, way, protocol, to, &["2-1"]);
                cluster.say(&web().ends([end(1, 1)]));
                reaches(cluster, who, way, protocol, to, &["2-2"]);
                cluster.say(&web());
                refused(cluster, who, way, protocol, to);
                cluster.forget(&web());
            }
        }
    });
}
