//! Agents in a lab's nodes, with the real datapath and real pods: what they tell and repair, and
//! that nothing but that ends with them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use watari_e2e::lab::{TestLab, binary};
use watari_e2e::traffic::Traffic;
use watari_e2e::watch::{self, Watch};
use watari_testkit::wait_until;

/// A survey comes every 30 s.
const SURVEY: Duration = Duration::from_secs(45);
const SOON: Duration = Duration::from_secs(10);

fn up(hint: &str) -> TestLab {
    TestLab::up(hint, 2)
}

fn asked(lab: &TestLab, words: &[&str]) -> Vec<Value> {
    watch::asked(lab, &binary("watari"), words)
}

fn status(lab: &TestLab) -> Value {
    asked(lab, &["status"]).remove(0)
}

/// Waits until the agent knows so many pods of the node, and all is well.
fn until_healthy(lab: &TestLab, pods: usize) {
    wait_until(SOON, "a healthy node", || {
        let status = status(lab);
        status["healthy"] == true && status["endpoints"] == pods
    });
}

fn in_pod(lab: &TestLab, pod: &str, words: &[&str]) -> String {
    lab.watari(&[&["lab", "exec", pod, "--"], words].concat())
}

fn on_node(lab: &TestLab, words: &[&str]) -> String {
    lab.watari(&[&["lab", "exec", "--node", "node1", "--"], words].concat())
}

/// Host-side links of the node.
fn links(lab: &TestLab) -> Vec<String> {
    let shown = on_node(lab, &["ls", "/sys/class/net"]);
    let names = shown
        .split_whitespace()
        .filter(|name| name.starts_with("azv"));
    names.map(str::to_owned).collect()
}

#[test]
fn an_agent_tells_of_flows_drops_and_pods_by_name() {
    let lab = up("tells");
    let web = lab.pod("web", "node1");
    lab.pod("client", "node1");
    let far = lab.pod("far", "node2");
    until_healthy(&lab, 2);
    for address in [&web, &far] {
        in_pod(&lab, "client", &["ping", "-c2", "-W2", address]);
    }
    let flows = asked(&lab, &["flows", "--pod", "client", "--address", &far]);
    assert_eq!(flows.len(), 1, "{flows:?}");
    let flow = &flows[0];
    assert_eq!(flow["source"]["pod"], "default/client");
    assert_eq!(flow["destination"]["node"], "node2");
    assert_eq!(flow["original"]["packets"], 2);
    assert_eq!(flow["reply"]["packets"], 2);
    assert_eq!(flow["road"], "direct");
    assert!(asked(&lab, &["flows", "--port", "1"]).is_empty());

    // Who sends from an address that is not its own is told, with the packet.
    let add = ["ip", "address", "add", "192.0.2.77/32", "dev", "eth0"];
    in_pod(&lab, "client", &add);
    let spoof = format!("! ping -c3 -i0.2 -W1 -I 192.0.2.77 {web}");
    in_pod(&lab, "client", &["sh", "-c", &spoof]);
    let example = || {
        let drops = asked(&lab, &["drops", "--reason", "spoofed-address"]).remove(0);
        let link = drops["links"][0].clone();
        (drops["totals"][0]["packets"] == 3 && link["example"].is_object()).then_some(link)
    };
    wait_until(SOON, "the drops to be told", || example().is_some());
    let link = example().expect("an example");
    assert_eq!(link["pod"], "default/client");
    let headers = &link["example"]["headers"];
    assert_eq!(headers["source"], "192.0.2.77");
    assert_eq!(headers["destination"], web.as_str());

    questions_that_are_none_are_refused(&lab);

    // Without an agent the tables still tell.
    lab.watari(&["lab", "agent", "stop"]);
    let alone = asked(&lab, &["flows", "--pod", "client", "--address", &far]);
    assert_eq!(alone.len(), 1, "{alone:?}");
    let drops = asked(&lab, &["drops"]).remove(0);
    assert_eq!(drops["totals"][0]["packets"], 3);
}

/// The socket is root's alone; what it does not understand it says.
fn questions_that_are_none_are_refused(lab: &TestLab) {
    let path = format!("/proc/{}/root/run/watari/agent.sock", lab.node("node1").pid);
    let mode = std::fs::metadata(&path).expect("the socket").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let long = format!("{{{}", "x".repeat(100_000));
    for (question, words) in [
        ("what?", "expected value"),
        (r#"{"schema":1,"ask":"burn"}"#, "unknown variant"),
        (
            r#"{"schema":9,"ask":"status"}"#,
            "schema 9 is not spoken here",
        ),
        (
            r#"{"schema":1,"ask":"flows","filter":{"colour":"red"}}"#,
            "colour",
        ),
        (&long, "key must be"),
    ] {
        let mut stream = UnixStream::connect(&path).expect("connect to the agent");
        stream.set_read_timeout(Some(SOON)).expect("a time to wait");
        // It need not read what is too long to the end.
        let _ = stream.write_all(format!("{question}\n").as_bytes());
        let mut line = String::new();
        BufReader::new(stream)
            .read_line(&mut line)
            .expect("an answer");
        let answer: Value = serde_json::from_str(&line).expect("a line of JSON");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains(words), "{question:.80}: {answer}");
    }
}

