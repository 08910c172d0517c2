//! A node with an uplink and a peer outside, its pods, and the real plugin over all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use watari_store::Store;
use watari_testkit::Netns;

/// The name of the network, and so of what belongs to it.
pub const NETWORK: &str = "faults";
/// The node's address that pods' host ports are asked at.
pub const NODE: &str = "10.9.0.1";
/// The pod's ports behind its host port.
const INSIDE: u16 = 53;
/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// No plugin takes that long, whatever it is fed with.
const HANGS: Duration = Duration::from_mins(1);

/// One node.
pub struct Node {
    pub ns: Netns,
    pub outside: Netns,
    bin: PathBuf,
    /// Where the node store is.
    pub data: PathBuf,
}

/// A pod's sandbox.
pub struct Pod {
    pub ns: Netns,
    pub container: String,
    /// The host port, of TCP and UDP.
    pub port: u16,
}

impl Pod {
    pub fn new(container: &str, port: u16) -> Self {
        Self {
            ns: Netns::new("pod"),
            container: container.to_owned(),
            port,
        }
    }

    pub fn attachment(&self) -> Value {
        json!({ "containerID": self.container, "ifname": "eth0" })
    }

    /// The links in it but `lo`.
    pub fn links(&self) -> Vec<String> {
        let all = self.ns.run(&["ip", "-br", "link"]);
        let names = all.lines().filter_map(|line| line.split(['@', ' ']).next());
        names
            .filter(|name| *name != "lo")
            .map(str::to_owned)
            .collect()
    }
}

/// How one execution of a plugin ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// None when killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// The result of a success.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        if self.stdout.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// What of a node must be the same again: named sets of lines.
pub type State = BTreeMap<&'static str, BTreeSet<String>>;

impl Node {
    pub fn new() -> Self {
        let (ns, outside) = (Netns::new("node"), Netns::new("outside"));
        let peer = outside.path().display().to_string();
        let lines = format!(
            "link add eth0 type veth peer name out0 netns {peer}
             link set eth0 addrgenmode none
             addr add {NODE}/24 dev eth0
             addr add fd09::1/64 dev eth0 nodad
             link set eth0 up
             route add default via 10.9.0.2"
        );
        ip(&ns, &lines);
        ip(
            &outside,
            "link set out0 addrgenmode none
             addr add 10.9.0.2/24 dev out0
             addr add fd09::2/64 dev out0 nodad
             link set out0 up",
        );
        let bin = ns.dir().join("bin");
        std::fs::create_dir(&bin).expect("make a directory for the plugins");
        let program = Path::new(env!("CARGO_BIN_EXE_watari-cni"));
        for name in watari_cni::Plugin::NAMES {
            symlink(program, bin.join(name)).expect("install a plugin");
        }
        let data = ns.dir().join("store");
        Self {
            ns,
            outside,
            bin,
            data,
        }
    }

    /// The configuration of the interface plugin, over addresses of both families.
    pub fn interface(&self) -> Value {
        json!({
            "cniVersion": "1.1.0", "name": NETWORK, "type": "azure-vnet", "mode": "transparent",
            "ipsToRouteViaHost": ["169.254.20.10"],
            "ipam": {
                "type": "watari-cni",
                "dataDir": self.data,
                "ranges": [[{ "subnet": "10.244.0.0/16" }], [{ "subnet": "fd44::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]
            }
        })
    }

    /// The configuration of the chained plugin for a pod.
    pub fn portmap(pod: &Pod) -> Value {
        let mapping = |protocol| json!({ "hostPort": pod.port, "containerPort": INSIDE, "protocol": protocol });
        json!({
            "cniVersion": "1.1.0", "name": NETWORK, "type": "portmap", "snat": true,
            "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": [mapping("tcp"), mapping("udp")] }
        })
    }

    /// A plugin with the environment of a runtime, without configuration.
    pub fn program(&self, plugin: &str, command: &str, pod: Option<&Pod>) -> Command {
        let mut program = Command::new(self.bin.join(plugin));
        program
            .env_clear()
            .env("CNI_COMMAND", command)
            .env("CNI_PATH", &self.bin);
        if let Some(pod) = pod {
            program
                .env("CNI_CONTAINERID", &pod.container)
                .env("CNI_NETNS", pod.ns.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAME=p");
        }
        program
    }

    /// Executes a plugin in the node's namespace to its end, with a `/run` that goes with it: a
    /// configuration without `dataDir` means the store of the machine itself.
    pub fn run(&self, program: Command, input: &[u8]) -> Ended {
        self.ns.enter(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("make a mount namespace");
            let none = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(none, "/", none, private, none).expect("keep mounts to ourselves");
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)
                .expect("mount a /run of our own");
            run_here(program, input)
        })
    }

    /// Executes a plugin and kills it after a while, unless it ends before.
    pub fn run_for(&self, mut program: Command, input: &[u8], time: Duration) {
        self.ns.enter(|| {
            let mut child = program
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::inherit())
                .spawn()
                .expect("start a plugin");
            let mut stdin = child.stdin.take().expect("its standard input");
            stdin.write_all(input).expect("write its input");
            drop(stdin);
            std::thread::sleep(time);
            child.kill().expect("kill a plugin");
            child.wait().expect("wait for a plugin");
        });
    }

