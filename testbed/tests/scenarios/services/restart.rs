//! Programs replaced under connections to Services.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use watari_testbed::said::{Said, end};
use watari_testbed::witness::Talk;
use watari_testbed::{Cluster, WAYS, Way, Who};

use super::{PROTOCOLS, at, open, past_the_routes, reaches};
use crate::FAMILIES;

const PORT: u16 = 30_080;

/// Connections of all kinds.
fn talks(cluster: &Cluster, web: &Said) -> Vec<(String, Talk)> {
    let mut talks = Vec::new();
    for v6 in FAMILIES {
        let inner = at(web.cluster_ip(v6), 80);
        let outer = cluster.node_port(0, v6, PORT);
        let mut places: Vec<(Who, Way, SocketAddr)> =
            WAYS.map(|way| (Who::Pod(0, 0), way, inner)).to_vec();
        places.push((Who::Outside, Way::Packet, outer));
        for (who, way, to) in places {
            for protocol in PROTOCOLS {
                for _ in 0..4 {
                    let what = format!("{who:?} by {way:?}, {protocol:?} to {to}");
                    talks.push((what, open(cluster, who, way, protocol, to)));
                }
            }
        }
    }
    talks
}

#[test]
fn no_connection_notices_new_programs() {
    past_the_routes(|cluster| {
        let web = Said::new("web", 1)
            .web()
            .node_port(PORT)
            .ends([end(0, 1), end(1, 0)]);
        cluster.say(&web);
        let talks = Mutex::new(talks(cluster, &web));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let talking = scope.spawn(|| {
                let mut rounds = 0;
                while !over.load(Ordering::Relaxed) || rounds < 2 {
                    rounds += 1;
                    for (what, talk) in &mut *talks.lock().unwrap() {
                        let name = talk.seen.name.clone();
                        let seen = talk.exchange(1000);
                        let seen = seen.unwrap_or_else(|error| panic!("{what}: {error:#}"));
                        assert_eq!(seen.name, name, "{what}: another backend");
                        assert_eq!(seen.client, talk.seen.client, "{what}: another client");
                    }
                }
            });
            for node in [0, 1] {
                cluster.restart(node).unwrap();
            }
            over.store(true, Ordering::Relaxed);
            talking
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        // And new ones begin as ever.
        for way in WAYS {
            for v6 in FAMILIES {
                let to = at(web.cluster_ip(v6), 80);
                let (who, names) = (Who::Pod(0, 0), ["1-2", "2-1"]);
                reaches(cluster, who, way, watari_model::Protocol::Tcp, to, &names);
            }
        }
        cluster.say(&web.clone().ends([end(1, 0)]));
        let to = at(web.cluster_ip(false), 80);
        reaches(
            cluster,
            Who::Pod(0, 0),
            Way::Socket,
            PROTOCOLS[1],
            to,
            &["2-1"],
        );
        assert_eq!(cluster.drops(), []);
    });
}
