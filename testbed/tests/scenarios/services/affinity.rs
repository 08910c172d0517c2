//! Session affinity.

use watari_abi::{Affinity, AffinityKey, maps};
use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::{Cluster, WAYS, Way, Who};

use super::{PROTOCOLS, at, open, past_the_routes};
use crate::FAMILIES;

/// In seconds.
const TIMEOUT: u32 = 60;
const SECOND: u64 = 1_000_000_000;
const PORT: u16 = 30_080;

fn sticky() -> Said {
    Said::new("sticky", 1)
        .web()
        .node_port(PORT)
        .with(|service| service.affinity = Some(TIMEOUT))
        .ends([end(0, 1), end(1, 0), end(1, 1)])
}

/// Who answered a client so many times.
fn names(
    cluster: &Cluster,
    who: Who,
    way: Way,
    ask: (Protocol, std::net::SocketAddr),
) -> Vec<String> {
    (0..8)
        .map(|_| open(cluster, who, way, ask.0, ask.1).seen.name)
        .collect()
}

/// All clients that a node remembers were last seen this long ago.
fn age(cluster: &Cluster, node: usize, seconds: u32) -> usize {
    let map = cluster
        .map::<AffinityKey, Affinity>(node, maps::AFFINITIES)
        .unwrap();
    let entries = map.entries().unwrap();
    for (key, mut affinity) in entries.clone() {
        affinity.seen = watari_testbed::now() - u64::from(seconds) * SECOND;
        map.insert(&key, &affinity).unwrap();
    }
    entries.len()
}

#[test]
fn a_client_stays_with_its_backend_by_both_ways() {
    past_the_routes(|cluster| {
        cluster.say(&sticky());
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                let to = at(sticky().cluster_ip(v6), 80);
                let who = Who::Pod(0, 0);
                let mut all: Vec<_> = WAYS
                    .iter()
                    .flat_map(|way| names(cluster, who, *way, (protocol, to)))
                    .collect();
                // By another of the same Service's addresses, too.
                let port = cluster.node_port(0, v6, PORT);
                all.extend(names(cluster, who, Way::Packet, (protocol, port)));
                all.dedup();
                assert_eq!(all.len(), 1, "{protocol:?}, {to}: {all:?}");
            }
        }
    });
}

#[test]
fn somebody_outside_stays_with_its_backend() {
    past_the_routes(|cluster| {
        cluster.say(&sticky());
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                // At either node.
                let mut all = Vec::new();
                for node in [0, 1] {
                    let to = cluster.node_port(node, v6, PORT);
                    all.extend(names(cluster, Who::Outside, Way::Packet, (protocol, to)));
                }
                all.dedup();
                assert_eq!(all.len(), 1, "{protocol:?}: {all:?}");
            }
        }
    });
}

#[test]
fn a_client_is_forgotten_after_the_timeout() {
    past_the_routes(|cluster| {
        cluster.say(&sticky());
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(sticky().cluster_ip(v6), 80);
                let (who, tcp) = (Who::Pod(0, 0), Protocol::Tcp);
                let first = open(cluster, who, way, tcp, to).seen.name;
                // Nearly as long ago as it is remembered.
                for _ in 0..8 {
                    assert!(age(cluster, 0, TIMEOUT - 5) > 0);
                    assert_eq!(open(cluster, who, way, tcp, to).seen.name, first);
                }
                let moved = (0..40).any(|_| {
                    age(cluster, 0, TIMEOUT + 1);
                    open(cluster, who, way, tcp, to).seen.name != first
                });
                assert!(moved, "{way:?}, {to}: always {first}");
            }
        }
    });
}

#[test]
fn a_client_leaves_a_backend_that_is_not_ready() {
    past_the_routes(|cluster| {
        for way in WAYS {
            for v6 in FAMILIES {
                cluster.say(&sticky());
                let to = at(sticky().cluster_ip(v6), 80);
                let (who, udp) = (Who::Pod(0, 0), Protocol::Udp);
                let first = open(cluster, who, way, udp, to).seen.name;
                let all = sticky();
                let rest = all.ends.iter().map(|end| {
                    let name = format!("{}-{}", end.node + 1, end.pod + 1);
                    if name == first {
                        end.clone().terminating()
                    } else {
                        end.clone()
                    }
                });
                cluster.say(&all.clone().ends(rest.collect::<Vec<_>>()));
                let mut then = names(cluster, who, way, (udp, to));
                assert!(!then.contains(&first), "{way:?}: {then:?}");
                then.dedup();
                assert_eq!(then.len(), 1, "{way:?}: {then:?}");
                cluster.forget(&all);
            }
        }
    });
}
