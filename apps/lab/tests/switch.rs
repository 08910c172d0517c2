//! Labs on one switch: nodes that no SDN helps reach each other's pods, and the world sees nodes.

mod common;

use common::TestLab;
use serde_json::Value;

/// Two pods and one of the host's network on each of two nodes.
fn pods() -> String {
    let pod = |name: &str, node: &str, host: bool, port: u16| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  nodeName: {node}\n  hostNetwork: {host}\n  containers:\n  - name: c\n    command: [watari, echo, --http, '{port}']\n---\n"
        )
    };
    [
        pod("a1", "node1", false, 80),
        pod("a2", "node1", false, 80),
        pod("b1", "node2", false, 80),
        pod("b2", "node2", false, 80),
        pod("host1", "node1", true, 8081),
        pod("host2", "node2", true, 8081),
    ]
    .concat()
}

struct Switch {
    lab: TestLab,
    /// As many addresses as each pod and node shall have.
    families: usize,
}

impl Switch {
    fn up(hint: &str, families: &str) -> Self {
        let lab = TestLab::up(hint, &format!("{{fabric: l2, nodes: 2, {families}}}"));
        let file = lab.file("pods.yaml", &pods());
        lab.watari(&["apply", "-f", &file]);
        let families = if families.contains("ipv4: true, ipv6: true") {
            2
        } else {
            1
        };
        Self { lab, families }
    }

    fn addresses(&self, pod: &str) -> Vec<String> {
        let pod = self.lab.pod(pod).expect("the pod is listed");
        let all: Vec<String> = serde_json::from_value(pod["podIPs"].clone()).expect("addresses");
        assert_eq!(all.len(), self.families, "{all:?}");
        all
    }

    /// Asks an address; who answered, and which address it saw. None without an answer.
    fn ask(&self, from: &str, address: &str) -> Option<(String, String)> {
        let host = if address.contains(':') {
            format!("[{address}]")
        } else {
            address.to_owned()
        };
        let line = format!("curl -gsf --retry 5 --retry-connrefused -m5 http://{host}/");
        let output = self
            .lab
            .try_watari(&["exec", from, "--", "sh", "-c", &line]);
        let said: Value = serde_json::from_slice(&output.stdout).ok()?;
        let peer: std::net::SocketAddr = said["peer"].as_str()?.parse().ok()?;
        Some((said["name"].as_str()?.to_owned(), peer.ip().to_string()))
    }

    /// What Kubernetes asks of a network.
    fn holds_the_three_requirements(&self) {
        let all = ["a1", "a2", "b1", "b2"];
        let near = |node: &str| {
            if node == "node1" {
                ["a1", "a2"]
            } else {
                ["b1", "b2"]
            }
        };
        let askers = [("a1", &all[..]), ("a2", &all), ("b1", &all), ("b2", &all)]
            .into_iter()
            .chain([("host1", &all[..]), ("host2", &all)]);
        for (from, to) in askers {
            self.reach(from, &self.addresses(from), to);
        }
        for (node, host) in [("node1", "host1"), ("node2", "host2")] {
            self.reach(node, &self.addresses(host), &near(node));
        }
    }

    /// `from` reaches each of `to` at each address, and is seen with one of its own.
    fn reach(&self, from: &str, own: &[String], to: &[&str]) {
        for pod in to {
            for address in self.addresses(pod) {
                let answer = self.ask(from, &address);
                let (name, peer) = answer.unwrap_or_else(|| panic!("{from} to {address}"));
                assert_eq!(name, format!("default/{pod}"));
                assert!(own.contains(&peer), "{from} to {address}: seen as {peer}");
            }
        }
    }

    /// The world answers pods, and sees their nodes.
    fn leads_out(&self, worlds: &[&str]) {
        for (pod, host) in [("a1", "host1"), ("b2", "host2")] {
            for world in worlds {
                let (name, peer) = self.ask(pod, world).expect("the world answers");
                assert_eq!(name, "world");
                assert!(self.addresses(host).contains(&peer), "{pod} seen as {peer}");
                // Without it the world does not know whom to answer.
                let address = self.addresses(pod);
                let own = address
                    .iter()
                    .find(|own| own.contains(':') == world.contains(':'));
                let own = own.expect("an address of the family");
                let ping = format!("ping -c1 -W1 {own}");
                assert!(!self.lab.sh_works("fabric", &ping), "the world knows {own}");
            }
        }
    }
}

