//! Load balancers' addresses and `externalIPs`.

use std::net::IpAddr;

use watari_abi::Reason;
use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::witness::Witness;
use watari_testbed::{Cluster, Outside, WAYS, Way, Who};

use super::{PROTOCOLS, at, on_both, past_the_routes, reaches, sees, sees_translated, silent};
use crate::FAMILIES;

/// Of that number, outside of every other range.
fn external(number: u8, v6: bool) -> IpAddr {
    if v6 {
        format!("2001:db8:77::{number:x}").parse().unwrap()
    } else {
        [203, 0, 113, number].into()
    }
}

/// The router sends them to a node.
fn by(cluster: &Cluster, node: usize) {
    Outside::by(&cluster.bed, "203.0.113.0/24", node);
    Outside::by(&cluster.bed, "2001:db8:77::/64", node);
}

/// From outside as at a node port; who is inside does not leave the cluster.
fn everybody_reaches(cluster: &mut Cluster, number: u8) {
    for v6 in FAMILIES {
        let to = at(external(number, v6), 80);
        let names = ["1-2", "2-1"];
        for protocol in PROTOCOLS {
            let (who, way) = (Who::Outside, Way::Packet);
            let heard = reaches(cluster, who, way, protocol, to, &names);
            sees(&heard["1-2"], cluster.address(who, v6));
            sees_translated(&heard["2-1"], cluster.address(Who::Node(0), v6));
            for way in WAYS {
                let who = Who::Pod(0, 0);
                let heard = reaches(cluster, who, way, protocol, to, &names);
                for seen in heard.values() {
                    sees(seen, cluster.address(who, v6));
                }
            }
        }
    }
    assert_eq!(cluster.drops(), []);
}

#[test]
fn a_load_balancers_address_is_reached_by_everybody() {
    past_the_routes(|cluster| {
        by(cluster, 0);
        let web = Said::new("web", 1).web().ends([end(0, 1), end(1, 0)]);
        let web = FAMILIES
            .iter()
            .fold(web, |web, v6| web.ingress(external(7, *v6), false));
        cluster.say(&web);
        everybody_reaches(cluster, 7);
    });
}

#[test]
fn an_external_ip_is_reached_by_everybody() {
    past_the_routes(|cluster| {
        by(cluster, 0);
        let web = Said::new("web", 1)
            .web()
            .with(|service| service.external_ips = FAMILIES.map(|v6| external(8, v6)).into())
            .ends([end(0, 1), end(1, 0)]);
        cluster.say(&web);
        everybody_reaches(cluster, 8);
    });
}

/// Its clients inside leave the cluster and come back by it.
#[test]
fn an_ip_mode_of_proxy_sends_pods_to_the_load_balancer() {
    on_both(|cluster| {
        let router = cluster.bed.router.as_ref().unwrap();
        let addresses = FAMILIES.map(|v6| external(9, v6));
        for address in addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let address = format!("{address}/{length}");
            let replace = ["ip", "address", "replace", &address, "dev", "lo"];
            // It is there at once: nobody looks for another who has it.
            let flags: &[&str] = if address.contains(':') {
                &["nodad"]
            } else {
                &[]
            };
            router.run(&[&replace, flags].concat());
        }
        let balancer = Witness::start(router, "balancer", &addresses, &[80]).unwrap();
        let web = Said::new("web", 1).web().ends([end(0, 0), end(1, 0)]);
        let web = addresses
            .iter()
            .fold(web, |web, address| web.ingress(*address, true));
        cluster.say(&web);
        for address in addresses {
            for way in WAYS {
                for protocol in PROTOCOLS {
                    let (who, to) = (Who::Pod(0, 0), at(address, 80));
                    let heard = reaches(cluster, who, way, protocol, to, &["balancer"]);
                    sees(&heard["balancer"], cluster.address(who, address.is_ipv6()));
                }
            }
        }
        drop(balancer);
        for address in addresses {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let address = format!("{address}/{length}");
            let router = cluster.bed.router.as_ref().unwrap();
            router.run(&["ip", "address", "del", &address, "dev", "lo"]);
        }
    });
}

/// They hold everybody at the load balancer's address, and nobody elsewhere.
#[test]
fn source_ranges_hold_everybody() {
    past_the_routes(|cluster| {
        by(cluster, 0);
        let web = Said::new("web", 1).web().ends([end(0, 1)]);
        let web = FAMILIES
            .iter()
            .fold(web, |web, v6| web.ingress(external(7, *v6), false));
        let allowed = [
            format!("{}/32", cluster.outside.v4),
            format!("{}/128", cluster.outside.v6),
            format!("{}/32", cluster.pod(0, 0).v4),
            format!("{}/128", cluster.pod(0, 0).v6),
        ];
        let ranges = allowed.iter().map(|range| range.parse().unwrap()).collect();
        let web = web
            .node_port(30_080)
            .with(|service| service.source_ranges = ranges);
        cluster.say(&web);
        for v6 in FAMILIES {
            let to = at(external(7, v6), 80);
            for protocol in PROTOCOLS {
                reaches(cluster, Who::Outside, Way::Packet, protocol, to, &["1-2"]);
                for way in WAYS {
                    reaches(cluster, Who::Pod(0, 0), way, protocol, to, &["1-2"]);
                }
                // The router's own addresses are not among them, nor is another pod's.
                let before = cluster.dropped(0, Reason::SourceRange);
                silent(cluster, Who::Router, Way::Packet, protocol, to);
                assert!(cluster.dropped(0, Reason::SourceRange) > before);
                for way in WAYS {
                    let before = cluster.dropped(0, Reason::SourceRange);
                    silent(cluster, Who::Pod(0, 1), way, protocol, to);
                    assert!(cluster.dropped(0, Reason::SourceRange) > before, "{way:?}");
                }
            }
            // They say nothing of the node port and of the cluster address.
            let port = cluster.node_port(0, v6, 30_080);
            let (router, tcp) = (Who::Router, Protocol::Tcp);
            reaches(cluster, router, Way::Packet, tcp, port, &["1-2"]);
            let inner = at(web.cluster_ip(v6), 80);
            reaches(
                cluster,
                Who::Pod(1, 0),
                Way::Packet,
                Protocol::Tcp,
                inner,
                &["1-2"],
            );
        }
    });
}
