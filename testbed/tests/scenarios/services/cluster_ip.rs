//! Cluster addresses.

use watari_abi::{Counter, Reason};
use watari_model::Protocol;
use watari_testbed::said::{Said, cluster_ip, end};
use watari_testbed::{Outside, WAYS, Way, Who};

use super::{
    PROTOCOLS, at, on_both, past_the_routes, reaches, refused, sees, sees_translated, silent,
};
use crate::FAMILIES;

#[test]
fn pods_reach_a_cluster_ip() {
    past_the_routes(|cluster| {
        let web = Said::new("web", 1).web().ends([end(0, 1), end(1, 0)]);
        cluster.say(&web);
        let who = Who::Pod(0, 0);
        for way in WAYS {
            let before = (
                cluster.count(0, Counter::BalancedAtSocket),
                cluster.count(0, Counter::Balanced),
            );
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = at(web.cluster_ip(v6), 80);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    for seen in heard.values() {
                        sees(seen, cluster.address(who, v6));
                        assert_eq!(seen.at.port(), 8080);
                    }
                }
            }
            let after = (
                cluster.count(0, Counter::BalancedAtSocket),
                cluster.count(0, Counter::Balanced),
            );
            let by_socket = (after.0 > before.0, after.1 > before.1);
            assert_eq!(
                by_socket,
                (way == Way::Socket, way == Way::Packet),
                "{way:?}"
            );
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn nodes_reach_a_cluster_ip() {
    on_both(|cluster| {
        let web = Said::new("web", 1).web().ends([end(0, 1), end(1, 0)]);
        cluster.say(&web);
        let who = Who::Node(0);
        for way in WAYS {
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = at(web.cluster_ip(v6), 80);
                    let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                    for seen in heard.values() {
                        let node = cluster.address(who, v6);
                        match way {
                            Way::Socket => sees(seen, node),
                            // Answers are known by the port.
                            Way::Packet => sees_translated(seen, node),
                        }
                    }
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn a_cluster_ip_is_reached_from_outside() {
    past_the_routes(|cluster| {
        let web = Said::new("web", 1).web().ends([end(0, 1), end(1, 0)]);
        cluster.say(&web);
        Outside::by(&cluster.bed, "10.96.0.0/16", 0);
        Outside::by(&cluster.bed, "fd96::/112", 0);
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                let to = at(web.cluster_ip(v6), 80);
                let (who, way) = (Who::Outside, Way::Packet);
                let heard = reaches(cluster, who, way, protocol, to, &["1-2", "2-1"]);
                for seen in heard.values() {
                    sees_translated(seen, cluster.address(Who::Node(0), v6));
                }
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn every_port_leads_to_its_own() {
    past_the_routes(|cluster| {
        let many = Said::new("many", 2)
            .port("http", Protocol::Tcp, 80, 8080)
            .port("metrics", Protocol::Tcp, 9100, 9090)
            .port("dns", Protocol::Udp, 53, 7001)
            .ends([end(1, 0)]);
        cluster.say(&many);
        let ports = [
            (Protocol::Tcp, 80, 8080),
            (Protocol::Tcp, 9100, 9090),
            (Protocol::Udp, 53, 7001),
        ];
        for (way, v6) in WAYS.into_iter().zip(FAMILIES).chain(
            // Each way by each family.
            WAYS.into_iter().zip(FAMILIES.into_iter().rev()),
        ) {
            for (protocol, port, target) in ports {
                let to = at(many.cluster_ip(v6), port);
                let heard = reaches(cluster, Who::Pod(0, 0), way, protocol, to, &["2-1"]);
                assert_eq!(heard["2-1"].at.port(), target);
            }
            // What only the other protocol has.
            let to = at(many.cluster_ip(v6), 53);
            refused(cluster, Who::Pod(0, 0), way, Protocol::Tcp, to);
        }
    });
}

/// A named port may be another number at each pod; then there are several slices.
#[test]
fn several_slices_are_one_service() {
    past_the_routes(|cluster| {
        let one = Said::new("parts", 3)
            .port("http", Protocol::Tcp, 80, 8080)
            .ends([end(1, 0)]);
        let other = Said::new("parts", 3)
            .port("http", Protocol::Tcp, 80, 9090)
            .ends([end(0, 1)]);
        cluster.say(&one);
        let more = other.slices().map(|mut slice| {
            slice.name.name.push_str("-more");
            slice
        });
        cluster.tell(|_, compiler| {
            for slice in &more {
                compiler.set_slice(slice);
            }
        });
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(one.cluster_ip(v6), 80);
                let (who, names) = (Who::Pod(0, 0), ["1-2", "2-1"]);
                let heard = reaches(cluster, who, way, Protocol::Tcp, to, &names);
                assert_eq!(heard["2-1"].at.port(), 8080);
                assert_eq!(heard["1-2"].at.port(), 9090);
            }
        }
    });
}

/// A Service of one family has nothing at the other's address.
#[test]
fn a_service_of_one_family_is_that() {
    past_the_routes(|cluster| {
        for v6 in FAMILIES {
            let number = 4 + u16::from(v6);
            let single = Said::new("single", number)
                .web()
                .with(|service| service.cluster_ips.retain(|ip| ip.is_ipv6() == v6))
                .ends([end(1, 0)]);
            cluster.say(&single);
            for way in WAYS {
                let who = Who::Pod(0, 0);
                let to = at(cluster_ip(number, v6), 80);
                reaches(cluster, who, way, Protocol::Tcp, to, &["2-1"]);
                let before = cluster.dropped(0, Reason::UnallocatedService);
                let other = at(cluster_ip(number, !v6), 80);
                silent(cluster, who, way, Protocol::Udp, other);
                assert!(cluster.dropped(0, Reason::UnallocatedService) > before);
            }
            cluster.forget(&single);
        }
    });
}

/// Clients stay on their node, or get nothing.
#[test]
fn an_internal_policy_of_local_keeps_to_the_node() {
    past_the_routes(|cluster| {
        let here = Said::new("here", 6)
            .web()
            .with(|service| service.internal_local = true)
            .ends([end(0, 1), end(1, 1)]);
        cluster.say(&here);
        for way in WAYS {
            for v6 in FAMILIES {
                for protocol in PROTOCOLS {
                    let to = at(here.cluster_ip(v6), 80);
                    reaches(cluster, Who::Pod(0, 0), way, protocol, to, &["1-2"]);
                    reaches(cluster, Who::Pod(1, 0), way, protocol, to, &["2-2"]);
                }
            }
        }
        cluster.say(&here.clone().ends([end(1, 1)]));
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(here.cluster_ip(v6), 80);
                reaches(cluster, Who::Pod(1, 0), way, Protocol::Tcp, to, &["2-2"]);
                let before = cluster.dropped(0, Reason::NoLocalEndpoint);
                silent(cluster, Who::Pod(0, 0), way, Protocol::Tcp, to);
                silent(cluster, Who::Pod(0, 0), way, Protocol::Udp, to);
                assert!(cluster.dropped(0, Reason::NoLocalEndpoint) >= before + 2);
                silent(cluster, Who::Node(0), way, Protocol::Tcp, to);
            }
        }
    });
}
