//! What is desired comes about, and what somebody changed comes back.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use watari_agent::{Options, Status};
use watari_bpf::FakeDatapath;
use watari_tables::{Hook, HookAt};

use crate::world::{Agent, Node, failed, repaired, run, until, until_healthy};

#[test]
fn the_datapath_becomes_what_store_and_cluster_say() {
    let node = Node::new();
    let pod = node.pod("c1", 60_000);
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    node.manifest("node2", "10.240.0.105", "10.244.2.0/24");
    node.with_agent(|agent| {
        let status = until_healthy(agent);
        assert_eq!(status.uplinks, ["eth0"], "found by its addresses");
        assert_eq!((status.endpoints, status.remotes), (2, 1));
        assert_eq!((status.nodes, status.repairs), (Some(2), 0));
        let tables = agent.kernel().observed.tables.clone();
        let at = |link: &str, hook| HookAt {
            link: link.parse().unwrap(),
            hook,
        };
        let hooks = BTreeSet::from([
            at(pod.link(), Hook::FromPod),
            at(pod.link(), Hook::ToPod),
            at("eth0", Hook::FromUplink),
        ]);
        assert_eq!(tables.hooks, hooks);
        let addresses: Vec<_> = tables.endpoints.keys().map(ToString::to_string).collect();
        assert_eq!(addresses, ["10.244.1.2", "fd0a:1::2"]);
        let route = node.netns.run(&["ip", "route", "show", "10.244.2.0/24"]);
        assert!(route.contains("via 10.240.0.105 dev eth0"), "{route}");

        // A node comes, another changes, and a pod goes.
        node.manifest("node3", "10.240.0.206", "10.244.3.0/24");
        node.manifest("node2", "10.240.0.106", "10.244.2.0/24");
        until(agent, "two nodes", |status| status.remotes == 2);
        let store = node.store();
        let gone = &pod.record.attachment;
        store.write(|tx| tx.remove_endpoint(gone)).unwrap();
        let status = until(agent, "no pod", |status| status.endpoints == 0);
        assert_eq!(status.repairs, 0, "{status:#?}");
        let remotes = &agent.kernel().observed.tables.remotes;
        let via: Vec<_> = remotes.values().map(ToString::to_string).collect();
        assert_eq!(via, ["10.240.0.106", "10.240.0.206"]);
    });
}

#[test]
fn without_a_cluster_the_ways_to_other_nodes_stay() {
    let node = Node::new();
    let mut kernel = FakeDatapath::default();
    let range = "10.244.2.0/24".parse().unwrap();
    let remotes = &mut kernel.observed.tables.remotes;
    remotes.insert(range, "10.240.0.105".parse().unwrap());
    let leftover = HookAt {
        link: "eth0".parse().unwrap(),
        hook: Hook::FromPod,
    };
    kernel.observed.tables.hooks.insert(leftover.clone());
    node.with(kernel, |agent| {
        let status = until_healthy(agent);
        assert_eq!((status.nodes, status.remotes), (None, 1));
        assert!(!agent.kernel().observed.tables.hooks.contains(&leftover));
        // The folder comes, and says that there are no others.
        node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
        until(agent, "the list", |status| status.remotes == 0);
    });
}

#[test]
fn a_cluster_without_this_node_takes_no_ways_away() {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    node.manifest("node2", "10.240.0.5", "10.244.2.0/24");
    node.with_agent(|agent| {
        until_healthy(agent);
        let (own, other) = (
            node.cluster().join("node1.yaml"),
            node.cluster().join("node2.yaml"),
        );
        let kept = |agent: &mut Agent, words: &str| {
            let said = |status: &Status| status.notes.iter().any(|note| note.contains(words));
            let status = until(agent, words, said);
            assert!(!status.healthy, "{status:#?}");
            assert_eq!((status.nodes, status.remotes), (Some(2), 1), "{status:#?}");
            let route = ["ip", "route", "show", "10.244.2.0/24", "proto", "87"];
            assert!(node.netns.run(&route).contains("10.240.0.5"));
        };
        std::fs::write(&own, "").unwrap();
        kept(agent, "node1 is not among its nodes");
        std::fs::write(&other, "").unwrap();
        kept(agent, "no Node");
        std::fs::remove_file(&own).unwrap();
        std::fs::remove_file(&other).unwrap();
        kept(agent, "no Node");

        node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
        let status = until(agent, "the list", |status| status.remotes == 0);
        assert_eq!(status.nodes, Some(1), "who is there says who is gone");
        until_healthy(agent);
    });
}

#[test]
fn what_somebody_changed_at_the_nodes_side_is_repaired_and_told() {
    let (node, pod) = {
        let node = Node::new();
        let pod = node.pod("c1", 60_000);
        (node, pod)
    };
    let link = pod.link();
    node.with_agent(|agent| {
        until_healthy(agent);
        for (break_it, words) in [
            (format!("ip link set {link} mtu 1300"), "MTU is 1300"),
            (format!("ip link set {link} alias x"), "alias is"),
            (format!("ip link set {link} down"), "it is down"),
            (
                format!("ip link set {link} address 02:00:00:00:00:07"),
                "MAC is 02:00:00:00:00:07",
            ),
            (
                "ip route del 10.244.1.2".to_owned(),
                "route 10.244.1.2/32 is missing",
            ),
            (
                format!("ip neigh del 10.244.1.2 dev {link}"),
                "permanent neighbour 10.244.1.2",
            ),
            (
                format!("ip -6 neigh del proxy fe80::1234:5678:9abc dev {link}"),
                "proxy neighbour",
            ),
            (
                format!("sysctl -qw net.ipv4.conf.{link}.proxy_arp=0"),
                "proxy_arp = 1 is missing",
            ),
        ] {
            run(&node.netns, &break_it);
            until(agent, words, |status| {
                repaired(status, words) && status.healthy
            });
        }
        let status = agent.status();
        let of = &status.last_repairs[0].of;
        assert!(of.contains("default/c1"), "{of}");
    });
    pod.ping();
}

