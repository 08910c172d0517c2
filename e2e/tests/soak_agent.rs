//! Agents that are killed and started again, under traffic: no packet is lost, no connection
//! forgotten, and pods are made and reached meanwhile.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use watari_e2e::lab::{TestLab, binary};
use watari_testkit::wait_until;

/// How often agents are killed.
fn rounds() -> u32 {
    if std::env::var_os("WATARI_SOAK").is_some() {
        100
    } else {
        5
    }
}

/// `watari WORDS --node node1 --json`, whatever it exits with.
fn asked(lab: &TestLab, words: &[&str]) -> Vec<Value> {
    let own = ["--lab", lab.name(), "--node", "node1", "--json"];
    let output = Command::new(binary("watari"))
        .args(words)
        .args(own)
        .output();
    let output = output.expect("start watari");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let line = |line| serde_json::from_str(line).expect("a line of JSON");
    text.lines().map(line).collect()
}

fn status(lab: &TestLab) -> Value {
    let told = asked(lab, &["status"]).into_iter().next();
    told.unwrap_or_default()
}

fn in_pod(lab: &TestLab, pod: &str, words: &[&str]) -> String {
    lab.watari(&[&["lab", "exec", pod, "--"], words].concat())
}

/// A process in a pod, and by it the pod's network namespace.
struct Inside {
    child: Child,
    namespace: File,
}

impl Inside {
    fn of(lab: &TestLab, pod: &str) -> Self {
        let child = Command::new(binary("watari"))
            .args([
                "lab",
                "exec",
                pod,
                "--lab",
                lab.name(),
                "--",
                "sleep",
                "3600",
            ])
            .spawn()
            .expect("start a process in a pod");
        let path = format!("/proc/{}", child.id());
        wait_until(
            Duration::from_secs(10),
            "the process to be in its pod",
            || {
                std::fs::read_to_string(format!("{path}/comm"))
                    .is_ok_and(|name| name.trim() == "sleep")
            },
        );
        let namespace = File::open(format!("{path}/ns/net")).expect("the pod's namespace");
        Self { child, namespace }
    }

    /// A thread inside.
    fn spawn<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
        let namespace = self.namespace.try_clone().expect("clone a file");
        std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("enter a pod (needs root)");
            work()
        })
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It may have ended with its lab.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One TCP connection between two pods, with a question and its answer every ten milliseconds.
struct Talk {
    stop: Arc<AtomicBool>,
    client: JoinHandle<io::Result<u64>>,
    _ends: [Inside; 2],
}

impl Talk {
    fn start(lab: &TestLab, from: &str, to: &str, address: &str, port: u16) -> Self {
        let ends = [Inside::of(lab, from), Inside::of(lab, to)];
        let (listens, listening) = mpsc::channel();
        ends[1].spawn(move || -> io::Result<()> {
            let listener = TcpListener::bind(("0.0.0.0", port))?;
            listens.send(()).expect("somebody waits");
            let (mut stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            let mut word = [0; 8];
            while stream.read_exact(&mut word).is_ok() {
                stream.write_all(&word)?;
            }
            Ok(())
        });
        let wait = Duration::from_secs(10);
        listening.recv_timeout(wait).expect("a server that listens");
        let stop = Arc::new(AtomicBool::new(false));
        let (until, address) = (stop.clone(), address.to_owned());
        let client = ends[0].spawn(move || {
            let mut stream = TcpStream::connect((address.as_str(), port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(wait))?;
            let mut count = 0u64;
            let mut word = [0; 8];
            while !until.load(Ordering::Relaxed) {
                stream.write_all(&count.to_be_bytes())?;
                stream.read_exact(&mut word)?;
                assert_eq!(word, count.to_be_bytes());
                count += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(count)
        });
        Self {
            stop,
            client,
            _ends: ends,
        }
    }

    /// How many questions were answered.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let talked = self.client.join().expect("a client that does not panic");
        talked.expect("a connection that stands")
    }
}

/// Pings until told to stop, a hundred times a second.
struct Pings(Child);

impl Pings {
    fn start(lab: &TestLab, from: &str, to: &str) -> Self {
        let words = ["lab", "exec", from, "--lab", lab.name(), "--"];
        // Bounded, whatever becomes of the test.
        let ping = ["ping", "-i", "0.01", "-c", "100000", "-q", to];
        let child = Command::new(binary("watari"))
            .args(words)
            .args(ping)
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("start ping"))
    }

    /// How many were sent and received.
    fn stop(mut self) -> (u64, u64) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("end ping");
        let out = self.0.stdout.take().expect("its output");
        let lines: Vec<String> = BufReader::new(out).lines().map_while(Result::ok).collect();
        self.0.wait().expect("wait for ping");
        let counts = lines.iter().find(|line| line.contains("transmitted"));
        let counts = counts.unwrap_or_else(|| panic!("no summary in {lines:?}"));
        let mut numbers = counts.split(|c: char| !c.is_ascii_digit());
        let mut next = || {
            let number = numbers.find(|text| !text.is_empty());
            number.and_then(|text| text.parse().ok()).expect("a count")
        };
        (next(), next())
    }
}

#[test]
fn no_packet_is_lost_and_no_pod_waits_while_agents_come_and_go() {
    let lab = TestLab::up("killed", 2);
    lab.watari(&["lab", "agent", "start"]);
    lab.pod("one", "node1");
    let two = lab.pod("two", "node1");
    let far = lab.pod("far", "node2");
    wait_until(Duration::from_secs(10), "the agent to know them", || {
        status(&lab)["endpoints"] == 2
    });
    let begin = Instant::now();
    // The first packets of a road may still go by the stack.
    let pings = [&two, &far].map(|to| {
        in_pod(&lab, "one", &["ping", "-c2", "-W2", to]);
        Pings::start(&lab, "one", to)
    });
    let talks = [("two", &two, 7001), ("far", &far, 7002)]
        .map(|(to, address, port)| Talk::start(&lab, "one", to, address, port));
    for round in 0..rounds() {
        lab.watari(&["lab", "agent", "kill"]);
        // Made and reached while nobody looks after the node.
        let name = format!("young{round}");
        let young = lab.pod(&name, "node1");
        in_pod(&lab, "one", &["ping", "-c1", "-W2", &young]);
        let flows = asked(&lab, &["flows", "--address", &young]);
        assert_eq!(
            flows[0]["road"], "direct",
            "the plugin attached it: {flows:?}"
        );
        lab.watari(&["lab", "agent", "start"]);
        let status = status(&lab);
        assert_eq!(status["healthy"], true, "{status}");
        assert_eq!(status["repairs"], 0, "{status}");
        lab.delete(&[&name]);
    }
    let life = begin.elapsed().as_secs_f64();
    for port in ["7001", "7002"] {
        let flows = asked(&lab, &["flows", "--port", port]);
        assert_eq!(flows.len(), 1, "{flows:?}");
        let flow = &flows[0];
        assert_eq!(
            (&flow["state"], &flow["road"]),
            (&"established".into(), &"direct".into())
        );
        let age = flow["original"]["firstSecondsAgo"].as_f64();
        assert!(
            age > Some(life * 0.5),
            "forgotten and found again: {flow} after {life} s"
        );
    }
    for talk in talks {
        let count = talk.stop();
        assert!(count > 100, "only {count} answers in {life} s");
    }
    for ping in pings {
        let (sent, received) = ping.stop();
        assert!(sent > 300, "only {sent} packets in {life} s");
        assert_eq!(received, sent);
    }
}
