//! Traces of a lab as people read them. `golden/*.json` is what `watari trace --json` said there; the
//! pictures are in `snapshots/`. A wanted change: `INSTA_UPDATE=always cargo test -p watari-trace`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use watari_trace::{SCHEMA, Trace, picture};

/// Nothing is wider.
const COLUMNS: usize = 100;

fn traces() -> Vec<(String, String, Trace)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let trace = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        all.push((name, text, trace));
    }
    assert!(all.len() >= 9, "the traces are gone");
    all
}

#[test]
fn a_trace_is_drawn_and_told() {
    for (name, _, trace) in traces() {
        insta::assert_snapshot!(name, picture(&trace));
    }
}

#[test]
fn nothing_is_wider_than_a_page() {
    for (name, _, mut trace) in traces() {
        // The longest names and addresses that there are.
        for party in [&mut trace.from, &mut trace.to] {
            if let Some(name) = &mut party.name {
                *name = format!("{}/{}", "n".repeat(63), "p".repeat(63));
            }
            party.address = "fd10:1234:5678:9abc:def0:1234:5678:9abc".parse().unwrap();
            if let Some(node) = &mut party.node {
                *node = "node.".repeat(20);
            }
        }
        for line in picture(&trace).lines() {
            // A name that is longer than a line is not cut where it is told.
            let is_word = !line.trim().contains(' ');
            let width = line.chars().count();
            assert!(width <= COLUMNS || is_word, "{name}: {width}: {line}");
        }
    }
}

#[test]
fn what_is_printed_is_read_again() {
    for (name, text, trace) in traces() {
        assert_eq!(trace.schema, SCHEMA);
        let again = serde_json::to_string(&trace).unwrap();
        assert_eq!(again, text.trim_end(), "{name}");
    }
}

#[test]
fn a_way_by_a_third_node_names_it() {
    let (_, _, mut trace) = traces()
        .into_iter()
        .find(|(name, _, _)| name == "cross-node")
        .unwrap();
    let mut third = trace.way.hops[0].clone();
    third.node = "node9".to_owned();
    trace.way.hops.insert(1, third);
    let drawn = picture(&trace);
    assert!(drawn.contains(", by node9 "), "{drawn}");
    assert!(drawn.contains(" 3 from_uplink: deliver"), "{drawn}");
}
