//! Services of an agent in a lab's node: from the folder to connections, and to their end.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use watari_e2e::lab::{TestLab, binary};
use watari_e2e::watch;
use watari_testkit::wait_until;

const SOON: Duration = Duration::from_secs(20);
const ADDRESS: &str = "10.96.0.9";

fn asked(lab: &TestLab, words: &[&str]) -> Vec<Value> {
    watch::asked(lab, &binary("watari"), words)
}

fn service(lab: &TestLab) -> Value {
    asked(lab, &["service", "web"]).remove(0)
}

/// An endpoint, and whether it ends.
type At<'a> = (&'a str, bool);

/// Puts the Service with these endpoints into the folders of both nodes, whole.
fn put(lab: &TestLab, endpoints: &[At<'_>]) {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(address, ends)| {
            format!(
                "- {{addresses: [{address}], conditions: {{ready: {}, serving: true, terminating: {ends}}}}}\n",
                !ends
            )
        })
        .collect();
    let endpoints = endpoints.concat();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web}}\nspec: {{clusterIP: {ADDRESS}, clusterIPs: \
         [{ADDRESS}], ports: [{{name: raw, port: 81}}]}}\n---\napiVersion: discovery.k8s.io/v1\nkind: \
         EndpointSlice\nmetadata: {{name: web-1, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: [{{name: raw, port: 81}}]\nendpoints:\n{endpoints}"
    );
    let script = format!(
        "cat > /run/watari/cluster/.new <<'END'\n{text}END\nmv /run/watari/cluster/.new /run/watari/cluster/web.yaml"
    );
    for node in ["node1", "node2"] {
        lab.watari(&["lab", "exec", "--node", node, "--", "sh", "-c", &script]);
    }
}

/// Lets a pod answer at port 81 with its name.
fn serve(lab: &TestLab, pod: &str) {
    let watari = binary("watari");
    let server = format!(
        "setsid {} echo --tcp 81 --name default/{pod} </dev/null >/dev/null 2>&1 &",
        watari.display()
    );
    lab.watari(&["lab", "exec", pod, "--", "sh", "-c", &server]);
    wait_until(SOON, "a server", || {
        let listens = "ss -Hltn sport = :81";
        !lab.watari(&["lab", "exec", pod, "--", "sh", "-c", listens])
            .is_empty()
    });
}

/// A client that opens a connection to the Service, and tells what becomes of it.
struct Client {
    process: Child,
    lines: BufReader<ChildStdout>,
}

const CLIENT: &str = "
import socket, sys
s = socket.create_connection(('10.96.0.9', 81))
hello = s.recv(1000).decode()
print(s.getpeername()[0], [p for p in ('one', 'two') if 'default/' + p in hello][0], flush=True)
try:
    s.recv(1)
    print('closed', flush=True)
except OSError as error:
    print(error.errno, flush=True)
";

