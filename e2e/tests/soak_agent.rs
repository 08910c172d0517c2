//! Agents that are killed, started again, and exchanged for those of a build with another layout of
//! tables and back, under traffic: no packet is lost, no connection forgotten, and pods are made and
//! reached meanwhile.
//!
//! Short in `./run test`, at full length with `WATARI_SOAK=1`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use watari_e2e::lab::{TestLab, binary, other_build};
use watari_e2e::node::unified;
use watari_e2e::traffic::Traffic;
use watari_e2e::watch::{Watch, asked};
use watari_testkit::wait_until;

/// Longer than an agent takes to load, or to end.
const PATIENCE: Duration = Duration::from_mins(1);
const NODES: [&str; 2] = ["node1", "node2"];

/// How often all of it happens.
fn rounds() -> u64 {
    if std::env::var_os("WATARI_SOAK").is_some() {
        100
    } else {
        5
    }
}

/// A lab under traffic.
struct Soak {
    lab: TestLab,
    own: PathBuf,
    other: PathBuf,
    /// Of the pod that talks to the others.
    one: Vec<String>,
    /// Of the pod on the other node.
    far: Vec<String>,
    watch: Watch,
    traffic: Traffic,
}

impl Soak {
    fn start() -> Self {
        let (own, other) = (binary("watari"), other_build());
        let lab = TestLab::of("killed", "{nodes: 2, ipv6: true}");
        let one = lab.pod_of("one", "node1");
        let two = lab.pod_of("two", "node1");
        let far = lab.pod_of("far", "node2");
        let to = [("two", &two[..]), ("far", &far[..])];
        let traffic = Traffic::start(&lab, "one", &to);
        // TCP, UDP and echo, to two pods, over both families.
        assert_eq!(traffic.connections(), 12);
        let watch = Watch::start(&lab, &own, &one, traffic.connections());
        Self {
            lab,
            own,
            other,
            one,
            far,
            watch,
            traffic,
        }
    }

    fn kill(&self) {
        self.lab.watari(&["lab", "agent", "kill"]);
    }

    /// Starts the agents of a build, and holds that they found all as it should be.
    fn run(&mut self, build: &Path, when: &str) {
        self.lab.watari_of(build, &["lab", "agent", "start"]);
        let status = || asked(&self.lab, build, &["status"]).remove(0);
        wait_until(PATIENCE, "a healthy node", || status()["healthy"] == true);
        let status = status();
        assert_eq!(status["repairs"], 0, "{when}: {status}");
        let is_other = status["datapath"]["abi"] != "1";
        assert_eq!(is_other, build == self.other, "{when}: {status}");
        self.traffic.goes_on(when);
        self.watch.holds(&self.lab, build, &self.one, when);
    }