    fn call(&self, plugin: &str, command: &str, pod: Option<&Pod>, conf: &Value) -> Ended {
        let program = self.program(plugin, command, pod);
        self.run(program, conf.to_string().as_bytes())
    }

    /// ADD of the interface plugin.
    pub fn add_interface(&self, pod: &Pod) -> Ended {
        self.call("azure-vnet", "ADD", Some(pod), &self.interface())
    }

    /// ADD of portmap, behind a result of the interface plugin.
    pub fn add_ports(&self, pod: &Pod, result: &Value) -> Ended {
        self.call("portmap", "ADD", Some(pod), &Self::ports_conf(pod, result))
    }

    /// The configuration of portmap with the result before it.
    pub fn ports_conf(pod: &Pod, result: &Value) -> Value {
        let mut conf = Self::portmap(pod);
        conf["prevResult"] = result.clone();
        conf
    }

    /// ADD of the whole list; gives its result.
    #[track_caller]
    pub fn add(&self, pod: &Pod) -> Value {
        let result = self.add_interface(pod).ok();
        self.add_ports(pod, &result).ok()
    }

    /// CHECK of the whole list.
    #[track_caller]
    pub fn check(&self, pod: &Pod, result: &Value) {
        let mut conf = self.interface();
        conf["prevResult"] = result.clone();
        self.call("azure-vnet", "CHECK", Some(pod), &conf).ok();
        let conf = Self::ports_conf(pod, result);
        self.call("portmap", "CHECK", Some(pod), &conf).ok();
    }

    /// DEL of the whole list, last plugin first, as a runtime that has lost its cache does it.
    #[track_caller]
    pub fn del(&self, pod: &Pod) {
        self.call("portmap", "DEL", Some(pod), &Self::portmap(pod))
            .ok();
        self.call("azure-vnet", "DEL", Some(pod), &self.interface())
            .ok();
    }

    /// GC of the whole list.
    #[track_caller]
    pub fn gc(&self, living: &[&Pod]) {
        for (plugin, mut conf) in [
            ("azure-vnet", self.interface()),
            (
                "portmap",
                json!({ "cniVersion": "1.1.0", "name": NETWORK, "type": "portmap" }),
            ),
        ] {
            conf["cni.dev/valid-attachments"] = living.iter().map(|pod| pod.attachment()).collect();
            self.call(plugin, "GC", None, &conf).ok();
        }
    }

    /// Pings a pod's addresses from the node.
    #[track_caller]
    pub fn ping(&self, pod: &Pod) {
        for address in addresses(pod) {
            self.ns.run(&["ping", "-c1", "-W5", "-q", &address]);
        }
    }

    /// Asks the pod's host port from outside, from a port that stays the same, so that an entry
    /// of connection tracking from before would lead it astray.
    #[track_caller]
    pub fn ask_port(&self, pod: &Pod) {
        assert!(self.try_port(pod), "port {} does not answer", pod.port);
    }

    fn try_port(&self, pod: &Pod) -> bool {
        let server = pod.ns.enter(|| UdpSocket::bind(("0.0.0.0", INSIDE)));
        let server = server.expect("listen in the pod");
        let from = SocketAddr::from(([10, 9, 0, 2], pod.port));
        let client = self.outside.enter(|| UdpSocket::bind(from));
        let client = client.expect("listen outside");
        let mut buffer = [0; 16];
        for socket in [&server, &client] {
            let limit = Some(PATIENCE);
            socket.set_read_timeout(limit).expect("limit the wait");
        }
        client
            .send_to(b"ask", (NODE, pod.port))
            .expect("ask the node");
        let Ok((_, asker)) = server.recv_from(&mut buffer) else {
            return false;
        };
        server.send_to(b"answer", asker).expect("answer");
        client.recv_from(&mut buffer).is_ok()
    }

