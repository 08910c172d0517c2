//! What `watari status` and `watari flows` tell of a node of a lab.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use watari_testkit::wait_until;

use crate::lab::TestLab;

/// How long all connections may take to be on the fast road.
const PATIENCE: Duration = Duration::from_mins(1);
/// The clocks of an agent and of a test are read one after the other.
const SLACK: f64 = 2.0;

/// The lines that this build of `watari` prints for `WORDS --node node1 --json`.
///
/// # Panics
/// When it could not be asked.
pub fn asked(lab: &TestLab, build: &Path, words: &[&str]) -> Vec<Value> {
    let own = ["--lab", lab.name(), "--node", "node1", "--json"];
    let output = Command::new(build).args(words).args(own).output();
    let output = output.expect("start watari");
    assert!(
        output.status.code().is_some_and(|code| code < 2),
        "{words:?}: {output:?}"
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = |line| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(line).collect()
}

/// The connections of a pod with these addresses, by who talks to whom.
///
/// # Panics
/// When they could not be asked for.
pub fn flows(lab: &TestLab, build: &Path, addresses: &[String]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for address in addresses {
        for flow in asked(lab, build, &["flows", "--address", address]) {
            let end = |of: &str| format!("{}:{}", flow[of]["address"], flow[of]["port"]);
            let (from, to) = (end("source"), end("destination"));
            found.insert(format!("{} {from} {to}", flow["protocol"]), flow);
        }
    }
    found
}

fn packets(flow: &Value) -> u64 {
    let count = |way: &str| flow[way]["packets"].as_u64().unwrap_or_default();
    count("original") + count("reply")
}

/// Seconds since its first packet, of either direction.
fn age(flow: &Value) -> f64 {
    let of = |way: &str| flow[way]["firstSecondsAgo"].as_f64().unwrap_or_default();
    of("original").max(of("reply"))
}

/// Connections that are to be there to the end, on the fast road, and counted.
#[derive(Debug)]
pub struct Watch {
    /// Each as it was seen last.
    known: BTreeMap<String, Value>,
    ages: BTreeMap<String, f64>,
    since: Instant,
}

impl Watch {
    /// Waits until so many connections of the pod with these addresses go on, all of them on the
    /// fast road; those are watched.
    ///
    /// # Panics
    /// When it waits for too long.
    pub fn start(lab: &TestLab, build: &Path, addresses: &[String], count: usize) -> Self {
        let mut before = flows(lab, build, addresses);
        let mut since = Instant::now();
        let what = format!("{count} connections on the fast road");
        wait_until(PATIENCE, &what, || {
            since = Instant::now();
            let mut now = flows(lab, build, addresses);
            let seen = now.clone();
            now.retain(|key, flow| {
                let grows = before
                    .get(key)
                    .is_some_and(|old| packets(old) < packets(flow));
                grows && flow["road"] == "direct" && flow["state"] == "established"
            });
            before = seen;
            let all = now.len() == count;
            if all {
                before = now;
            }
            all
        });
        let ages = before.iter().map(|(key, flow)| (key.clone(), age(flow)));
        Self {
            ages: ages.collect(),
            known: before,
            since,
        }
    }

    /// What is watched.
    pub fn flows(&self) -> impl Iterator<Item = &Value> {
        self.known.values()
    }

    /// Holds that all are there still, as old as they are, and that more was counted since the last
    /// time.
    ///
    /// # Panics
    /// When they are not.
    pub fn holds(&mut self, lab: &TestLab, build: &Path, addresses: &[String], when: &str) {
        let elapsed = self.since.elapsed().as_secs_f64();
        let now = flows(lab, build, addresses);
        for (key, before) in &mut self.known {
            let Some(flow) = now.get(key) else {
                panic!("{when}: {key} is forgotten; it was {before}");
            };
            assert!(
                packets(flow) > packets(before),
                "{when}: {flow} is not counted; it was {before}"
            );
            assert_eq!(
                (&flow["road"], &flow["state"]),
                (&before["road"], &before["state"]),
                "{when}: {flow}"
            );
            let wanted = self.ages[key] + elapsed - SLACK;
            assert!(
                age(flow) >= wanted,
                "{when}: forgotten and found again, {flow} should be {wanted} s old"
            );
            *before = flow.clone();
        }
    }
}