impl Client {
    /// In a pod or on a node: gives also who answered.
    fn start(lab: &TestLab, place: &[&str]) -> (Self, String) {
        let mut process = Command::new(binary("watari"))
            .args(["lab", "exec", "--lab", lab.name()])
            .args(place)
            .args(["--", "python3", "-c", CLIENT])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a client");
        let mut lines = BufReader::new(process.stdout.take().expect("its output"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("its first line");
        let (peer, who) = line.trim().split_once(' ').expect("peer and who");
        // The client never hears of any other address.
        assert_eq!(peer, ADDRESS);
        let who = who.to_owned();
        (Self { process, lines }, who)
    }

    /// What became of the connection: waits until something does.
    fn end(mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("its last line");
        self.process.wait().expect("its end");
        line.trim().to_owned()
    }

    fn lives(&mut self) -> bool {
        self.process.try_wait().expect("its state").is_none()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Connections until both endpoints have some, from a pod and from the node.
fn clients(lab: &TestLab) -> Vec<(Client, String)> {
    let mut all = Vec::new();
    for place in [&["client"][..], &["--node", "node1"]] {
        let mut met = std::collections::BTreeSet::new();
        while met.len() < 2 {
            assert!(all.len() < 80, "one endpoint is never chosen");
            let (client, who) = Client::start(lab, place);
            met.insert(who.clone());
            all.push((client, who));
        }
    }
    all
}

#[test]
fn a_service_is_reached_drains_and_its_clients_are_told() {
    let lab = TestLab::up("svc", 2);
    lab.pod("client", "node1");
    let (one, two) = (lab.pod("one", "node1"), lab.pod("two", "node2"));
    for pod in ["one", "two"] {
        serve(&lab, pod);
    }
    put(&lab, &[(&one, false), (&two, false)]);
    wait_until(SOON, "two endpoints", || {
        asked(&lab, &["service"])
            .first()
            .is_some_and(|row| row["ready"] == 2)
    });
    let mut clients = clients(&lab);
    let detail = service(&lab);
    assert_eq!(detail["schema"], 1);
    let part = &detail["balancers"][0];
    assert_eq!(part["frontends"][0]["kind"], "ClusterIP");
    assert_eq!(part["frontends"][0]["programmed"], true);
    let counts = part["backends"].as_array().expect("backends").iter();
    let all: u64 = counts
        .filter_map(|backend| backend["connections"].as_u64())
        .sum();
    assert_eq!(all, clients.len() as u64, "{detail}");

    // It ends: nobody new gets there, and who is connected goes on.
    put(&lab, &[(&one, true), (&two, false)]);
    wait_until(SOON, "one to drain", || service(&lab)["ready"] == 1);
    let detail = service(&lab);
    let backends = detail["balancers"][0]["backends"]
        .as_array()
        .expect("backends");
    let draining = backends
        .iter()
        .find(|backend| backend["address"] == one.as_str());
    let draining = draining.expect("the one that drains");
    assert_eq!(draining["state"], "serving, terminating");
    assert!(
        draining["unused"]
            .as_str()
            .is_some_and(|why| why.contains("others are ready"))
    );
    assert!(draining["connections"].as_u64() > Some(0), "{detail}");
    for _ in 0..6 {
        assert_eq!(Client::start(&lab, &["client"]).1, "two");
    }
    assert!(clients.iter_mut().all(|(client, _)| client.lives()));

    // It is gone: those that were connected to it are told, and nobody else.
    put(&lab, &[(&two, false)]);
    let (told, others): (Vec<_>, Vec<_>) = clients.into_iter().partition(|(_, who)| who == "one");
    for (client, _) in told {
        assert_eq!(client.end(), "103", "ECONNABORTED");
    }
    for (mut client, _) in others {
        assert!(client.lives());
    }
    let log = lab.watari(&["lab", "agent", "log", "node1"]);
    assert!(log.contains("ended what led to removed endpoints"), "{log}");
}

#[test]
fn an_agent_that_is_killed_leaves_its_services_and_changes_none_when_it_comes_back() {
    let lab = TestLab::up("svckill", 1);
    lab.pod("client", "node1");
    let one = lab.pod("one", "node1");
    serve(&lab, "one");
    let script = ["lab", "exec", "--node", "node1", "--", "sh", "-c"];
    // `put` knows two nodes.
    let text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: \
        {clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9], ports: [{name: raw, port: 81}]}}\n- {apiVersion: \
        discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: web-1, labels: {kubernetes.io/service-name: \
        web}}, addressType: IPv4, ports: [{name: raw, port: 81}], endpoints: [{addresses: [ADDRESS]}]}\n";
    let text = text.replace("ADDRESS", &one);
    let write = format!("cat > /run/watari/cluster/web.yaml <<'END'\n{text}END\n");
    lab.watari(&[&script[..], &[&write]].concat());
    let ready = || {
        asked(&lab, &["service"])
            .first()
            .is_some_and(|row| row["ready"] == 1)
    };
    wait_until(SOON, "the endpoint", ready);
    let (mut client, _) = Client::start(&lab, &["client"]);

    lab.watari(&["lab", "agent", "kill"]);
    let (mut second, who) = Client::start(&lab, &["client"]);
    assert_eq!(who, "one", "without an agent");
    lab.watari(&["lab", "agent", "start"]);
    wait_until(SOON, "the agent's first sync", || {
        let status = asked(&lab, &["status"]).remove(0);
        status["healthy"] == true && status["services"]["syncedSecondsAgo"].is_number()
    });
    let metrics = [
        &script[..5],
        &["curl", "-s", "http://127.0.0.1:10249/metrics"],
    ]
    .concat();
    let text = lab.watari(&metrics);
    assert!(text.contains("watari_service_writes_total 0\n"), "{text}");
    assert!(text.contains("watari_services 1\n"), "{text}");
    assert!(client.lives() && second.lives());
    let health = [
        &script[..5],
        &[
            "curl",
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "http://127.0.0.1:10256/healthz",
        ],
    ]
    .concat();
    assert_eq!(lab.watari(&health), "200");
}