#[test]
fn what_somebody_changed_inside_the_pod_is_repaired() {
    let node = Node::new();
    let pod = node.pod("c1", 60_000);
    node.with_agent(|agent| {
        until_healthy(agent);
        for (break_it, words) in [
            (
                "ip route del default",
                "route 0.0.0.0/0 via 169.254.1.1 is missing",
            ),
            (
                "ip address del 10.244.1.2/24 dev eth0",
                "address 10.244.1.2/24 is missing",
            ),
            (
                "ip neigh flush dev eth0 nud permanent",
                "permanent neighbour 169.254.1.1",
            ),
            ("ip link set eth0 down", "pod eth0: it is down"),
        ] {
            run(&pod.netns, break_it);
            until(agent, words, |status| {
                repaired(status, words) && status.healthy
            });
        }
    });
    pod.ping();
}

#[test]
fn what_somebody_changed_in_the_datapath_is_repaired() {
    let node = Node::new();
    let pod = node.pod("c1", 60_000);
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    node.manifest("node2", "10.240.0.105", "10.244.2.0/24");
    node.with_agent(|agent| {
        until_healthy(agent);
        let tables = agent.kernel().observed.tables.clone();
        agent.kernel().observed.tables.hooks.clear();
        agent.kernel().observed.tables.endpoints.clear();
        agent.kernel().observed.tables.remotes.clear();
        let status = until(agent, "repairs", |status| status.repairs >= 6);
        assert_eq!(agent.kernel().observed.tables, tables);
        let link = pod.link();
        for words in [
            "set endpoint 10.244.1.2".to_owned(),
            format!("attach from_pod at {link}"),
            "set 10.244.2.0/24 to node 10.240.0.105".to_owned(),
        ] {
            assert!(repaired(&status, &words), "{words}: {status:#?}");
        }
        // Pins gone: loaded again, and everything is made again.
        agent
            .kernel()
            .observed
            .unpinned
            .push("maps/endpoints".to_owned());
        let links = agent.kernel().links.clone();
        let status = until(agent, "a new datapath", |status| {
            repaired(status, "maps/endpoints")
        });
        assert!(!status.healthy);
        agent.kernel().links = links;
        until_healthy(agent);
        assert_eq!(agent.kernel().observed.tables, tables);
    });
}

#[test]
fn a_deleted_link_is_told_and_its_entries_are_withdrawn() {
    let node = Node::new();
    let (one, two) = (node.pod("c1", 60_000), node.pod("c2", 60_000));
    node.with_agent(|agent| {
        assert_eq!(until_healthy(agent).endpoints, 4);
        run(&node.netns, &format!("ip link del {}", one.link()));
        let status = until(agent, "withdrawal", |status| {
            status.endpoints == 2 && failed(status).is_some()
        });
        let kept = failed(&status).unwrap();
        assert_eq!(kept.pod.as_deref(), Some("default/c1"));
        let error = kept.error.as_deref().unwrap();
        assert!(error.contains("delete the pod"), "{error}");
        assert!(!status.healthy);
        assert_eq!(status.missed, 0, "its sandbox is there");
    });
    two.ping();
}

#[test]
fn an_endpoint_that_its_plugin_may_still_be_making_is_left_alone() {
    let node = Node::new();
    let pod = node.pod("c1", 0);
    run(&node.netns, "ip route del 10.244.1.2");
    node.with_agent(|agent| {
        let status = until(agent, "entries", |status| status.endpoints == 2);
        assert!(status.healthy && status.repairs == 0, "{status:#?}");
        assert!(status.kept.iter().all(|kept| kept.pod.is_none()));
        let status = until(agent, "the repair", |status| status.repairs > 0);
        assert!(repaired(&status, "route 10.244.1.2/32 is missing"));
    });
    pod.ping();
}

/// Lets the agent work for so long.
fn work(agent: &mut Agent, time: Duration) {
    let end = Instant::now() + time;
    until(agent, "time to pass", |_| Instant::now() >= end);
}

#[test]
fn an_idle_node_is_not_looked_at() {
    let node = Node::new();
    let _pod = node.pod("c1", 60_000);
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    let options = Options {
        survey: Duration::from_hours(1),
        ..node.options()
    };
    node.with_options(options, |agent| {
        until_healthy(agent);
        // The kernel still tells of new links: carriers, duplicate addresses.
        let end = Instant::now() + Duration::from_secs(30);
        let mut before = u64::MAX;
        while before != agent.kernel().looks {
            assert!(Instant::now() < end, "an idle node is looked at");
            before = agent.kernel().looks;
            work(agent, Duration::from_secs(3));
        }
        // As the kernel does with a gateway's entry every minute.
        let learnt = "ip neigh replace 10.240.0.1 lladdr 02:00:00:00:00:01 nud reachable dev eth0";
        run(&node.netns, learnt);
        work(agent, Duration::from_secs(3));
        assert_eq!(agent.kernel().looks, before);
        // A link is something new.
        run(&node.netns, "ip link add new0 type veth peer name new1");
        let end = Instant::now() + Duration::from_secs(10);
        while agent.kernel().looks == before {
            assert!(Instant::now() < end, "nobody looks for a new link");
            work(agent, Duration::from_millis(50));
        }
    });
}
