//! Clients of Services: in a pod, on a node, outside of the cluster, and inside a pod's network without
//! being of its cgroup, so that no program at a socket serves them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::lab::{TestLab, binary};

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At<'a> {
    /// A pod, a node, or `outside`, by `watari lab exec`: of the node's cgroup, but for `outside`.
    Lab(&'a str),
    /// In the pod's network alone: its cgroup is the test's.
    Network(&'a str),
}

impl At<'_> {
    /// A command that runs there.
    ///
    /// # Panics
    /// When there is no such pod.
    pub fn command(self, lab: &TestLab, words: &[&str]) -> Command {
        match self {
            Self::Lab(place) => {
                let mut command = Command::new(binary("watari"));
                let own = ["lab", "exec", "--lab", lab.name(), place, "--"];
                command.args(own).args(words);
                command
            }
            Self::Network(pod) => {
                let found = pod_of(lab, pod);
                let text = |name: &str| found[name].as_str().expect("a text").to_owned();
                let holder = lab.node(&text("node")).pid;
                let path = format!("/proc/{holder}/root/run/netns/{}", text("netns"));
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={path}")).args(words);
                command
            }
        }
    }
}

/// `watari lab get pods --json`: one of them.
///
/// # Panics
/// When there is none of that name.
pub fn pod_of(lab: &TestLab, name: &str) -> Value {
    let all = pods(lab).into_iter();
    let mut found = all.filter(|pod| pod["name"] == name);
    found.next().unwrap_or_else(|| panic!("no pod {name}"))
}

/// All pods of the lab.
///
/// # Panics
/// When they cannot be read.
pub fn pods(lab: &TestLab) -> Vec<Value> {
    // 1 says that one of them is not ready.
    let words = ["lab", "get", "--lab", lab.name(), "pods", "--json"];
    let output = Command::new(binary("watari")).args(words).output();
    let output = output.expect("start watari").stdout;
    let all: Value = serde_json::from_slice(&output).expect("pods, as JSON");
    all["pods"].as_array().expect("a list").clone()
}

/// The names of the pods of a Deployment, sorted by node.
pub fn pods_of(lab: &TestLab, owner: &str) -> Vec<Value> {
    let mut found: Vec<Value> = pods(lab);
    found.retain(|pod| pod["owner"]["name"] == owner && pod["terminating"] != true);
    found.sort_by_key(|pod| pod["node"].to_string());
    found
}

/// A Service as the lab completed it.
///
/// # Panics
/// When there is none of that name.
pub fn service(lab: &TestLab, name: &str) -> Value {
    let all = lab.watari(&["lab", "get", "services", "--json"]);
    let all: Value = serde_json::from_str(&all).expect("Services, as JSON");
    let mut all = all["services"].as_array().expect("a list").iter();
    let found = all.find(|one| one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no Service {name}")).clone()
}

/// What a built-in server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// The pod, without its namespace.
    pub name: String,
    /// Its node.
    pub node: String,
    /// Whom it saw.
    pub peer: IpAddr,
}

impl Said {
    fn of(line: &str) -> Option<Self> {
        let said: Value = serde_json::from_str(line).ok()?;
        let peer: SocketAddr = said["peer"].as_str()?.parse().ok()?;
        Some(Self {
            name: said["name"]
                .as_str()?
                .trim_start_matches("default/")
                .to_owned(),
            node: said["node"].as_str()?.to_owned(),
            peer: peer.ip(),
        })
    }
}

/// Asks over HTTP, once: none without an answer within three seconds.
///
/// # Panics
/// When no client can be started.
pub fn ask(lab: &TestLab, from: At<'_>, to: SocketAddr) -> Option<Said> {
    let url = format!("http://{to}/");
    let output = from.command(lab, &["curl", "-gsf", "-m3", &url]).output();
    let output = output.expect("start a client");
    Said::of(&String::from_utf8_lossy(&output.stdout))
}

