//! Changes of nftables are heard of, whoever makes them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use watari_nft::monitor::{Changed, Monitor};
use watari_testkit::Netns;

fn tables(changed: &Changed) -> Vec<&str> {
    changed.tables.iter().map(String::as_str).collect()
}

#[test]
fn each_table_that_is_changed_is_named() {
    let (here, there) = (Netns::new("here"), Netns::new("there"));
    let mut monitor = here.enter(|| Monitor::open().unwrap());
    assert_eq!(monitor.read().unwrap(), Changed::default());
    // The kernel tells before `nft` ends.
    for (line, named) in [
        ("add table inet one", "one"),
        ("add chain inet one c", "one"),
        ("add table ip two", "two"),
        ("add rule inet one c accept", "one"),
        ("add set ip two s { type ipv4_addr; }", "two"),
        ("add element ip two s { 10.0.0.1 }", "two"),
        ("delete element ip two s { 10.0.0.1 }", "two"),
        ("flush chain inet one c", "one"),
        ("delete table inet one", "one"),
    ] {
        here.run(&["nft", line]);
        let changed = monitor.read().unwrap();
        assert_eq!(tables(&changed), [named], "{line}");
        assert!(
            changed.concerns(named) && !changed.concerns("three"),
            "{line}"
        );
    }
    there.run(&["nft", "add table inet one"]);
    here.run(&["nft", "list", "ruleset"]);
    assert_eq!(monitor.read().unwrap(), Changed::default());
}

#[test]
fn who_does_not_listen_is_told_that_something_was_lost() {
    let here = Netns::new("here");
    let mut monitor = here.enter(|| Monitor::open().unwrap());
    let elements: Vec<String> = (0..5_000_u16).map(|at| at.to_string()).collect();
    let elements = elements.join(", ");
    here.run(&[
        "nft",
        "add table inet one; add set inet one s { type inet_service; }",
    ]);
    for _ in 0..10 {
        here.run(&["nft", &format!("add element inet one s {{ {elements} }}")]);
        here.run(&["nft", "flush set inet one s"]);
    }
    let mut all = Changed::default();
    loop {
        let changed = monitor.read().unwrap();
        if changed == Changed::default() {
            break;
        }
        all.lost |= changed.lost;
        all.tables.extend(changed.tables);
    }
    assert!(all.lost && all.concerns("any"), "{all:?}");
    here.run(&["nft", "add table inet two"]);
    let changed = monitor.read().unwrap();
    assert_eq!(changed.tables, BTreeSet::from(["two".to_owned()]));
    assert!(!changed.lost);
}
