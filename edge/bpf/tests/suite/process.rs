//! Processes of their own in a cgroup and a namespace, that do with sockets what they are told; and
//! what answers them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use watari_testkit::{Netns, wait_until};

use crate::world::Pod;

const PATIENCE: Duration = Duration::from_secs(20);
/// Says that a run of this binary is such a process.
const CHILD: &str = "WATARI_SOCKET_PROCESS";
/// What its answers begin with: the test harness prints too.
const ANSWER: &str = "=> ";
/// Where backends answer.
const PORT: u16 = 8080;

/// A cgroup of a test's own.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("read the mounts");
        let root = watari_bpf::cgroup_root(&mounts).expect("a cgroup2 mount");
        let (pid, next) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = root.join(format!("watari-test-{pid}-{next}"));
        std::fs::create_dir(&path).expect("make a cgroup (needs root)");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes were told to end, and take a moment.
        let end = Instant::now() + PATIENCE;
        while let Err(error) = std::fs::remove_dir(&self.0) {
            if Instant::now() > end {
                eprintln!("cannot remove {}: {error}", self.0.display());
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A process that does what it is asked, until it is dropped.
pub struct Process {
    child: RefCell<Child>,
    answers: RefCell<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts one in a namespace and a cgroup; in the test's own for `/`.
    pub fn start(netns: &Netns, cgroup: &Path) -> Self {
        let group = cgroup.join("cgroup.procs");
        let own = std::env::current_exe().expect("this program");
        let mut command = if group.exists() {
            let mut shell = Command::new("sh");
            shell.args(["-c", "echo 0 >\"$0\" && exec \"$@\""]);
            shell.arg(&group).arg(own);
            shell
        } else {
            Command::new(own)
        };
        command
            .args(["--exact", "process::a_process", "--nocapture"])
            .env(CHILD, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = netns.enter(move || command.spawn().expect("start a process"));
        let answers = BufReader::new(child.stdout.take().expect("its output"));
        Self {
            child: RefCell::new(child),
            answers: RefCell::new(answers),
        }
    }

    /// Has it do something, and gives its answer.
    #[track_caller]
    pub fn ask(&self, what: &str) -> String {
        let mut child = self.child.borrow_mut();
        let stdin = child.stdin.as_mut().expect("its input");
        writeln!(stdin, "{what}").expect("ask");
        let mut answers = self.answers.borrow_mut();
        loop {
            let mut line = String::new();
            let read = answers.read_line(&mut line).expect("an answer");
            assert!(read > 0, "the process ended when it was asked {what}");
            if let Some((_, answer)) = line.split_once(ANSWER) {
                return answer.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut();
        drop(child.stdin.take());
        if let Err(error) = child.kill().and_then(|()| child.wait()) {
            eprintln!("cannot end a process: {error}");
        }
    }
}

/// Answers at port 8080 of a pod, in TCP and UDP, with the address at which it was reached; until the
/// test's process ends.
pub fn serve(pod: &Pod) {
    for address in &pod.addresses {
        let at = SocketAddr::new(*address, PORT);
        let (listener, socket) = pod.ns.enter(move || {
            let listener = TcpListener::bind(at).expect("listen");
            (listener, UdpSocket::bind(at).expect("bind"))
        });
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { break };
                // The client may be gone.
                let _ = stream.write_all(at.to_string().as_bytes());
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(at.to_string().as_bytes(), from);
            }
        });
    }
}

/// The process itself, when it is started as one; else there is nothing to hold.
#[test]
fn a_process() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let mut open = Open::default();
    for line in io::stdin().lines() {
        let line = line.expect("a line");
        let answer = open
            .do_as(&line)
            .unwrap_or_else(|error| format!("error {}", error.raw_os_error().unwrap_or_default()));
        println!("{ANSWER}{answer}");
    }
}

/// Its sockets.
#[derive(Default)]
struct Open {
    streams: Vec<TcpStream>,
    connected: Vec<UdpSocket>,
    /// By whether they are of IPv4.
    unconnected: BTreeMap<bool, UdpSocket>,
}

fn unspecified(like: &SocketAddr) -> SocketAddr {
    let address: IpAddr = if like.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(address, 0)
}

fn unconnected(like: &SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(unspecified(like))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Whom it believes to have asked, and who says that it was reached.
fn ask_stream(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(format!("{peer} {said}"))
}

fn ask_connected(to: SocketAddr) -> io::Result<(UdpSocket, String)> {
    let socket = unconnected(&to)?;
    socket.connect(to)?;
    socket.send(b"x")?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let peer = socket.peer_addr()?;
    if from != peer {
        return Ok((socket, format!("{from}!={peer}")));
    }
    let said = String::from_utf8_lossy(&buffer[..length]).into_owned();
    Ok((socket, format!("{peer} {said}")))
}

fn ask_by(socket: &UdpSocket, to: SocketAddr) -> io::Result<String> {
    socket.send_to(b"x", to)?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let said = String::from_utf8_lossy(&buffer[..length]);
    Ok(format!("{from} {said}"))
}

/// How often each answered, ordered by their addresses.
fn ask_often(times: usize, to: SocketAddr) -> io::Result<String> {
    let mut counts = BTreeMap::<String, u32>::new();
    for _ in 0..times {
        let answer = ask_stream(&mut TcpStream::connect(to)?)?;
        *counts.entry(answer).or_default() += 1;
    }
    let counts: Vec<String> = counts.values().map(u32::to_string).collect();
    Ok(counts.join(" "))
}

/// Nanoseconds that a call takes: the least of some rounds.
fn time(times: u32, mut call: impl FnMut() -> io::Result<()>) -> io::Result<String> {
    let mut least = u64::MAX;
    for _ in 0..40 {
        let begun = Instant::now();
        for _ in 0..times {
            call()?;
        }
        let nanos = begun.elapsed().as_nanos() / u128::from(times);
        least = least.min(u64::try_from(nanos).map_err(io::Error::other)?);
    }
    Ok(least.to_string())
}

impl Open {
    fn do_as(&mut self, line: &str) -> io::Result<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let to = |at: usize| -> io::Result<SocketAddr> {
            let word = words.get(at).copied().unwrap_or_default();
            word.parse().map_err(io::Error::other)
        };
        let times = |at: usize| -> io::Result<u32> {
            let word = words.get(at).copied().unwrap_or_default();
            word.parse().map_err(io::Error::other)
        };
        match words[0] {
            "tcp" => ask_stream(&mut TcpStream::connect(to(1)?)?),
            "open-tcp" => {
                let mut stream = TcpStream::connect(to(1)?)?;
                let answer = ask_stream(&mut stream)?;
                self.streams.push(stream);
                Ok(answer)
            }
            "udp" => ask_connected(to(1)?).map(|(_, answer)| answer),
            "open-udp" => {
                let (socket, answer) = ask_connected(to(1)?)?;
                self.connected.push(socket);
                Ok(answer)
            }
            "send" => ask_by(&unconnected(&to(1)?)?, to(1)?),
            "open-send" => {
                let to = to(1)?;
                let socket = match self.unconnected.entry(to.is_ipv4()) {
                    Entry::Occupied(there) => there.into_mut(),
                    Entry::Vacant(place) => place.insert(unconnected(&to)?),
                };
                ask_by(socket, to)
            }
            "many" => ask_often(times(1)? as usize, to(2)?),
            // A datagram socket is made, connected and closed; or connected once more.
            "time-new" => {
                let to = to(2)?;
                time(times(1)?, || UdpSocket::bind(unspecified(&to))?.connect(to))
            }
            "time-again" => {
                let to = to(2)?;
                let socket = unconnected(&to)?;
                time(times(1)?, || socket.connect(to))
            }
            "time-tcp" => {
                let to = to(2)?;
                time(times(1)?, || {
                    ask_stream(&mut TcpStream::connect(to)?).map(drop)
                })
            }
            "close" => {
                *self = Self::default();
                Ok("closed".to_owned())
            }
            other => Err(io::Error::other(format!("what is {other}?"))),
        }
    }
}

#[test]
fn a_cgroup_and_its_processes_end_with_the_test() {
    let (netns, cgroup) = (Netns::new("process"), Cgroup::new());
    let path = cgroup.path().to_owned();
    let process = Process::start(&netns, &path);
    assert_eq!(process.ask("close"), "closed");
    let there = std::fs::read_to_string(path.join("cgroup.procs")).expect("read it");
    assert_eq!(there.lines().count(), 1);
    drop(process);
    drop(cgroup);
    wait_until(PATIENCE, "no cgroup", || !path.exists());
}
