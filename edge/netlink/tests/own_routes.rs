//! Routes of Watari's own protocol on a real kernel: made, replaced, pruned, and nobody else's
//! touched.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use watari_netlink::{Handle, OwnRoutes};
use watari_tables::Route;
use watari_testkit::Netns;

/// A node with one link to others, and a route of an administrator.
fn node() -> Netns {
    let node = Netns::new("node");
    for line in [
        "link add uplink type veth peer other",
        "link set uplink up",
        "link set other up",
        "address add 10.1.0.4/24 dev uplink",
        "address add fd01::4/64 dev uplink nodad",
        "route add 10.9.0.0/24 via 10.1.0.99 proto static",
    ] {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split(' ')).collect();
        node.run(&words);
    }
    node
}

fn routes(texts: &[&str]) -> BTreeSet<Route> {
    let parse = |text: &&str| {
        let (destination, via) = text.split_once(" via ").unwrap();
        Route {
            destination: destination.parse().unwrap(),
            via: Some(via.parse().unwrap()),
        }
    };
    texts.iter().map(parse).collect()
}

fn set(node: &Netns, wanted: &BTreeSet<Route>) -> OwnRoutes {
    node.enter(|| Handle::open().unwrap().set_own_routes(wanted).unwrap())
}

fn own(node: &Netns) -> BTreeSet<Route> {
    node.enter(|| Handle::open().unwrap().own_routes().unwrap())
}

/// What `ip` shows of the protocol's number.
fn shown(node: &Netns) -> Vec<String> {
    let list = |family| node.run(&["ip", family, "route", "show", "proto", "87"]);
    let text = list("-4") + &list("-6");
    let line = |line: &str| line.split(" dev ").next().unwrap().to_owned();
    text.lines().map(line).collect()
}

#[test]
fn routes_are_made_replaced_and_pruned() {
    let node = node();
    let wanted = routes(&["10.244.2.0/24 via 10.1.0.5", "fd44:2::/64 via fd01::5"]);
    let done = set(&node, &wanted);
    assert!(done.failed.is_empty(), "{done:?}");
    assert_eq!((done.set.len(), done.removed.len()), (2, 0));
    assert_eq!(own(&node), wanted);
    assert_eq!(
        shown(&node),
        ["10.244.2.0/24 via 10.1.0.5", "fd44:2::/64 via fd01::5"]
    );
    assert!(set(&node, &wanted).is_unchanged());

    // The nodes' addresses change, one node comes, none goes.
    let wanted = routes(&[
        "10.244.2.0/24 via 10.1.0.6",
        "10.244.3.0/24 via 10.1.0.7",
        "fd44:2::/64 via fd01::6",
    ]);
    let done = set(&node, &wanted);
    assert_eq!(
        (done.set.len(), done.removed.len(), done.failed.len()),
        (3, 0, 0),
        "{done:?}"
    );
    assert_eq!(own(&node), wanted);

    // Somebody takes one away and bends another.
    node.run(&["ip", "route", "del", "10.244.3.0/24"]);
    node.run(&[
        "ip",
        "route",
        "replace",
        "10.244.2.0/24",
        "via",
        "10.1.0.9",
        "proto",
        "87",
    ]);
    assert_eq!(set(&node, &wanted).set.len(), 2);
    assert_eq!(own(&node), wanted);

    let done = set(&node, &BTreeSet::new());
    assert_eq!((done.removed.len(), done.failed.len()), (3, 0), "{done:?}");
    assert_eq!(shown(&node), [""; 0]);
    let left = node.run(&["ip", "route"]);
    assert!(left.contains("10.9.0.0/24 via 10.1.0.99"), "{left}");
}

#[test]
fn a_route_of_somebody_else_stays_and_the_others_are_made() {
    let node = node();
    node.run(&["ip", "-6", "route", "add", "fd44:9::/64", "via", "fd01::99"]);
    let wanted = routes(&[
        "10.9.0.0/24 via 10.1.0.5",
        "10.244.2.0/24 via 10.1.0.5",
        "10.244.3.0/24 via 192.0.2.1",
        "fd44:9::/64 via fd01::5",
    ]);
    let done = set(&node, &wanted);
    let failed: Vec<(String, bool)> = done
        .failed
        .iter()
        .map(|(route, error)| (route.destination.to_string(), error.is_exists()))
        .collect();
    let expected = [
        ("10.9.0.0/24", true),
        ("10.244.3.0/24", false),
        ("fd44:9::/64", true),
    ];
    assert_eq!(
        failed,
        expected.map(|(net, taken)| (net.to_owned(), taken)),
        "{done:?}"
    );
    assert!(
        done.failed[1].1.to_string().contains("via 192.0.2.1"),
        "{done:?}"
    );
    assert_eq!(own(&node), routes(&["10.244.2.0/24 via 10.1.0.5"]));
    let theirs = node.run(&["ip", "route"]) + &node.run(&["ip", "-6", "route"]);
    for line in ["10.9.0.0/24 via 10.1.0.99", "fd44:9::/64 via fd01::99"] {
        assert!(theirs.contains(line), "{line} in\n{theirs}");
    }
}

#[test]
fn as_many_routes_as_a_large_cluster_has_nodes() {
    let node = node();
    let wanted: BTreeSet<Route> = (0..5_000_u32)
        .map(|at| {
            let [_, _, high, low] = at.to_be_bytes();
            let text = format!("10.{}.{low}.0/24 via 10.1.0.{}", 128 + high, 5 + low % 200);
            routes(&[&text]).pop_first().unwrap()
        })
        .collect();
    let done = set(&node, &wanted);
    assert_eq!((done.set.len(), done.failed.len()), (5_000, 0));
    assert_eq!(own(&node), wanted);
    assert_eq!(set(&node, &BTreeSet::new()).removed.len(), 5_000);
}
