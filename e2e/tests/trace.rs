//! `watari trace` through a lab, held against what a ping then sees.

use std::process::Command;

use serde_json::Value;
use watari_e2e::lab::{TestLab, binary};

/// What the trace of an echo request from `web-1` and of its reply says.
fn trace(lab: &TestLab, to: &str) -> Value {
    let said = lab.watari(&["trace", "--json", "--reply", "web-1", to]);
    serde_json::from_str(&said).expect("a trace, as JSON")
}

/// The verdicts, each with the hook.
fn verdicts(journey: &Value) -> Vec<String> {
    let hops = journey["hops"].as_array().expect("a list of hops");
    let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let one = |hop: &Value| {
        format!(
            "{} {}",
            word(&hop["hook"]),
            word(&hop["verdict"]["verdict"])
        )
    };
    hops.iter().map(one).collect()
}

/// The hops that the reply has left when it arrives, as the trace says.
fn traced_ttl(trace: &Value) -> u64 {
    let hops = trace["reply"]["hops"]
        .as_array()
        .expect("hops of the reply");
    let last = hops.last().expect("a last hop");
    last["went"]["ttl"].as_u64().expect("a TTL")
}

/// The same, as the real one has them.
fn real_ttl(lab: &TestLab, to: &str) -> u64 {
    let words = [
        "lab", "exec", "web-1", "--", "ping", "-c", "1", "-W", "10", to,
    ];
    let said = lab.watari(&words);
    let after = said.split("ttl=").nth(1).expect("a reply");
    let digits = after.split_whitespace().next().expect("a number");
    digits.parse().expect("a number")
}

/// How a trace ends that is not expected to go well.
fn status(lab: &TestLab, words: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(binary("watari"))
        .args(["trace", "--lab", lab.name()])
        .args(words)
        .output()
        .expect("start watari");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn a_trace_through_a_lab_is_what_a_ping_sees() {
    let lab = TestLab::up("trace", 2);
    lab.pod("web-1", "node1");
    let near = lab.pod("web-2", "node1");
    let far = lab.pod("web-3", "node2");

    let traced = trace(&lab, "web-2");
    assert_eq!(verdicts(&traced["way"]), ["from_pod deliver"], "{traced:#}");
    assert_eq!(traced_ttl(&traced), real_ttl(&lab, &near), "{traced:#}");
    let traced = trace(&lab, "web-3");
    let there = ["from_pod forward", "from_uplink deliver"];
    assert_eq!(verdicts(&traced["way"]), there, "{traced:#}");
    assert_eq!(verdicts(&traced["reply"]), there, "{traced:#}");
    assert_eq!(traced_ttl(&traced), real_ttl(&lab, &far), "{traced:#}");

    // A node by itself, with the names of its own store.
    let watari = binary("watari");
    let watari = watari.to_string_lossy();
    let words = ["lab", "exec", "--node", "node1", "--", &watari, "trace"];
    let said = lab.watari(&[&words[..], &["web-1", &far]].concat());
    assert!(said.contains("default/web-1"), "{said}");
    assert!(said.contains("Left node1 by eth0 to"), "{said}");

    let (code, said) = status(&lab, &["web-1", "web-2:80", "--source", &far]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("dropped: spoofed-address"), "{said}");
    let (code, said) = status(&lab, &["web-1", "web-9"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("lab get pods"), "{said}");
    for (node, why) in [("nope", "no node nope"), ("node2", "is on node node1")] {
        let (code, said) = status(&lab, &["web-1", "web-3:80", "--node", node]);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(why), "{said}");
    }
    for own in ["web-1:80", "127.0.0.1:80"] {
        let (code, said) = status(&lab, &["web-1", own]);
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("its own loopback"), "{said}");
    }

    // Without a datapath: the ordinary road.
    lab.watari(&["lab", "agent", "stop"]);
    for node in ["node1", "node2"] {
        let words = ["lab", "exec", "--node", node, "--", &watari];
        lab.watari(&[&words[..], &["agent", "--remove"]].concat());
    }
    for (name, address) in [("web-2", &near), ("web-3", &far)] {
        let traced = trace(&lab, name);
        let hops = traced["way"]["hops"].as_array().expect("hops");
        for hop in hops {
            assert_eq!(hop["attached"], false, "{hop}");
            let note = hop["notes"][0].as_str().expect("a note");
            assert!(note.contains("no datapath is loaded"), "{note}");
        }
        assert_eq!(traced_ttl(&traced), real_ttl(&lab, address), "{traced:#}");
    }
}