    /// Everything that the plugins may leave, as it is now.
    pub fn state(&self) -> State {
        let lines = |words: &[&str]| lines(&self.ns.run(words));
        let ip = |rest: &str| {
            let words: Vec<&str> = rest.split(' ').collect();
            lines(&[&["ip"][..], &words].concat())
        };
        let mut state = State::from([
            ("links", ip("-br link")),
            ("addresses", ip("-br addr")),
            (
                "mappings",
                mappings(&self.ns.run(&["nft", "list", "ruleset"])),
            ),
        ]);
        state.insert(
            "routes",
            &ip("route show table all") | &ip("-6 route show table all"),
        );
        state.insert("neighbours", ip("neigh show nud permanent"));
        state.insert(
            "proxies",
            &ip("neigh show proxy") | &ip("-6 neigh show proxy"),
        );
        state.insert("flows", self.flows());
        state.extend(self.books());
        state
    }

    /// Connection tracking entries of UDP that were translated to a pod's port.
    fn flows(&self) -> BTreeSet<String> {
        let all = self.ns.run(&["conntrack", "-L", "-p", "udp"]);
        let from_pod = format!("sport={INSIDE} ");
        all.lines()
            .filter(|line| line.contains(&from_pod))
            .map(|line| line.split_whitespace().filter(|word| word.contains('=')))
            .map(|words| words.collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// What the node store holds, and the files of it.
    pub fn books(&self) -> State {
        let names = |dir: &Path| -> BTreeSet<String> {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let mut files = names(&self.data);
        // It stays from the first change on, as a spare.
        files.remove("node.db-journal");
        let mut books = State::new();
        if files.contains(watari_store::FILE) {
            let store = Store::open(&self.data).expect("open the node store");
            let leases = store.leases().expect("read the leases");
            let addresses: BTreeSet<_> = leases.iter().map(|lease| lease.address).collect();
            assert_eq!(addresses.len(), leases.len(), "leased twice: {leases:#?}");
            let endpoints = store
                .read(|tx| tx.endpoints(None))
                .expect("read the endpoints");
            books.insert(
                "leases",
                leases
                    .iter()
                    .map(|lease| format!("{} {}", lease.address, lease.holder))
                    .collect(),
            );
            books.insert(
                "endpoints",
                endpoints.iter().map(|e| e.attachment.to_string()).collect(),
            );
        }
        books.insert("files", files);
        books
    }
}

/// Runs a program in the calling thread's namespaces; one that hangs is killed.
pub fn run_here(mut program: Command, input: &[u8]) -> Ended {
    let mut child = program
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start a plugin");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    let (done, ended) = mpsc::channel::<()>();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || {
            if ended.recv_timeout(HANGS) == Err(RecvTimeoutError::Timeout) {
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let mut stdin = child.stdin.take().expect("its standard input");
        // One that refuses its environment does not read what comes after it.
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().expect("wait for a plugin");
        drop(done);
        output
    });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ended {
        code: output.status.code(),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// The global addresses of a pod's `eth0`, without their prefix lengths.
#[track_caller]
pub fn addresses(pod: &Pod) -> Vec<String> {
    let words = ["ip", "-o", "addr", "show", "dev", "eth0", "scope", "global"];
    let text = pod.ns.run(&words);
    let found: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.split('/').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(found.len(), 2, "{} has {found:?}", pod.container);
    found
}

/// Fails, saying what is more and what is less.
#[track_caller]
pub fn assert_same(before: &State, after: &State, context: &str) {
    let mut found = Vec::new();
    for name in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
        let none = BTreeSet::new();
        let was = before.get(name).unwrap_or(&none);
        let is = after.get(name).unwrap_or(&none);
        found.extend(is.difference(was).map(|line| format!("{name}: + {line}")));
        found.extend(was.difference(is).map(|line| format!("{name}: - {line}")));
    }
    assert!(found.is_empty(), "{context}:\n{}", found.join("\n"));
}

/// Runs `ip` in a namespace, once for each line.
pub fn ip(ns: &Netns, lines: &str) {
    for line in lines.lines().map(str::trim) {
        let words: Vec<&str> = ["ip"].into_iter().chain(line.split_whitespace()).collect();
        ns.run(&words);
    }
}

fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// The elements of a ruleset that say whose they are, whatever their order.
fn mappings(ruleset: &str) -> BTreeSet<String> {
    let pieces = ruleset.split(['\n', ',']);
    pieces
        .filter(|piece| piece.contains(" comment "))
        .map(|piece| piece.trim_matches([' ', '\t', '{', '}']).to_owned())
        .collect()
}
