//! The benchmark works and says what it promises. How fast anything is, it does not judge here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

/// The rows of a quick run, and its table.
fn quick(bench: &str) -> (Vec<Value>, String) {
    let out = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_watari-bench");
    let dir = out.path().to_str().unwrap();
    let table = watari_testkit::run(&[program, "--out", dir, bench, "--quick"]);
    let text = std::fs::read_to_string(out.path().join(format!("{bench}.json"))).unwrap();
    (serde_json::from_str(&text).unwrap(), table)
}

/// There is such a row, in both.
fn holds(rows: &[Value], case: &str, table: &str) {
    let row = rows.iter().find(|row| row["case"] == case);
    let row = row.unwrap_or_else(|| panic!("{case} is missing:\n{table}"));
    assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
    assert!(table.contains(case), "{table}");
}

#[test]
fn quick_cni_writes_whole_rows() {
    let (rows, table) = quick("cni");
    for case in [
        "add",
        "add/2",
        "burst/4",
        "del",
        "del/2",
        "add/pods=3",
        "size",
        "memory/portmap",
    ] {
        holds(&rows, case, &table);
    }
    rows.iter().for_each(is_whole);
}

/// Whatever has a peer has its figures, what has a goal says whether it is met, and an interval
/// holds its ratio.
fn is_whole(row: &Value) {
    let number = |field: &str| row[field].as_f64();
    for field in ["ours", "spread", "n"] {
        assert!(number(field).is_some(), "{field}: {row}");
    }
    if let Some(ratio) = number("ratio") {
        let (low, high) = (number("low").unwrap(), number("high").unwrap());
        assert!(0.0 < low && low <= ratio && ratio <= high, "{row}");
    }
    if row["unit"] == "ms" {
        assert!(
            number("p50_ms").unwrap() <= number("p99_ms").unwrap(),
            "{row}"
        );
    }
    assert_eq!(row["peer"].is_string(), number("theirs").is_some(), "{row}");
    assert_eq!(row["goal"].is_f64(), row["met"].is_boolean(), "{row}");
}

#[test]
fn quick_datapath_writes_whole_rows() {
    let (rows, table) = quick("datapath");
    for place in ["same-node", "cross-node"] {
        for what in [
            "rr",
            "rr/clsact",
            "rr/of-bare",
            "rr/v6",
            "crr",
            "crr/v6/clsact",
            "crr/of-bare/v6",
            "bulk",
            "bulk-cpu/v6",
            "bulk-bbr",
        ] {
            holds(&rows, &format!("{place}/{what}"), &table);
        }
    }
    for case in [
        "insns/to_pod",
        "ns/from_pod/established/v4",
        "ns/from_pod-remote/new/v6",
        "ns/from_uplink/new/v4",
        "memory/100000-connections",
        "agent/rss/pods=2",
    ] {
        holds(&rows, case, &table);
    }
    rows.iter().for_each(is_whole);
}