#[test]
fn flows_are_followed_as_they_happen() {
    let lab = up("follows");
    let web = lab.pod("web", "node1");
    lab.pod("client", "node1");
    until_healthy(&lab, 2);
    let words = [
        "flows",
        "--follow",
        "--json",
        "--node",
        "node1",
        "--protocol",
        "tcp",
    ];
    let follower = Command::new(binary("watari"))
        .args(words)
        .args(["--lab", lab.name(), "--port", "80"])
        .stdout(Stdio::piped())
        .spawn();
    let mut follower = follower.expect("start watari flows");
    let out = follower.stdout.take().expect("its output");
    let (to, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = BufReader::new(out).lines().map_while(Result::ok);
        lines.for_each(|line| drop(to.send(line)));
    });
    let mut told = Vec::new();
    wait_until(SOON, "the connection to be told of, and its end", || {
        in_pod(
            &lab,
            "client",
            &["curl", "-s", "-m2", &format!("http://{web}/")],
        );
        told.extend(lines.try_iter().map(|line| {
            let row: Value = serde_json::from_str(&line).expect("a line of JSON");
            assert_eq!(row["protocol"], "tcp");
            row["event"].as_str().unwrap_or_default().to_owned()
        }));
        ["created", "closed"]
            .iter()
            .all(|event| told.iter().any(|told| told == event))
    });
    follower.kill().expect("end watari flows");
    follower.wait().expect("wait for watari flows");
}

/// Waits until the node is well and these repairs were told.
fn repaired(lab: &TestLab, all: &[&str]) {
    let end = Instant::now() + SURVEY;
    loop {
        let status = status(lab);
        let told = status["lastRepairs"].to_string();
        if status["healthy"] == true && all.iter().all(|words| told.contains(words)) {
            return;
        }
        assert!(Instant::now() < end, "waited for {all:?}: {status:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn what_was_changed_behind_the_agents_back_is_repaired_and_told() {
    let lab = up("repairs");
    let web = lab.pod("web", "node1");
    lab.pod("client", "node1");
    until_healthy(&lab, 2);
    let link = links(&lab).remove(0);
    let pins = "/sys/fs/bpf/watari/v1";
    for words in [
        format!("ip link set {link} mtu 1300"),
        format!("tc qdisc del dev {link} clsact || true"),
        format!("rm -f {pins}/links/{link}-*"),
        format!("ip route del {web}"),
        "nft delete table inet watari-masquerade".to_owned(),
    ] {
        on_node(&lab, &["sh", "-c", &words]);
    }
    repaired(
        &lab,
        &[
            "MTU is 1300",
            "attach from_pod",
            "attach to_pod",
            "masquerade",
        ],
    );
    in_pod(&lab, "client", &["ping", "-c1", "-W2", &web]);
    // A table that somebody unpinned: all is loaded again.
    on_node(&lab, &["rm", &format!("{pins}/maps/endpoints")]);
    repaired(&lab, &["loaded again"]);
    in_pod(&lab, "client", &["ping", "-c1", "-W2", &web]);
}

#[test]
fn a_second_agent_is_refused_and_a_removed_one_leaves_nothing() {
    let lab = TestLab::of("removed", "{nodes: 2, agent: false}");
    let web = lab.pod("web", "node1");
    lab.pod("client", "node1");
    let holdings = || {
        let link = &links(&lab)[0];
        [
            on_node(&lab, &["ls", "/sys/fs/bpf"]),
            on_node(&lab, &["ip", "route"]),
            on_node(&lab, &["nft", "list", "ruleset"]),
            on_node(&lab, &["tc", "qdisc", "show", "dev", link]),
            on_node(&lab, &["ls", "/run/watari"]),
        ]
    };
    let before = holdings();
    lab.watari(&["lab", "agent", "start"]);
    until_healthy(&lab, 2);
    in_pod(&lab, "client", &["ping", "-c1", "-W2", &web]);
    assert_ne!(holdings(), before);
    let watari = binary("watari");
    let agent = |more: &str| {
        let path = watari.display();
        let words = format!("{path} agent --node node1 {more} 2>&1; echo status $?");
        on_node(&lab, &["sh", "-c", &words])
    };
    for more in ["", "--remove"] {
        let said = agent(more);
        assert!(
            said.contains("runs on this node already") && said.contains("status 2"),
            "{said}"
        );
    }
    lab.watari(&["lab", "agent", "stop"]);
    let said = agent("--remove");
    assert!(said.contains("status 0"), "{said}");
    assert_eq!(holdings(), before);
    in_pod(&lab, "client", &["ping", "-c1", "-W2", &web]);
}

#[test]
fn connections_outlive_the_first_installation_and_become_direct() {
    let lab = TestLab::of("installs", "{nodes: 2, ipv6: true, agent: false}");
    let [one, two] = ["one", "two"].map(|name| lab.pod_of(name, "node1"));
    let far = lab.pod_of("far", "node2");
    let traffic = Traffic::start(&lab, "one", &[("two", &two), ("far", &far)]);
    lab.watari(&["lab", "agent", "start"]);
    traffic.goes_on("installed");
    let build = binary("watari");
    let mut watch = Watch::start(&lab, &build, &one, traffic.connections());
    for flow in watch.flows().filter(|flow| flow["protocol"] == "tcp") {
        assert_eq!(flow["notes"], serde_json::json!(["picked-up"]), "{flow}");
    }
    traffic.goes_on("direct");
    watch.holds(&lab, &build, &one, "at the end");
    traffic.end();
}
