//! Labs on one switch: nodes that no SDN helps reach each other's pods, and the world sees nodes.
//! Without agents, so that the kernel's ordinary road carries all of it.

mod common;

use common::TestLab;
use common::cluster::Cluster;

#[test]
fn pods_of_ipv4_reach_each_other_and_the_world() {
    let switch = Cluster::up("l2v4", "agent: false, fabric: l2");
    switch.holds_the_three_requirements();
    switch.leads_out(&["192.0.2.1"]);
}

#[test]
fn pods_of_ipv6_alone_reach_each_other_and_the_world() {
    let switch = Cluster::up("l2v6", "agent: false, fabric: l2, ipv4: false, ipv6: true");
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
    let switch = Cluster::up("l2dual", "agent: false, fabric: l2, ipv6: true");
    switch.holds_the_three_requirements();
    switch.leads_out(&["192.0.2.1", "2001:db8::1"]);
}

#[test]
fn frames_as_large_as_the_file_says_cross_the_switch() {
    let switch = Cluster::up("l2mtu", "agent: false, fabric: l2, mtu: 9000, ipv6: true");
    // ICMP and IP headers take 28 bytes, 48 with IPv6; one byte more does not fit.
    for address in switch.addresses("b1") {
        let largest = if address.contains(':') { 8952 } else { 8972 };
        let ping = |size| format!("ping -M do -c1 -W2 -s {size} {address}");
        switch.lab.sh("a1", &ping(largest));
        assert!(!switch.lab.sh_works("a1", &ping(largest + 1)), "{address}");
    }
}

#[test]
fn the_switch_learns_macs_owns_nothing_and_filters_nothing() {
    let lab = TestLab::up("l2mac", "{agent: false, fabric: l2, nodes: 3}");
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
    let yaml = "{agent: false, fabric: l2, nodes: 1, nonMasqueradeCIDRs: [192.0.2.0/24]}";
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
