//! Traffic between pods of a lab, of which no packet may be lost.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watari_testkit::wait_until;

use crate::lab::{TestLab, binary};

/// How long an answer may take: far longer than on any machine, and a lost one never comes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(4);
/// How often who answers looks whether it shall go on.
const TURN: Duration = Duration::from_millis(200);

/// A process in a pod, and by it the pod's network namespace.
struct Inside {
    child: Child,
    namespace: File,
}

impl Inside {
    fn of(lab: &TestLab, pod: &str) -> Self {
        let words = ["lab", "exec", pod, "--lab", lab.name(), "--"];
        let child = Command::new(binary("watari"))
            .args(words)
            .args(["sleep", "7200"])
            .spawn()
            .expect("start a process in a pod");
        let path = format!("/proc/{}", child.id());
        wait_until(PATIENCE, "the process to be in its pod", || {
            let name = std::fs::read_to_string(format!("{path}/comm"));
            name.is_ok_and(|name| name.trim() == "sleep")
        });
        let namespace = File::open(format!("{path}/ns/net")).expect("the pod's namespace");
        Self { child, namespace }
    }

    /// Does this inside.
    fn enter<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("enter a pod (needs root)");
            work()
        };
        std::thread::scope(|scope| scope.spawn(inside).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// A counter of the pod's TCP, from a file as `/proc/net/snmp`: a line of names, then one of
    /// values.
    fn counter(&self, file: &str, kind: &str, wanted: &str) -> u64 {
        let read = || std::fs::read_to_string(format!("/proc/thread-self/net/{file}"));
        let text = self.enter(read).expect("read the counters");
        let mut lines = text.lines().filter(|line| line.starts_with(kind));
        let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
        let mut pairs = names.split(' ').zip(values.split(' '));
        let found = pairs.find(|(name, _)| *name == wanted);
        let value = found.and_then(|(_, value)| value.parse().ok());
        value.unwrap_or_else(|| panic!("no counter {wanted} in {file}"))
    }

    /// Segments that its TCP has sent again, less those that arrived twice: on a busy machine an
    /// answer may take so long that it is asked for again.
    fn lost_segments(&self) -> u64 {
        let again = self.counter("snmp", "Tcp:", "RetransSegs");
        again.saturating_sub(self.counter("netstat", "TcpExt:", "TCPDSACKRecv"))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It may have ended with its lab.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pings until told to stop, a hundred times a second.
struct Pings(Child);

impl Pings {
    fn start(lab: &TestLab, from: &str, to: &str) -> Self {
        let words = ["lab", "exec", from, "--lab", lab.name(), "--"];
        // Bounded, whatever becomes of the test. What is on its way at the end is waited for.
        let ping = ["ping", "-i", "0.01", "-c", "700000", "-q", "-W", "20", to];
        let child = Command::new(binary("watari"))
            .args(words)
            .args(ping)
            .stdout(Stdio::piped())
            .spawn();
        Self(child.expect("start ping"))
    }

    /// How many were sent and received.
    fn end(&mut self) -> (u64, u64) {
        self.interrupt();
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

    fn interrupt(&self) {
        let pid = i32::try_from(self.0.id()).expect("a process id");
        // It may have ended with its lab.
        let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.interrupt();
        let _ = self.0.wait();
    }
}

/// From one pod to others, to each of their addresses: a conversation over TCP and one over UDP,
/// each question numbered and answered, and an echo request every ten milliseconds.
pub struct Traffic {
    stop: Arc<AtomicBool>,
    /// What was answered so far, by conversation.
    counts: Vec<(String, Arc<AtomicU64>)>,
    threads: Vec<JoinHandle<()>>,
    pings: Vec<(String, Pings)>,
    /// Each with the segments that it had lost before.
    ends: Vec<(Inside, u64)>,
}

impl Traffic {
    /// From the pod `from` to pods with these addresses; returns when all of it goes.
    ///
    /// # Panics
    /// When it does not go.
    pub fn start(lab: &TestLab, from: &str, to: &[(&str, &[String])]) -> Self {
        let mut traffic = Self {
            stop: Arc::default(),
            counts: Vec::new(),
            threads: Vec::new(),
            pings: Vec::new(),
            ends: Vec::new(),
        };
        let client = Inside::of(lab, from);
        for (pod, addresses) in to {
            let server = Inside::of(lab, pod);
            for text in *addresses {
                let address: IpAddr = text.parse().expect("an address");
                traffic.tcp((&client, &server), pod, address);
                traffic.udp((&client, &server), pod, address);
                // The first packets of a road may meet a neighbour that is not known yet.
                lab.watari(&["lab", "exec", from, "--", "ping", "-c2", "-W5", text]);
                let pings = Pings::start(lab, from, text);
                traffic.pings.push((format!("{pod} at {text}"), pings));
            }
            traffic.ends.push((server, 0));
        }
        traffic.ends.push((client, 0));
        for (end, lost) in &mut traffic.ends {
            *lost = end.lost_segments();
        }
        traffic.goes_on("the beginning");
        traffic
    }

    /// Connections that it consists of.
    pub fn connections(&self) -> usize {
        self.counts.len() + self.pings.len()
    }

    fn ask(&mut self, name: String, mut once: impl FnMut(u64) + Send + 'static) {
        let count = Arc::new(AtomicU64::new(0));
        self.counts.push((name, Arc::clone(&count)));
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                once(count.load(Ordering::Relaxed));
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(PAUSE);
            }
        }));
    }

    fn tcp(&mut self, (client, server): (&Inside, &Inside), pod: &str, address: IpAddr) {
        let listener = server.enter(|| TcpListener::bind((address, 0)).expect("listen"));
        let to = listener.local_addr().expect("an address");
        let mut near = client.enter(|| TcpStream::connect(to).expect("connect"));
        let (mut far, _) = listener.accept().expect("accept");
        for stream in [&near, &far] {
            stream.set_nodelay(true).expect("set no delay");
            let patience = Some(PATIENCE);
            stream.set_read_timeout(patience).expect("set a deadline");
        }
        self.threads.push(std::thread::spawn(move || {
            let mut bytes = [0; 8];
            // Ends with the connection.
            while far.read_exact(&mut bytes).is_ok() && far.write_all(&bytes).is_ok() {}
        }));
        let name = format!("TCP to {pod} at {to}");
        self.ask(name.clone(), move |number| {
            let mut bytes = [0; 8];
            near.write_all(&number.to_ne_bytes())
                .and_then(|()| near.read_exact(&mut bytes))
                .unwrap_or_else(|error| panic!("{name}, question {number}: {error}"));
            assert_eq!(u64::from_ne_bytes(bytes), number, "{name}");
        });
    }

    fn udp(&mut self, (client, server): (&Inside, &Inside), pod: &str, address: IpAddr) {
        let far = server.enter(|| UdpSocket::bind((address, 0)).expect("bind"));
        far.set_read_timeout(Some(TURN)).expect("set a turn");
        let to: SocketAddr = far.local_addr().expect("an address");
        let any = match address {
            IpAddr::V4(_) => "0.0.0.0:0",
            IpAddr::V6(_) => "[::]:0",
        };
        let near = client.enter(|| {
            let near = UdpSocket::bind(any).expect("bind");
            near.connect(to).expect("connect");
            near
        });
        let patience = Some(PATIENCE);
        near.set_read_timeout(patience).expect("set a deadline");
        let stop = Arc::clone(&self.stop);
        self.threads.push(std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = far.recv_from(&mut bytes) {
                    // Who asked misses the answer if it does not go.
                    let _ = far.send_to(&bytes, from);
                }
            }
        }));
        let name = format!("UDP to {pod} at {to}");
        self.ask(name.clone(), move |number| {
            let mut bytes = [0; 8];
            near.send(&number.to_ne_bytes())
                .and_then(|_| near.recv(&mut bytes))
                .unwrap_or_else(|error| panic!("{name}: datagram {number} is lost: {error}"));
            assert_eq!(u64::from_ne_bytes(bytes), number, "{name}");
        });
    }

    /// Waits until every conversation has gone on.
    ///
    /// # Panics
    /// When one does not.
    pub fn goes_on(&self, when: &str) {
        let now = || {
            let counts = self.counts.iter().map(|(_, count)| count);
            counts.map(|count| count.load(Ordering::Relaxed))
        };
        let before: Vec<u64> = now().collect();
        for (at, (name, count)) in self.counts.iter().enumerate() {
            wait_until(PATIENCE * 2, &format!("{name} to go on ({when})"), || {
                count.load(Ordering::Relaxed) > before[at] + 3
            });
        }
    }

    /// Ends it, and holds that no packet was lost. Gives how many questions and echo requests were
    /// answered.
    ///
    /// # Panics
    /// When one was.
    pub fn end(mut self) -> u64 {
        let mut answered = 0;
        for (name, pings) in &mut self.pings {
            let (sent, received) = pings.end();
            assert_eq!(received, sent, "echo requests to {name}");
            answered += sent;
        }
        self.stop.store(true, Ordering::Relaxed);
        for thread in std::mem::take(&mut self.threads) {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
        for (end, before) in &self.ends {
            assert_eq!(end.lost_segments(), *before, "segments were lost");
        }
        let counts = self.counts.iter();
        answered + counts.map(|(_, c)| c.load(Ordering::Relaxed)).sum::<u64>()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