    /// Starts the agents of a build, and kills them a moment later, at whatever they are then.
    fn run_and_kill(&self, build: &Path, moment: Duration) {
        let mut starting = Command::new(build)
            .args(["lab", "agent", "start", "--lab", self.lab.name()])
            .stderr(Stdio::null())
            .spawn()
            .expect("start watari");
        let mut ended = || starting.try_wait().expect("ask for it").is_some();
        wait_until(PATIENCE, "an agent to begin", || {
            ended() || NODES.iter().any(|node| !self.agents(node).is_empty())
        });
        std::thread::sleep(moment);
        wait_until(PATIENCE, "agents to end that are killed", || {
            for pid in NODES.iter().flat_map(|node| self.agents(node)) {
                // It may have ended by itself.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            ended()
        });
        self.kill();
    }

    /// The processes of a node's agent.
    fn agents(&self, node: &str) -> Vec<i32> {
        let group = self.lab.node(node).cgroup;
        let procs = unified().join(&group[1..]).join("agent/cgroup.procs");
        let text = std::fs::read_to_string(procs).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// Pings between two pods, and gives the roads that are known to `to` then.
    fn roads(&self, build: &Path, from: &str, to: &[String]) -> Vec<Value> {
        let mut roads = Vec::new();
        for address in to {
            let ping = ["ping", "-c1", "-W5", address];
            self.lab
                .watari(&[&["lab", "exec", from, "--"], &ping[..]].concat());
            let flows = asked(&self.lab, build, &["flows", "--address", address]);
            roads.extend(flows.iter().map(|flow| flow["road"].clone()));
        }
        roads
    }

    /// Made while nobody looks after the node: the plugin attaches it.
    fn young_pod(&self, name: &str) {
        let young = self.lab.pod_of(name, "node1");
        let roads = self.roads(&self.own, "one", &young);
        assert_eq!(roads, ["direct", "direct"], "the plugin attached it");
    }

    /// Made while the datapath is of another version than the plugin: it has the ordinary road.
    fn foreign_pod(&self, name: &str) -> Vec<String> {
        let said = what_the_plugin_says(&self.lab);
        assert!(
            said.contains("is of another version") && said.contains("takes the ordinary road"),
            "{said}"
        );
        let foreign = self.lab.pod_of(name, "node1");
        let roads = self.roads(&self.other, "one", &foreign);
        assert_eq!(roads, ["stack", "stack"]);
        self.roads(&self.other, name, &self.far);
        foreign
    }

    fn round(&mut self, round: u64) {
        let (own, other) = (self.own.clone(), self.other.clone());
        let (young, foreign) = (format!("young{round}"), format!("foreign{round}"));
        self.kill();
        self.young_pod(&young);
        self.run(&own, &format!("round {round}, started again"));

        self.kill();
        let moment = Duration::from_millis(round * 797 % 3000);
        if round.is_multiple_of(2) {
            self.run_and_kill(&other, moment);
        }
        self.run(&other, &format!("round {round}, upgraded"));

        self.kill();
        let addresses = self.foreign_pod(&foreign);
        if !round.is_multiple_of(2) {
            self.run_and_kill(&own, moment);
        }
        self.run(&own, &format!("round {round}, downgraded"));
        wait_until(PATIENCE, "the pod to be attached", || {
            let roads = self.roads(&own, "one", &addresses);
            roads.iter().filter(|road| **road == "direct").count() >= 2
        });
        self.lab.delete(&[&young, &foreign]);
    }
}

/// What the plugin prints beside its result; runtimes keep that to themselves when all went well.
fn what_the_plugin_says(lab: &TestLab) -> String {
    let place = lab.node("node1");
    let ok = |words: &[&str]| {
        let status = place.command(words).status().expect("start nsenter");
        assert!(status.success(), "{words:?}: {status}");
    };
    let list = place
        .command(&["sh", "-c", "cat /etc/cni/net.d/*.conflist"])
        .output();
    let list = list.expect("read the configuration").stdout;
    let list: Value = serde_json::from_slice(&list).expect("one configuration");
    let mut conf = list["plugins"][0].clone();
    for key in ["cniVersion", "name"] {
        conf[key] = list[key].clone();
    }
    assert_eq!(conf["type"], json!("azure-vnet"));
    let netns = "/run/netns-said";
    ok(&["touch", netns]);
    ok(&["unshare", &format!("--net={netns}"), "true"]);
    let call = |command: &str| {
        let script = format!(
            "CNI_COMMAND={command} CNI_CONTAINERID=said CNI_NETNS={netns} CNI_IFNAME=eth0 \
             CNI_PATH=/opt/cni/bin exec /opt/cni/bin/azure-vnet"
        );
        let mut plugin = place
            .command(&["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the plugin");
        let mut input = plugin.stdin.take().expect("its input");
        input
            .write_all(conf.to_string().as_bytes())
            .expect("tell it");
        drop(input);
        let output = plugin.wait_with_output().expect("wait for the plugin");
        assert!(output.status.success(), "{command}: {output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = call("ADD");
    call("DEL");
    ok(&["umount", netns]);
    ok(&["rm", netns]);
    said
}

#[test]
fn no_packet_is_lost_and_no_pod_waits_while_agents_come_and_go() {
    let mut soak = Soak::start();
    let begin = Instant::now();
    for round in 0..rounds() {
        soak.round(round);
    }
    // What was loaded already was not loaded again.
    let log = soak.lab.watari(&["lab", "agent", "log", "node1"]);
    let reused = log.matches("reused=true").count() as u64;
    assert!(reused >= rounds(), "{reused} of {} times:\n{log}", rounds());
    let own = soak.own.clone();
    soak.watch.holds(&soak.lab, &own, &soak.one, "at the end");
    let (life, answered) = (begin.elapsed().as_secs(), soak.traffic.end());
    // As much as a machine with little left for it does.
    assert!(answered > 100 * life, "{answered} answers in {life} s");
}
