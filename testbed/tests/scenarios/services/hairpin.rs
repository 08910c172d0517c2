//! A pod that is its own Service's backend.

use watari_testbed::said::{Said, end};
use watari_testbed::{WAYS, Way, Who};

use super::{PROTOCOLS, at, past_the_routes, reaches, sees};
use crate::FAMILIES;

#[test]
fn a_pod_reaches_itself() {
    past_the_routes(|cluster| {
        let own = Said::new("own", 1)
            .web()
            .node_port(30_080)
            .ends([end(0, 0)]);
        cluster.say(&own);
        let who = Who::Pod(0, 0);
        for v6 in FAMILIES {
            let addresses = [at(own.cluster_ip(v6), 80), cluster.node_port(0, v6, 30_080)];
            for protocol in PROTOCOLS {
                for (way, to) in WAYS.iter().flat_map(|way| addresses.map(|to| (*way, to))) {
                    let heard = reaches(cluster, who, way, protocol, to, &["1-1"]);
                    // At the socket it is connected to itself; else the answer has to leave the pod.
                    let client = match way {
                        Way::Socket => who,
                        Way::Packet => Who::Node(0),
                    };
                    sees(&heard["1-1"], cluster.address(client, v6));
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn a_pod_sends_itself_much() {
    past_the_routes(|cluster| {
        let own = Said::new("own", 1).web().ends([end(0, 0)]);
        cluster.say(&own);
        for way in WAYS {
            for v6 in FAMILIES {
                for (protocol, length) in [
                    (watari_model::Protocol::Tcp, 3 << 20),
                    (watari_model::Protocol::Udp, 20_000),
                ] {
                    let to = at(own.cluster_ip(v6), 80);
                    let mut talk = super::open(cluster, Who::Pod(0, 0), way, protocol, to);
                    talk.exchange(length).unwrap();
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}