/// Holds one connection and says something over it whenever it is told to.
const TALK: &str = "
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
s.settimeout(30)
f = s.makefile('rb')
print(f.readline().decode().strip(), flush=True)
for line in sys.stdin:
    s.sendall(line.encode())
    print(f.readline().decode().strip(), flush=True)
";

/// A connection that is open.
#[derive(Debug)]
pub struct Talk {
    /// Who is at the other end.
    pub said: Said,
    what: String,
    process: Child,
    input: ChildStdin,
    lines: BufReader<ChildStdout>,
    count: u32,
}

impl Talk {
    /// Connects; the server is one that says who it is, then repeats what it hears.
    ///
    /// # Panics
    /// When there is no connection.
    pub fn start(lab: &TestLab, from: At<'_>, to: SocketAddr) -> Self {
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let mut process = from
            .command(lab, &["python3", "-c", TALK, &ip, &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a client");
        let input = process.stdin.take().expect("its input");
        let mut lines = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("its first line");
        let what = format!("{from:?} to {to}");
        let said = Said::of(&line).unwrap_or_else(|| panic!("{what}: {line:?}"));
        Self {
            said,
            what,
            process,
            input,
            lines,
            count: 0,
        }
    }

    /// Says something and hears it again.
    ///
    /// # Panics
    /// When the connection is no more.
    pub fn goes_on(&mut self, when: &str) {
        self.count += 1;
        let word = format!("{}-{when}", self.count);
        let said = writeln!(self.input, "{word}").and_then(|()| self.input.flush());
        said.unwrap_or_else(|error| panic!("{} ({when}): {error}", self.what));
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("its answer");
        assert_eq!(line.trim(), word, "{} ({when})", self.what);
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connects again and again until its input ends, and tells what went wrong. A connection is whole: it hears who is
/// there, says something, and hears it again.
const CHURN: &str = "
import json, select, socket, sys, time
good, bad, who = 0, [], {}
print('started', flush=True)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    begun = time.monotonic()
    try:
        with socket.create_connection((sys.argv[1], int(sys.argv[2])), 5) as s:
            s.settimeout(5)
            f = s.makefile('rb')
            name = json.loads(f.readline())['name']
            s.sendall(b'word\\n')
            assert f.readline() == b'word\\n', 'cut off'
            who[name] = who.get(name, 0) + 1
            good += 1
    except Exception as e:
        bad.append('%s after %.3f s' % (repr(e), time.monotonic() - begun))
print(json.dumps({'good': good, 'bad': bad, 'who': who}), flush=True)
";

/// Somebody who connects all the time.
#[derive(Debug)]
pub struct Churn {
    what: String,
    process: Child,
    lines: BufReader<ChildStdout>,
}

impl Churn {
    /// Returns when it has begun.
    ///
    /// # Panics
    /// When it does not begin.
    pub fn start(lab: &TestLab, from: At<'_>, to: SocketAddr) -> Self {
        let (ip, port) = (to.ip().to_string(), to.port().to_string());
        let mut process = from
            .command(lab, &["python3", "-c", CHURN, &ip, &port])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a client");
        let mut lines = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("its first line");
        assert_eq!(line, "started\n");
        let what = format!("{from:?} to {to}");
        Self {
            what,
            process,
            lines,
        }
    }

    /// Ends it. Every connection must have been good. Gives how many there were with each pod.
    ///
    /// # Panics
    /// When one was not.
    pub fn end(mut self) -> Vec<(String, u64)> {
        drop(self.process.stdin.take());
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("its last line");
        let told: Value = serde_json::from_str(&line).expect("its result");
        let bad = told["bad"].as_array().expect("a list");
        assert!(
            bad.is_empty(),
            "{}: of {} good: {bad:#?}",
            self.what,
            told["good"]
        );
        let who = told["who"].as_object().expect("who answered").iter();
        who.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or_default()))
            .collect()
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
