//! Labs come up, carry traffic as the reference page shows it, and go without a trace.

mod common;

use std::thread;
use std::time::Duration;

use common::TestLab;
use watari_testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(20);
const DOCUMENT: &str = "http://168.63.129.16/machine/plugins?comp=nmagent&type=getinterfaceinfov1";

#[test]
fn two_labs_of_the_same_addresses_do_not_meet() {
    let one = TestLab::plain("one", "nodes: 2");
    let two = TestLab::plain("two", "nodes: 2");
    for lab in [&one, &two] {
        assert_eq!(lab.sh("node2", "hostname"), "node2\n");
        lab.sh("node1", "ping -c1 -W2 10.240.0.105");
    }
    // What is written in a node of one lab is not in the other's.
    one.sh("node1", "echo here > /run/mark; echo here > /etc/cni/mark");
    assert!(!two.sh_works("node1", "test -e /run/mark || test -e /etc/cni/mark"));
    assert!(!one.sh_works("node2", "test -e /run/mark || test -e /etc/cni/mark"));
    assert!(one.try_watari(&["up"]).status.code() == Some(2), "up twice");
    two.watari(&["down"]);
    assert_eq!(two.traces(), [""; 0]);
    one.sh("node1", "ping -c1 -W2 10.240.0.105");
    one.watari(&["down"]);
    assert_eq!(one.traces(), [""; 0]);
    // Nothing left is nothing to complain about; but no lab is said to be down that was not up.
    let told = one.watari(&["down"]);
    assert!(
        told.starts_with(&format!("there is no lab {}", one.name)),
        "{told}"
    );
}

#[test]
fn a_node_is_what_a_real_one_is() {
    let lab = TestLab::up("real", "{nodes: 3, ipv6: true}");
    let routes = lab.sh("node1", "ip route");
    for route in [
        "default via 10.240.0.1 dev eth0 proto dhcp",
        "10.240.0.0/16 dev eth0 proto kernel scope link",
        "168.63.129.16 via 10.240.0.1 dev eth0",
        "169.254.169.254 via 10.240.0.1 dev eth0",
    ] {
        assert!(routes.contains(route), "{route} in\n{routes}");
    }
    let default6 = lab.sh("node1", "ip -6 route show default");
    assert!(
        default6.starts_with("default via fe80::1234:5678:9abc dev eth0"),
        "{default6}"
    );
    lab.sh("node1", "ping -c1 -W2 fd10:240::ce");
    let links = lab.sh("node1", "ls /sys/class/net");
    assert_eq!(links, "eth0\nlo\n");
    lab.sh("node1", "grep -q ' /sys/fs/bpf bpf ' /proc/self/mounts");
    let cgroup = lab.sh("node1", "cat /proc/self/cgroup");
    assert!(
        cgroup.contains(&format!("0::/watari/{}/node1/", lab.name)),
        "{cgroup}"
    );
    // The page of `inspect` says the same as the kernel's own tool.
    let page = lab.watari(&["inspect", "node1"]);
    for line in [
        "default via 10.240.0.1 dev eth0 proto dhcp",
        "(other end: fabric port1)",
    ] {
        assert!(page.contains(line), "{line} in\n{page}");
    }
}

#[test]
fn the_fabric_answers_for_owned_addresses_alone() {
    let lab = TestLab::plain("arp", "nodes: 3");
    let arping = |address: &str| {
        let line = format!("arping -c1 -w1 -I eth0 {address} || true");
        lab.sh("node1", &line).to_lowercase()
    };
    // A node's, one of its pods' that no pod has, and the gateway.
    for owned in ["10.240.0.206", "10.240.1.50", "10.240.0.1"] {
        let answer = arping(owned);
        assert!(answer.contains("[12:34:56:78:9a:bc]"), "{owned}: {answer}");
    }
    // Nobody's, and the asking node's own.
    for other in ["10.240.1.51", "10.240.9.9", "10.240.0.5"] {
        let answer = arping(other);
        assert!(answer.contains("received 0 response"), "{other}: {answer}");
    }
    // One neighbour a node in the fabric, however many addresses it owns.
    let neighbours = lab.sh("fabric", "ip neigh show nud permanent");
    assert_eq!(neighbours.lines().count(), 3, "{neighbours}");
}

#[test]
fn each_node_gets_its_own_document() {
    let lab = TestLab::plain("wire", "{nodes: 2, maxPods: 3, ipv6: true}");
    for (node, own, other) in [
        (
            "node1",
            r#"Address="10.240.0.4" IsPrimary="true""#,
            "10.240.0.8",
        ),
        (
            "node2",
            r#"Address="fd10:240::8" IsPrimary="true""#,
            "10.240.0.4",
        ),
    ] {
        let document = lab.sh(node, &format!("curl -sf '{DOCUMENT}'"));
        assert!(document.contains(own), "{node}: {document}");
        assert!(
            !document.contains(&format!("\"{other}\"")),
            "{node}: {document}"
        );
    }
    let other = "curl -s -o /dev/null -w '%{http_code}' http://168.63.129.16/machine";
    assert_eq!(lab.sh("node1", other), "404");
}

