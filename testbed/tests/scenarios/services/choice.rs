//! Which backend is chosen.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use watari_model::{PortRange, Protocol};
use watari_testbed::said::{Said, end};
use watari_testbed::witness::Talk;
use watari_testbed::{Cluster, WAYS, Way, Who};

use super::{PROTOCOLS, at, fresh_ports, past_the_routes, reaches, refused};
use crate::FAMILIES;

const PORT: u16 = 30_080;

#[test]
fn clients_stay_in_their_zone() {
    past_the_routes(|cluster| {
        cluster.zone(0, Some("a"));
        cluster.zone(1, Some("b"));
        let hinted = Said::new("hinted", 1)
            .web()
            .ends([end(0, 1).for_zone("a"), end(1, 0).for_zone("b")]);
        cluster.say(&hinted);
        let clients = [(Who::Pod(0, 0), "1-2"), (Who::Pod(1, 1), "2-1")];
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(hinted.cluster_ip(v6), 80);
                for (who, name) in clients {
                    reaches(cluster, who, way, Protocol::Tcp, to, &[name]);
                }
            }
        }
        // One without a hint: everybody gets all.
        cluster.say(&hinted.clone().ends([end(0, 1).for_zone("a"), end(1, 0)]));
        for way in WAYS {
            let to = at(hinted.cluster_ip(false), 80);
            for (who, _) in clients {
                reaches(cluster, who, way, Protocol::Udp, to, &["1-2", "2-1"]);
            }
        }
        cluster.zone(0, None);
        cluster.zone(1, None);
    });
}

#[test]
fn clients_stay_on_their_node_by_hints() {
    past_the_routes(|cluster| {
        let hinted = Said::new("hinted", 1)
            .web()
            .ends([end(0, 1).for_node(0), end(1, 0).for_node(1)]);
        cluster.say(&hinted);
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(hinted.cluster_ip(v6), 80);
                reaches(cluster, Who::Pod(0, 0), way, Protocol::Udp, to, &["1-2"]);
                reaches(cluster, Who::Pod(1, 1), way, Protocol::Udp, to, &["2-1"]);
            }
        }
    });
}

/// How many of so many connections each got.
fn shares(
    cluster: &Cluster,
    who: Who,
    way: Way,
    (protocol, to): (Protocol, SocketAddr),
    count: usize,
) -> (BTreeMap<String, usize>, Vec<Talk>) {
    let talks: Vec<Talk> = cluster.at(who, way, || {
        let open = |_| Talk::open(protocol, to).unwrap();
        (0..count).map(open).collect()
    });
    let mut shares = BTreeMap::new();
    for talk in &talks {
        *shares.entry(talk.seen.name.clone()).or_default() += 1;
    }
    (shares, talks)
}

#[test]
fn weights_share_connections_out() {
    past_the_routes(|cluster| {
        let web = Said::new("web", 1)
            .web()
            .node_port(PORT)
            .ends([end(0, 1).weight(6), end(1, 0).weight(2)]);
        cluster.say(&web);
        let count = 400;
        let holds = |(shares, _): (BTreeMap<String, usize>, Vec<Talk>), what: &str| {
            // 300 expected; 40 are more than four and a half standard deviations.
            let heavy = shares["1-2"];
            assert!(heavy.abs_diff(300) < 40, "{what}: {shares:?}");
        };
        for v6 in FAMILIES {
            let to = at(web.cluster_ip(v6), 80);
            for way in WAYS {
                let asked = shares(cluster, Who::Pod(0, 0), way, (Protocol::Udp, to), count);
                holds(asked, &format!("{way:?}"));
            }
            // From outside, by the ring of Maglev.
            let port = (Protocol::Udp, cluster.node_port(0, v6, PORT));
            let asked = shares(cluster, Who::Outside, Way::Packet, port, count);
            holds(asked, "outside");
        }
    });
}

/// Whichever node a router gives a connection to, the same backend gets it.
#[test]
fn any_node_chooses_the_same_backend_for_somebody_outside() {
    past_the_routes(|cluster| {
        let ends = [end(0, 0), end(0, 1), end(1, 0), end(1, 1)];
        cluster.say(&Said::new("web", 1).web().node_port(PORT).ends(ends));
        for v6 in FAMILIES {
            for (protocol, count) in [(Protocol::Udp, 40), (Protocol::Tcp, 10)] {
                let mut names = [Vec::new(), Vec::new()];
                let ports = fresh_ports(count);
                for (node, names) in names.iter_mut().enumerate() {
                    let to = cluster.node_port(node, v6, PORT);
                    *names = cluster.at(Who::Outside, Way::Packet, || {
                        let open = |port| Talk::open_from(protocol, port, to).unwrap().seen.name;
                        ports.clone().map(open).collect::<Vec<_>>()
                    });
                }
                assert_eq!(names[0], names[1], "{protocol:?}");
                let mut all = names[0].clone();
                all.sort();
                all.dedup();
                assert!(all.len() > 1, "{protocol:?}: always {all:?}");
            }
        }
    });
}

#[test]
fn new_connections_go_where_fewer_are() {
    past_the_routes(|cluster| {
        let count = 150;
        for way in WAYS {
            for v6 in FAMILIES {
                let web = Said::new("web", 1)
                    .web()
                    .with(|service| service.wishes.least_connections = true);
                cluster.say(&web.clone().ends([end(1, 0)]));
                let asked = (Protocol::Tcp, at(web.cluster_ip(v6), 80));
                let who = Who::Pod(0, 0);
                let (before, held) = shares(cluster, who, way, asked, count);
                assert_eq!(before["2-1"], count);
                cluster.say(&web.clone().ends([end(0, 1), end(1, 0)]));
                let (after, _) = shares(cluster, who, way, asked, count);
                // Three of four, where at random it were half of them.
                let fewer = after["1-2"];
                assert!(fewer >= 90, "{way:?}: {after:?}");
                drop(held);
                cluster.forget(&web);
            }
        }
    });
}

#[test]
fn ranges_of_ports_keep_the_port() {
    past_the_routes(|cluster| {
        let range = |protocol, first, last| PortRange {
            protocol,
            first,
            last,
        };
        let web = Said::new("web", 1)
            .port("exact", Protocol::Tcp, 8080, 9090)
            .with(|service| {
                service.wishes.port_ranges = vec![
                    range(Protocol::Tcp, 7000, 9100),
                    range(Protocol::Udp, 1, 65_535),
                ];
            })
            .ends([end(1, 0)]);
        cluster.say(&web);
        for way in WAYS {
            for v6 in FAMILIES {
                let (who, ip) = (Who::Pod(0, 0), web.cluster_ip(v6));
                for (protocol, port, got) in [
                    (Protocol::Tcp, 7001, 7001),
                    (Protocol::Tcp, 9090, 9090),
                    // A port of its own goes before a range.
                    (Protocol::Tcp, 8080, 9090),
                    (Protocol::Udp, 7001, 7001),
                    (Protocol::Udp, 8080, 8080),
                ] {
                    let heard = reaches(cluster, who, way, protocol, at(ip, port), &["2-1"]);
                    assert_eq!(heard["2-1"].at.port(), got);
                }
                for protocol in PROTOCOLS {
                    // There nobody listens: the pod itself says so.
                    refused(cluster, who, way, protocol, at(ip, 7005));
                }
                refused(cluster, who, way, Protocol::Tcp, at(ip, 6999));
                refused(cluster, who, way, Protocol::Tcp, at(ip, 9101));
            }
        }
    });
}
