//! Who is refused, and who is dropped.

use watari_abi::{Counter, Reason};
use watari_testbed::said::{Said, cluster_ip, end};
use watari_testbed::{Outside, WAYS, Way, Who};

use super::{PROTOCOLS, at, on_both, past_the_routes, refused, silent};
use crate::FAMILIES;

const PORT: u16 = 30_080;

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    on_both(|cluster| {
        Outside::by(&cluster.bed, "203.0.113.0/24", 0);
        Outside::by(&cluster.bed, "2001:db8:77::/64", 0);
        let external = [[203, 0, 113, 7].into(), "2001:db8:77::7".parse().unwrap()];
        let none = Said::new("none", 1).web().node_port(PORT);
        let none = external
            .iter()
            .fold(none, |none, ip| none.ingress(*ip, false));
        // One that is not ready is none.
        cluster.say(&none.clone().ends([end(1, 0).unready()]));
        for v6 in FAMILIES {
            let inner = at(none.cluster_ip(v6), 80);
            let outer = at(external[usize::from(v6)], 80);
            let port = cluster.node_port(0, v6, PORT);
            for protocol in PROTOCOLS {
                for way in WAYS {
                    for to in [inner, outer, port] {
                        refused(cluster, Who::Pod(0, 0), way, protocol, to);
                    }
                    for to in [inner, outer] {
                        refused(cluster, Who::Node(0), way, protocol, to);
                    }
                }
                for to in [outer, port] {
                    refused(cluster, Who::Outside, Way::Packet, protocol, to);
                }
            }
        }
        assert!(cluster.count(0, Counter::Refused) > 0);
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn a_policy_of_local_without_any_endpoint_refuses() {
    past_the_routes(|cluster| {
        let none = Said::new("none", 1).web().node_port(PORT).with(|service| {
            (service.internal_local, service.external_local) = (true, true);
        });
        cluster.say(&none);
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                let port = cluster.node_port(0, v6, PORT);
                refused(cluster, Who::Outside, Way::Packet, protocol, port);
                let inner = at(none.cluster_ip(v6), 80);
                refused(cluster, Who::Pod(0, 0), Way::Packet, protocol, inner);
            }
        }
    });
}

#[test]
fn undefined_ports_are_refused() {
    on_both(|cluster| {
        Outside::by(&cluster.bed, "10.96.0.0/16", 0);
        Outside::by(&cluster.bed, "fd96::/112", 0);
        let web = Said::new("web", 1).web().ends([end(1, 0)]);
        cluster.say(&web);
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                let to = at(web.cluster_ip(v6), 81);
                for way in WAYS {
                    refused(cluster, Who::Pod(0, 0), way, protocol, to);
                    refused(cluster, Who::Node(0), way, protocol, to);
                }
                refused(cluster, Who::Outside, Way::Packet, protocol, to);
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

#[test]
fn addresses_that_no_service_has_are_dropped() {
    on_both(|cluster| {
        Outside::by(&cluster.bed, "10.96.0.0/16", 0);
        Outside::by(&cluster.bed, "fd96::/112", 0);
        for v6 in FAMILIES {
            for protocol in PROTOCOLS {
                let to = at(cluster_ip(99, v6), 80);
                let asked = [
                    (Who::Pod(0, 0), Way::Packet),
                    (Who::Pod(0, 0), Way::Socket),
                    (Who::Node(0), Way::Packet),
                    (Who::Outside, Way::Packet),
                ];
                for (who, way) in asked {
                    let before = cluster.dropped(0, Reason::UnallocatedService);
                    silent(cluster, who, way, protocol, to);
                    let after = cluster.dropped(0, Reason::UnallocatedService);
                    assert!(after > before, "{who:?} by {way:?}, {protocol:?} to {to}");
                }
            }
        }
    });
}