#[test]
fn frames_with_a_false_source_are_dropped() {
    let lab = TestLab::plain("spoof", "{nodes: 3, ipv6: true}");
    let sources = [
        "ip saddr 10.240.0.4",
        "ip saddr 10.240.0.150",
        "ip6 saddr fd10:240::4",
        "ip6 saddr fd10:240::6a",
    ];
    lab.sh("node3", "nft add table inet t");
    lab.sh(
        "node3",
        "nft 'add chain inet t c { type filter hook prerouting priority -300; }'",
    );
    for source in sources {
        lab.sh("node3", &format!("nft add rule inet t c {source} counter"));
    }
    let seen = || -> Vec<bool> {
        let rules = lab.sh("node3", "nft list chain inet t c");
        let rules = rules.lines().filter(|line| line.contains("counter"));
        rules.map(|line| !line.contains("packets 0 ")).collect()
    };
    let ping = |from: &str, to: &str| {
        lab.sh("node1", &format!("ping -c1 -W1 -I {from} {to} || true"));
    };
    // Addresses that node 2 owns.
    lab.sh("node1", "ip address add 10.240.0.150/32 dev lo");
    lab.sh("node1", "ip address add fd10:240::6a/128 dev lo");
    // The true ones first: an ARP request in a false name would keep the neighbour unresolved.
    for (four, six) in [
        ("10.240.0.4", "fd10:240::4"),
        ("10.240.0.150", "fd10:240::6a"),
    ] {
        ping(four, "10.240.0.206");
        ping(six, "fd10:240::ce");
    }
    assert_eq!(seen(), [true, false, true, false]);
    // An ARP packet in somebody else's name is not answered.
    let arping = "arping -c1 -w1 -I eth0";
    assert!(!lab.sh_works("node1", &format!("{arping} -s 10.240.0.150 10.240.0.1")));
    assert!(lab.sh_works("node1", &format!("{arping} -s 10.240.0.4 10.240.0.1")));
    // Nor is anything from another MAC, whatever its address.
    lab.sh("node1", "ip link set eth0 address 02:00:00:00:00:99");
    assert!(!lab.sh_works("node1", &format!("{arping} 10.240.0.1")));
    let entry = "ip neigh replace 10.240.0.206 lladdr 12:34:56:78:9a:bc dev eth0 nud permanent";
    lab.sh("node1", entry);
    lab.sh("node3", "nft reset counters; nft flush chain inet t c; nft add rule inet t c ip saddr 10.240.0.4 counter");
    ping("10.240.0.4", "10.240.0.206");
    assert_eq!(seen(), [false]);
    lab.sh("node1", "ip link set eth0 address 02:00:0a:f0:00:04");
    ping("10.240.0.4", "10.240.0.206");
    assert_eq!(seen(), [true]);
}

#[test]
fn an_up_killed_at_any_moment_leaves_nothing_after_down() {
    let lab = TestLab::new("kill");
    for round in 0..20_u64 {
        let mut up = lab.command(&["up"]).spawn().expect("start watari");
        // An `up` takes some 40 ms, and ten times that with the agents; the moments are spread
        // over it and a little beyond, most of them before the agents.
        thread::sleep(Duration::from_millis(round * 5 / 2 + round * round));
        up.kill().expect("kill up");
        up.wait().expect("wait for up");
        if round % 4 == 3 {
            // Without a `down` between them, the next `up` clears the way, if there is need.
            let again = lab.try_watari(&["up", "--no-agent"]);
            let words = String::from_utf8_lossy(&again.stderr).into_owned();
            assert!(
                again.status.success() || words.contains("is up already"),
                "{words}"
            );
            lab.sh("node1", "ping -c1 -W2 10.240.0.206");
        }
        let mut down = lab.command(&["down"]).spawn().expect("start watari");
        thread::sleep(Duration::from_millis(round % 5));
        down.kill().expect("kill down");
        down.wait().expect("wait for down");
        lab.watari(&["down"]);
        // A process that was on its way ends by itself when its cgroup is gone.
        wait_until(DEADLINE, "all of the lab is gone", || {
            lab.traces().is_empty()
        });
    }
}

#[test]
fn what_cannot_be_asked_is_told_from_what_is_wrong() {
    let lab = TestLab::new("codes");
    let code = |words: &[&str]| lab.try_watari(words).status.code();
    assert_eq!(code(&["get", "pods"]), Some(2));
    assert_eq!(code(&["exec", "node1", "--", "true"]), Some(2));
    let file = lab.file("bad.yaml", "nodes: 2\nfoo: 1\n");
    let bad = lab.try_watari(&["up", "-f", &file]);
    assert_eq!(bad.status.code(), Some(2));
    let words = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert!(
        words.contains("bad.yaml") && words.contains("foo"),
        "{words}"
    );
    assert_eq!(
        code(&["up", "--nodes", "1", "--cni-bin", "/nowhere"]),
        Some(2)
    );
    assert_eq!(lab.traces(), [""; 0]);
    lab.watari(&["up", "--nodes", "1", "--no-agent"]);
    // An empty folder: nothing was applied, and that is said.
    let folder = lab.dir.path().join("deeper");
    std::fs::create_dir(&folder).unwrap();
    let folder = folder.to_str().unwrap();
    assert_eq!(code(&["apply", "-f", folder]), Some(1));
    assert_eq!(
        code(&["exec", "node1", "--", "sh", "-c", "exit 7"]),
        Some(7)
    );
    let pods = lab.watari(&["get", "pods", "--json"]);
    let pods: serde_json::Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(pods["schema"], 1);
}
