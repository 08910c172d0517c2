//! Agents in a lab's nodes: what they keep, and what outlives them.

mod common;

use std::time::Duration;

use common::TestLab;
use common::cluster::Cluster;
use serde_json::Value;
use watari_testkit::wait_until;

/// Longer than an agent takes until it looks at everything by itself.
const DEADLINE: Duration = Duration::from_mins(1);

/// Whether the agent of each node runs, as `get nodes` tells.
fn running(lab: &TestLab) -> Vec<bool> {
    let output = lab.watari(&["get", "nodes", "--json"]);
    let told: Value = serde_json::from_str(&output).expect("JSON");
    let nodes = told["nodes"].as_array().expect("nodes");
    nodes.iter().map(|node| node["agent"] == true).collect()
}

/// The links on which the node's datapath stands: names of their pins.
fn pinned(lab: &TestLab, node: &str) -> String {
    lab.sh(node, "ls /sys/fs/bpf/watari/v*/links")
}

#[test]
fn agents_on_a_switch_lay_the_ways_and_load_the_datapath() {
    let cluster = Cluster::up("agl2", "fabric: l2, ipv6: true");
    let lab = &cluster.lab;
    assert_eq!(running(lab), [true, true]);
    let routes = lab.sh("node1", "ip route show proto 87; ip -6 route show proto 87");
    for route in [
        "10.244.2.0/24 via 10.240.0.5 dev eth0",
        "fd10:244:0:2::/64 via fd10:240::5 dev eth0",
    ] {
        assert!(routes.contains(route), "{route} in\n{routes}");
    }
    assert!(pinned(lab, "node1").contains("eth0-from_uplink"));
    cluster.holds_the_three_requirements();
    cluster.leads_out(&["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn the_datapath_alone_carries_pods_to_pods() {
    for (hint, fields) in [
        ("agfastl2", "fabric: l2, ipv6: true"),
        ("agfastaz", "ipv6: true"),
    ] {
        let cluster = Cluster::up(hint, fields);
        let lab = &cluster.lab;
        for node in ["node1", "node2"] {
            wait_until(DEADLINE, "the programs of both pods", || {
                pinned(lab, node).matches("from_pod").count() == 2
            });
        }
        // Nobody repairs what now goes: every road of the kernel that leads to a pod.
        lab.watari(&["agent", "kill"]);
        let blackhole = "for f in -4 -6; do ip $f route show | grep -e 'dev azv' -e 'proto 87' | grep -v '^fe80' | \
            while read to rest; do ip $f route del $to $(echo $rest | sed 's/ metric.*//'); ip $f route add blackhole $to; done; done";
        for (node, own) in [("node1", ["a1", "a2"]), ("node2", ["b1", "b2"])] {
            lab.sh(node, blackhole);
            for pod in own {
                for address in cluster.addresses(pod) {
                    let ping = format!("ping -c1 -W1 {address}");
                    assert!(
                        !lab.sh_works(node, &ping),
                        "{node} still knows a way to {address}"
                    );
                }
            }
        }
        for from in ["a1", "a2", "b1", "b2"] {
            cluster.reach(from, &cluster.addresses(from), &["a1", "a2", "b1", "b2"]);
        }
    }
}

#[test]
fn agents_on_azure_carry_pods_of_both_families() {
    let cluster = Cluster::up("agaz", "ipv6: true");
    assert_eq!(running(&cluster.lab), [true, true]);
    cluster.holds_the_three_requirements();
    // The wire server is no way out: it still does not take a pod for its node.
    let url = "http://168.63.129.16/machine/plugins?comp=nmagent&type=getinterfaceinfov1";
    let code = format!("curl -s -m5 -o /dev/null -w '%{{http_code}}' '{url}'");
    assert_eq!(cluster.lab.sh("a1", &code), "404");
}

#[test]
fn host_ports_lead_to_their_pod_beside_the_datapath() {
    for (hint, fields) in [
        ("agportl2", "fabric: l2, ipv6: true"),
        ("agportaz", "ipv6: true"),
    ] {
        let cluster = Cluster::up(hint, fields);
        for node in ["node1", "node2"] {
            wait_until(DEADLINE, "the programs of both pods", || {
                pinned(&cluster.lab, node).matches("from_pod").count() == 2
            });
        }
        for address in cluster.addresses("host1") {
            let port = if address.contains(':') {
                format!("[{address}]:8080")
            } else {
                format!("{address}:8080")
            };
            // Another node, its pods, the other pod of the node, the pod itself.
            for (from, seen) in [
                ("host2", Some("host2")),
                ("b1", Some("b1")),
                ("a2", Some("a2")),
                ("a1", None),
            ] {
                let answer = cluster.ask(from, &port);
                let (name, peer) = answer.unwrap_or_else(|| panic!("{from} to {port}"));
                assert_eq!(name, "default/a1", "{from} to {port}");
                if let Some(seen) = seen {
                    let own = cluster.addresses(seen);
                    assert!(own.contains(&peer), "{from} to {port}: seen as {peer}");
                }
            }
        }
    }
}

#[test]
fn pods_go_on_and_come_up_while_no_agent_runs() {
    let cluster = Cluster::up("agkill", "fabric: l2");
    let lab = &cluster.lab;
    lab.watari(&["agent", "kill"]);
    assert_eq!(running(lab), [false, false]);
    cluster.holds_the_three_requirements();
    cluster.leads_out(&["192.0.2.1"]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: late}\nspec: {nodeName: node2, containers: [{name: c, command: [watari, echo, --http, '80']}]}\n";
    let file = lab.file("late.yaml", pod);
    lab.watari(&["apply", "-f", &file]);
    let late = cluster.addresses("late");
    let (name, peer) = cluster.ask("a1", &late[0]).expect("the late pod answers");
    assert_eq!(
        (name.as_str(), &peer),
        ("default/late", &cluster.addresses("a1")[0])
    );
    lab.watari(&["agent", "start"]);
    assert_eq!(running(lab), [true, true]);
    assert_eq!(
        lab.try_watari(&["agent", "start", "node1"]).status.code(),
        Some(2)
    );
    cluster.holds_the_three_requirements();
    lab.watari(&["agent", "stop", "node1"]);
    assert_eq!(running(lab), [false, true]);
    lab.watari(&["agent", "restart", "node2"]);
    assert_eq!(running(lab), [false, true]);
    lab.watari(&["down"]);
    assert_eq!(lab.traces(), [""; 0]);
}

#[test]
fn what_somebody_takes_away_comes_back() {
    let lab = TestLab::up("agmend", "{fabric: l2, nodes: 2}");
    let table = "nft list table inet watari-masquerade";
    lab.sh("node1", table);
    lab.sh("node1", "nft delete table inet watari-masquerade");
    lab.sh("node1", "ip route del 10.244.2.0/24");
    wait_until(DEADLINE, "the table and the route to come back", || {
        lab.sh_works("node1", table)
            && lab
                .sh("node1", "ip route show 10.244.2.0/24")
                .contains("via 10.240.0.5")
    });
    // A node that joins: its manifest is enough.
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: late}\nspec: {podCIDR: 10.244.77.0/24}\nstatus: {addresses: [{type: InternalIP, address: 10.240.0.77}]}\n";
    lab.sh(
        "node1",
        &format!(
            "printf '{}' > /run/watari/cluster/late.yaml",
            node.replace('\n', "\\n")
        ),
    );
    wait_until(DEADLINE, "a route to the new node's pods", || {
        lab.sh("node1", "ip route show 10.244.77.0/24")
            .contains("via 10.240.0.77")
    });
    lab.sh("node1", "rm /run/watari/cluster/late.yaml");
    wait_until(DEADLINE, "the route to go with its node", || {
        lab.sh("node1", "ip route show 10.244.77.0/24").is_empty()
    });
}
