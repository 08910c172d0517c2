//! The benchmark works and says what it promises. How fast anything is, it does not judge here.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

#[test]
fn quick_cni_writes_whole_rows() {
    let out = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_watari-bench");
    let table = watari_testkit::run(&[
        program,
        "--out",
        out.path().to_str().unwrap(),
        "cni",
        "--quick",
    ]);
    let text = std::fs::read_to_string(out.path().join("cni.json")).unwrap();
    let rows: Vec<Value> = serde_json::from_str(&text).unwrap();
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
        let row = rows.iter().find(|row| row["case"] == case);
        let row = row.unwrap_or_else(|| panic!("{case} is missing:\n{table}"));
        assert!(row["ours"].as_f64().unwrap() > 0.0, "{row}");
        assert!(table.contains(case), "{table}");
    }
    for row in &rows {
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
        // Whatever has a peer has its figures, and what has a goal says whether it is met.
        assert_eq!(row["peer"].is_string(), number("theirs").is_some(), "{row}");
        assert_eq!(row["goal"].is_f64(), row["met"].is_boolean(), "{row}");
    }
}
