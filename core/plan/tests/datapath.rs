//! The datapath's tables from a node's endpoints and the cluster's nodes.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use proptest::prelude::*;
use watari_model::{Attachment, ClusterNode, ContainerId, HostPrefix, IfName, NetworkName};
use watari_plan::{NodeView, Note, Transparent, datapath, prefixes, transparent};
use watari_tables::{Endpoint, Hook};

fn endpoint(container: &str, addresses: &[&str]) -> Endpoint {
    let addresses: Vec<IpNet> = addresses.iter().map(|net| net.parse().unwrap()).collect();
    transparent(&Transparent {
        network: &NetworkName::new("azure").unwrap(),
        attachment: &Attachment {
            container: ContainerId::new(container).unwrap(),
            ifname: IfName::new("eth0").unwrap(),
        },
        prefix: &HostPrefix::default(),
        mtu: 1500,
        pod_mac: None,
        addresses: &addresses,
        destinations: &[],
        ipv6: true,
    })
}

fn node(name: &str, addresses: &[&str], cidrs: &[&str], owned: &[(&str, &str)]) -> ClusterNode {
    ClusterNode {
        name: name.to_owned(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|text| text.parse().unwrap()).collect(),
        owned: owned
            .iter()
            .map(|(first, last)| (first.parse().unwrap(), last.parse().unwrap()))
            .collect(),
    }
}

fn shown(cluster: &[ClusterNode]) -> (Vec<String>, Vec<String>) {
    let view = NodeView {
        endpoints: &[],
        nodes: cluster,
        own: "node1",
        uplinks: &BTreeSet::new(),
    };
    let (tables, notes) = datapath(&view);
    let remotes = tables.remotes.iter();
    (
        remotes
            .map(|(net, via)| format!("{net} via {via}"))
            .collect(),
        notes.iter().map(Note::to_string).collect(),
    )
}

#[test]
fn pods_have_an_entry_an_address_and_both_programs() {
    let (one, two) = (
        endpoint("c1", &["10.240.0.5/16", "fd00::5/64"]),
        endpoint("c2", &["10.240.0.6/16"]),
    );
    let (tables, notes) = datapath(&NodeView {
        endpoints: &[&one, &two],
        nodes: &[],
        own: "node1",
        uplinks: &[IfName::new("eth0").unwrap()].into(),
    });
    assert_eq!(notes, BTreeSet::new());
    let entries: Vec<_> = tables
        .endpoints
        .iter()
        .map(|(address, entry)| (address.to_string(), &entry.link, entry.mac, entry.host_mac))
        .collect();
    let line = |address: &str, of: &Endpoint| -> (String, IfName, _, _) {
        (
            address.to_owned(),
            of.host.name.clone(),
            of.pod.mac,
            of.host.mac,
        )
    };
    let wanted = [
        line("10.240.0.5", &one),
        line("10.240.0.6", &two),
        line("fd00::5", &one),
    ];
    assert_eq!(entries.len(), wanted.len());
    for (entry, wanted) in entries.iter().zip(&wanted) {
        assert_eq!(
            (&entry.0, entry.1, entry.2, entry.3),
            (&wanted.0, &wanted.1, wanted.2, wanted.3)
        );
    }
    let hooks: BTreeSet<_> = tables
        .hooks
        .iter()
        .map(|at| (at.link.as_str(), at.hook))
        .collect();
    let wanted = BTreeSet::from([
        (one.host.name.as_str(), Hook::FromPod),
        (one.host.name.as_str(), Hook::ToPod),
        (two.host.name.as_str(), Hook::FromPod),
        (two.host.name.as_str(), Hook::ToPod),
        ("eth0", Hook::FromUplink),
    ]);
    assert_eq!(hooks, wanted);
}

#[test]
fn ranges_go_to_their_node_by_its_address_of_their_family() {
    let (remotes, notes) = shown(&[
        node("node1", &["10.240.0.4"], &["10.244.0.0/24"], &[]),
        node(
            "node2",
            &["10.240.0.105", "fd00::105"],
            &["10.244.1.0/24", "fd0a::/64"],
            &[("10.240.0.106", "10.240.0.109")],
        ),
    ]);
    assert_eq!(
        remotes,
        [
            "10.240.0.106/31 via 10.240.0.105",
            "10.240.0.108/31 via 10.240.0.105",
            "10.244.1.0/24 via 10.240.0.105",
            "fd0a::/64 via fd00::105",
        ]
    );
    assert_eq!(notes, [""; 0]);
}

#[test]
fn what_cannot_be_planned_is_named() {
    let (remotes, notes) = shown(&[
        node("node3", &["10.240.0.206"], &["10.244.1.0/24"], &[]),
        node(
            "node2",
            &["10.240.0.105"],
            &["10.244.1.0/24", "fd0a::/64"],
            &[],
        ),
        node("node4", &["10.240.0.9"], &[], &[("10.0.0.9", "10.0.0.1")]),
    ]);
    assert_eq!(remotes, ["10.244.1.0/24 via 10.240.0.105"]);
    assert_eq!(
        notes,
        [
            "node node2 owns fd0a::/64, but has no InternalIP of that family: left to the stack",
            "10.244.1.0/24 is claimed by the nodes node2 and node3: sent to node2",
            "node node4: 10.0.0.9-10.0.0.1 is no range of addresses",
        ]
    );
}

#[test]
fn an_address_of_two_endpoints_is_the_later_ones() {
    let (one, two) = (
        endpoint("c1", &["10.240.0.5/16"]),
        endpoint("c2", &["10.240.0.5/16"]),
    );
    let (tables, notes) = datapath(&NodeView {
        endpoints: &[&one, &two],
        nodes: &[],
        own: "node1",
        uplinks: &BTreeSet::new(),
    });
    let address: IpAddr = "10.240.0.5".parse().unwrap();
    assert_eq!(tables.endpoints[&address].link, two.host.name);
    let earlier = one.host.name;
    assert_eq!(
        notes,
        BTreeSet::from([Note::AddressTwice { address, earlier }])
    );
}

fn v4() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    (any::<u32>(), 0..5000u32).prop_map(|(first, more)| {
        let last = first.saturating_add(more);
        (Ipv4Addr::from(first).into(), Ipv4Addr::from(last).into())
    })
}

fn v6() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    (any::<u128>(), any::<u128>(), 0..128u32).prop_map(|(first, more, bits)| {
        let last = first.saturating_add(more >> bits);
        (Ipv6Addr::from(first).into(), Ipv6Addr::from(last).into())
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

proptest! {
    /// They follow one another from the first address to the last, and no two make a larger one.
    #[test]
    fn prefixes_are_exactly_the_range_and_the_fewest((first, last) in prop_oneof![v4(), v6()]) {
        let nets = prefixes(first, last);
        prop_assert_eq!(nets[0].network(), first);
        prop_assert_eq!(nets[nets.len() - 1].broadcast(), last);
        for pair in nets.windows(2) {
            let next = number(pair[0].broadcast()) + 1;
            prop_assert_eq!(number(pair[1].network()), next);
            let joined = pair[0].supernet() == pair[1].supernet()
                && pair[0].prefix_len() == pair[1].prefix_len();
            prop_assert!(!joined, "{} and {}", pair[0], pair[1]);
        }
    }
}