#[test]
fn pods_of_ipv4_reach_each_other_and_the_world() {
    let switch = Switch::up("l2v4", "ipv4: true");
    switch.holds_the_three_requirements();
    switch.leads_out(&["192.0.2.1"]);
}

#[test]
fn pods_of_ipv6_alone_reach_each_other_and_the_world() {
    let switch = Switch::up("l2v6", "ipv4: false, ipv6: true");
    switch.holds_the_three_requirements();
    switch.leads_out(&["2001:db8::1"]);
    // Not one address of the other family.
    let shown = switch
        .lab
        .sh("node1", "ip -4 -o addr show scope global; ip -4 route");
    assert_eq!(shown, "");
}

#[test]
fn pods_of_both_families_reach_each_other_and_the_world_over_both() {
    let switch = Switch::up("l2dual", "ipv4: true, ipv6: true");
    switch.holds_the_three_requirements();
    switch.leads_out(&["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn the_switch_learns_macs_owns_nothing_and_filters_nothing() {
    let lab = TestLab::up("l2mac", "{fabric: l2, nodes: 3}");
    // Nobody answers for an address that no link has: another node's pod's, or nobody's.
    let arping = |address: &str| {
        let line = format!("arping -c1 -w1 -I eth0 {address} || true");
        lab.sh("node1", &line).to_lowercase()
    };
    for (address, mac) in [
        ("10.240.0.5", "02:00:0a:f0:00:05"),
        ("10.240.0.1", "02:00:5e:00:00:01"),
    ] {
        let answer = arping(address);
        assert!(answer.contains(&format!("[{mac}]")), "{address}: {answer}");
    }
    for address in ["10.244.2.2", "10.240.0.99"] {
        let answer = arping(address);
        assert!(
            answer.contains("received 0 response"),
            "{address}: {answer}"
        );
    }
    // A frame from another MAC and another address arrives, and the MAC is learnt.
    lab.sh("node3", "nft add table inet t");
    lab.sh(
        "node3",
        "nft 'add chain inet t c { type filter hook prerouting priority -300; }'",
    );
    lab.sh("node3", "nft add rule inet t c ip saddr 10.99.0.1 counter");
    lab.sh("node1", "ip link set eth0 address 02:00:00:00:00:99");
    lab.sh("node1", "ip address add 10.99.0.1/32 dev lo");
    lab.sh("node1", "ping -c1 -W1 -I 10.99.0.1 10.240.0.6 || true");
    let seen = lab.sh("node3", "nft list chain inet t c");
    assert!(seen.contains("counter packets 1 "), "{seen}");
    let learnt = lab.sh("fabric", "bridge fdb show br switch");
    assert!(learnt.contains("02:00:00:00:00:99 dev port1"), "{learnt}");
    // Nothing of an SDN is there.
    let code = "curl -s -m1 -o /dev/null -w '%{http_code}' http://168.63.129.16/machine || true";
    assert_eq!(lab.sh("node1", code), "000");
    assert_eq!(lab.sh("fabric", "nft list ruleset"), "");
}

#[test]
fn an_exception_of_the_file_is_not_masqueraded() {
    let yaml = "{fabric: l2, nodes: 1, nonMasqueradeCIDRs: [192.0.2.0/24]}";
    let lab = TestLab::up("l2masq", yaml);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c}]}\n";
    let file = lab.file("pod.yaml", pod);
    lab.watari(&["apply", "-f", &file]);
    lab.sh("fabric", "ip address add 198.51.100.1/32 dev lo");
    lab.sh("a", "curl -sf -m5 http://198.51.100.1/");
    assert!(!lab.sh_works("a", "curl -sf -m1 http://192.0.2.1/"));
    // Once the world knows the way, it sees the pod.
    lab.sh("fabric", "ip route add 10.244.1.0/24 via 10.240.0.4");
    let said = lab.sh("a", "curl -sf -m5 http://192.0.2.1/");
    assert!(said.contains("\"peer\":\"10.244.1.2:"), "{said}");
}
