//! Node ports.

use watari_abi::Reason;
use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::{WAYS, Way, Who};

use super::{PROTOCOLS, on_both, past_the_routes, reaches, sees, sees_translated, silent};
use crate::FAMILIES;

const PORT: u16 = 30_080;

fn web() -> Said {
    Said::new("web", 1)
        .web()
        .node_port(PORT)
        .ends([end(0, 1), end(1, 0)])
}

/// A backend of the node that was asked sees the client; one elsewhere sees that node.
#[test]
fn somebody_outside_reaches_a_node_port() {
    past_the_routes(|cluster| {
        cluster.say(&web());
        for node in [0, 1] {
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = cluster.node_port(node, v6, PORT);
                    let (who, way) = (Who::Outside, Way::Packet);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    let [local, remote] = if node == 0 {
                        ["1-2", "2-1"]
                    } else {
                        ["2-1", "1-2"]
                    };
                    sees(&heard[local], cluster.address(who, v6));
                    sees_translated(&heard[remote], cluster.address(Who::Node(node), v6));
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn pods_reach_their_own_nodes_port() {
    past_the_routes(|cluster| {
        cluster.say(&web());
        let who = Who::Pod(0, 0);
        for way in WAYS {
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = cluster.node_port(0, v6, PORT);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    for seen in heard.values() {
                        sees(seen, cluster.address(who, v6));
                    }
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// What the other node's port is, only that one knows.
#[test]
fn pods_reach_another_nodes_port() {
    on_both(|cluster| {
        cluster.say(&web());
        let who = Who::Pod(0, 0);
        for way in WAYS {
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = cluster.node_port(1, v6, PORT);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    sees(&heard["2-1"], cluster.address(who, v6));
                    sees_translated(&heard["1-2"], cluster.address(Who::Node(1), v6));
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn nodes_reach_node_ports() {
    on_both(|cluster| {
        cluster.say(&web());
        let who = Who::Node(0);
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                // Its own port: no packet of that leaves the node's own stack, so at the socket.
                let to = cluster.node_port(0, v6, PORT);
                let heard = reaches(cluster, who, Way::Socket, protocol, to, &["1-2", "2-1"]);
                for seen in heard.values() {
                    sees(seen, cluster.address(who, v6));
                }
                for way in WAYS {
                    let to = cluster.node_port(1, v6, PORT);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    sees(&heard["2-1"], cluster.address(who, v6));
                    sees_translated(&heard["1-2"], cluster.address(Who::Node(1), v6));
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// Who comes from outside stays on the node and is seen there as it is; who is inside is not bound
/// to that.
#[test]
fn an_external_policy_of_local_keeps_the_client() {
    past_the_routes(|cluster| {
        let local = web().with(|service| service.external_local = true);
        cluster.say(&local.clone().ends([end(0, 1)]));
        for v6 in FAMILIES {
            let to = [0, 1].map(|node| cluster.node_port(node, v6, PORT));
            let (outside, packet) = (Who::Outside, Way::Packet);
            for protocol in PROTOCOLS {
                let heard = reaches(cluster, outside, packet, protocol, to[0], &["1-2"]);
                sees(&heard["1-2"], cluster.address(outside, v6));
                let before = cluster.dropped(1, Reason::NoLocalEndpoint);
                silent(cluster, outside, packet, protocol, to[1]);
                assert!(cluster.dropped(1, Reason::NoLocalEndpoint) > before);
                for way in WAYS {
                    let pod = Who::Pod(1, 0);
                    let heard = reaches(cluster, pod, way, protocol, to[1], &["1-2"]);
                    sees(&heard["1-2"], cluster.address(pod, v6));
                }
            }
        }
        cluster.say(&local.ends([end(0, 1), end(1, 1)]));
        for v6 in FAMILIES {
            let (outside, packet, tcp) = (Who::Outside, Way::Packet, Protocol::Tcp);
            for (node, name) in [(0, "1-2"), (1, "2-2")] {
                let to = cluster.node_port(node, v6, PORT);
                let heard = reaches(cluster, outside, packet, tcp, to, &[name]);
                sees(&heard[name], cluster.address(outside, v6));
            }
            // A pod at a node's port, and at the cluster address, is given to anybody.
            let to = cluster.node_port(1, v6, PORT);
            reaches(cluster, Who::Pod(1, 0), packet, tcp, to, &["1-2", "2-2"]);
        }
    });
}
