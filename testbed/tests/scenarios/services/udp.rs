//! What is particular to UDP.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use watari_model::Protocol;
use watari_testbed::said::{Said, end};
use watari_testbed::witness::{ask, ask_by};
use watari_testbed::{WAYS, Who};

use super::{at, on_both, past_the_routes, sees};
use crate::FAMILIES;

fn unconnected(v6: bool) -> UdpSocket {
    UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap()
}

/// A resolver takes only the answers that come from whom it asked.
#[test]
fn an_answer_comes_from_whom_was_asked() {
    on_both(|cluster| {
        let one = Said::new("one", 1).web().ends([end(0, 1)]);
        let other = Said::new("other", 2).web().ends([end(1, 0)]);
        cluster.say(&one);
        cluster.say(&other);
        for who in [Who::Pod(0, 0), Who::Node(0)] {
            for (way, v6) in WAYS
                .into_iter()
                .flat_map(|way| FAMILIES.map(|v6| (way, v6)))
            {
                let (first, second) = (at(one.cluster_ip(v6), 80), at(other.cluster_ip(v6), 80));
                let straight = at(cluster.pod(1, 0).address(v6), 8080);
                let client = cluster.address(who, v6);
                cluster.at(who, way, || {
                    // One socket, several Services and a backend of one of them itself, in turns.
                    let socket = unconnected(v6);
                    for _ in 0..3 {
                        for (to, name) in [(first, "1-2"), (second, "2-1")] {
                            let (seen, from) = ask_by(&socket, to).unwrap();
                            assert_eq!((from, &*seen.name), (to, name), "{who:?} by {way:?}");
                            sees(&seen, client);
                        }
                    }
                    let socket = unconnected(v6);
                    let (_, from) = ask_by(&socket, straight).unwrap();
                    assert_eq!(from, straight);
                });
            }
        }
        assert_eq!(cluster.drops(), []);
    });
}

/// A socket of IPv6 that speaks IPv4.
#[test]
fn a_socket_of_both_families_is_served() {
    past_the_routes(|cluster| {
        let web = Said::new("web", 1).web().ends([end(1, 0)]);
        cluster.say(&web);
        let std::net::IpAddr::V4(ip) = web.cluster_ip(false) else {
            panic!("not IPv4");
        };
        let to = at(ip.to_ipv6_mapped().into(), 80);
        for way in WAYS {
            cluster.at(Who::Pod(0, 0), way, || {
                let socket = unconnected(true);
                let (seen, from) = ask_by(&socket, to).unwrap();
                assert_eq!((from, &*seen.name), (to, "2-1"), "{way:?}");
                for protocol in super::PROTOCOLS {
                    let seen = ask(protocol, to);
                    assert_eq!(seen.unwrap().name, "2-1", "{way:?}, {protocol:?}");
                }
            });
        }
    });
}

/// Many short questions at once, each by a socket of its own, as resolvers do.
#[test]
fn a_storm_of_questions_is_answered() {
    past_the_routes(|cluster| {
        let dns = Said::new("dns", 1)
            .port("dns", Protocol::Udp, 53, 7001)
            .ends([end(0, 1), end(1, 0)]);
        cluster.say(&dns);
        let (threads, each) = (4, 100);
        for (way, v6) in WAYS
            .into_iter()
            .flat_map(|way| FAMILIES.map(|v6| (way, v6)))
        {
            let to = at(dns.cluster_ip(v6), 53);
            let start = Instant::now();
            cluster.at(Who::Pod(0, 0), way, || {
                std::thread::scope(|scope| {
                    for _ in 0..threads {
                        scope.spawn(|| {
                            for _ in 0..each {
                                let (_, from) = ask_by(&unconnected(v6), to).unwrap();
                                assert_eq!(from, to);
                            }
                        });
                    }
                });
            });
            // None waited to be asked again.
            let took = start.elapsed();
            assert!(took < Duration::from_secs(5), "{way:?}: {took:?}");
        }
        assert_eq!(cluster.drops(), []);
    });
}
