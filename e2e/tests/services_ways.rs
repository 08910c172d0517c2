//! Every way to a Service of a lab with agents: ordinary manifests, real clients, and who is seen by whom.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use watari_e2e::clients::{At, Churn, Said, Talk, ask, pod_of, pods_of, service};
use watari_e2e::lab::{TestLab, binary};
use watari_testkit::wait_until;

const SOON: Duration = Duration::from_secs(40);
/// Questions until each endpoint has answered: that one of three is never chosen in so many is one in 10^10.
const QUESTIONS: usize = 60;

/// `talk` has an endpoint on each node; `near` has one on node2, and keeps to it.
const SERVICES: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: talk}
spec:
  replicas: 3
  selector: {matchLabels: {app: talk}}
  template:
    metadata: {labels: {app: talk}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: c
        command: [watari, echo, --http, '8080', --tcp, '7']
        ports: [{name: http, containerPort: 8080}, {name: talk, containerPort: 7}]
        readinessProbe: {tcpSocket: {port: talk}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 2}}}
---
apiVersion: v1
kind: Service
metadata: {name: talk}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: talk}
  ports: [{name: http, port: 80, targetPort: http}, {name: talk, port: 7, targetPort: talk}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: near}}
spec: {nodeName: node2, containers: [{name: c, command: [watari, echo, --http, '8080']}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node1, containers: [{name: c}]}
---
apiVersion: v1
kind: Service
metadata: {name: near}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  ipFamilyPolicy: PreferDualStack
  selector: {app: near}
  ports: [{port: 80, targetPort: 8080}]
";

/// A lab with these Services, which every node has programmed.
fn up(hint: &str, fields: &str) -> TestLab {
    let lab = TestLab::of(hint, fields);
    let dir = tempfile::tempdir().expect("make a folder");
    let file = dir.path().join("services.yaml");
    std::fs::write(&file, SERVICES).expect("write the manifests");
    lab.watari(&["lab", "apply", "-f", &file.to_string_lossy()]);
    for node in nodes(&lab) {
        ready(&lab, &node, "talk", 3);
        ready(&lab, &node, "near", 1);
    }
    lab
}

/// The nodes with their addresses, IPv4 first.
fn addresses(lab: &TestLab) -> BTreeMap<String, Vec<IpAddr>> {
    let mut found = BTreeMap::new();
    for pod in watari_e2e::clients::pods(lab) {
        let node = pod["node"].as_str().expect("a node").to_owned();
        let ips = serde_json::from_value(pod["hostIPs"].clone());
        found.insert(node, ips.expect("addresses"));
    }
    found
}

fn nodes(lab: &TestLab) -> Vec<String> {
    addresses(lab).into_keys().collect()
}

/// `watari service NAME --json` at a node; none while the agent has not heard of it.
fn told(lab: &TestLab, node: &str, name: &str) -> Option<Value> {
    let words = [
        "service",
        name,
        "--json",
        "--lab",
        lab.name(),
        "--node",
        node,
    ];
    let output = Command::new(binary("watari")).args(words).output();
    serde_json::from_slice(&output.expect("start watari").stdout).ok()
}

fn ready(lab: &TestLab, node: &str, name: &str, count: usize) {
    wait_until(SOON, &format!("{count} of {name} on {node}"), || {
        told(lab, node, name).is_some_and(|told| {
            let families = told["clusterIps"].as_array().map_or(0, Vec::len);
            // Addresses, not pods; none of them drains any more.
            told["ready"] == count * families && told["total"] == told["ready"]
        })
    });
}

/// Addresses of a Service, IPv4 first.
fn cluster_ips(lab: &TestLab, name: &str) -> Vec<IpAddr> {
    let ips = service(lab, name)["spec"]["clusterIPs"].clone();
    serde_json::from_value(ips).expect("addresses")
}

fn node_port(lab: &TestLab, name: &str, port: u64) -> u16 {
    let service = service(lab, name);
    let mut ports = service["spec"]["ports"].as_array().expect("ports").iter();
    let found = ports.find(|one| one["port"] == port).expect("the port");
    let number = found["nodePort"].as_u64().expect("a node port");
    u16::try_from(number).expect("a port")
}

/// Asks until every endpoint has answered; each question is answered.
fn all_three(lab: &TestLab, from: At<'_>, to: SocketAddr) -> Vec<Said> {
    let (mut said, mut names) = (Vec::new(), BTreeSet::new());
    while names.len() < 3 {
        assert!(said.len() < QUESTIONS, "{from:?} to {to}: only {names:?}");
        let answer = ask(lab, from, to);
        let answer = answer.unwrap_or_else(|| panic!("{from:?} to {to}: no answer"));
        names.insert(answer.name.clone());
        said.push(answer);
    }
    said
}

/// Host `outside` to the node port of each node: it is seen by itself where the endpoint is on that node, else
/// the node is seen.
fn node_ports_from_outside(lab: &TestLab, outside: &[IpAddr]) {
    let port = node_port(lab, "talk", 80);
    for (node, ips) in addresses(lab) {
        for (ip, outside) in ips.iter().zip(outside) {
            for said in all_three(lab, At::Lab("outside"), SocketAddr::new(*ip, port)) {
                let seen = if said.node == node { outside } else { ip };
                assert_eq!(said.peer, *seen, "{node} at {ip}: {said:?}");
            }
        }
    }
}

/// Pods and nodes to the cluster address: nobody but themselves is seen.
fn cluster_address_from_inside(lab: &TestLab) {
    let nodes = addresses(lab);
    let pod = pod_of(lab, "client");
    let own: Vec<IpAddr> = serde_json::from_value(pod["podIPs"].clone()).expect("addresses");
    let families = cluster_ips(lab, "talk");
    for (at, ip) in families.iter().enumerate() {
        let to = SocketAddr::new(*ip, 80);
        let clients = [
            (At::Lab("client"), own[at], "balanced-at-socket"),
            (At::Network("client"), own[at], "balanced"),
            (At::Lab("node1"), nodes["node1"][at], "balanced-at-socket"),
        ];
        for (from, seen, way) in clients {
            let before = counter(lab, way);
            let said = all_three(lab, from, to);
            assert!(
                said.iter().all(|said| said.peer == seen),
                "{from:?}: {said:?}"
            );
            let more = counter(lab, way) - before;
            // A node's process is given its endpoint before there is a packet, and is no pod's packet then.
            let counted = matches!(from, At::Lab("node1")) || more >= said.len() as u64;
            assert!(counted, "{from:?} to {to}: {way} grew by {more}");
        }
    }
}

fn counter(lab: &TestLab, name: &str) -> u64 {
    let status = lab.watari(&["status", "--json", "--node", "node1"]);
    let status: Value = serde_json::from_str(&status).expect("JSON");
    status["counters"][name]["packets"]
        .as_u64()
        .unwrap_or_default()
}

/// Keeps to its node: the client is seen by itself, other nodes are silent to who is outside, not to who is inside.
fn a_local_service(lab: &TestLab, outside: &[IpAddr]) {
    let port = node_port(lab, "near", 80);
    let nodes = addresses(lab);
    let balancers = &service(lab, "near")["status"]["loadBalancer"]["ingress"];
    for (at, outside) in outside.iter().enumerate() {
        let to = SocketAddr::new(nodes["node2"][at], port);
        let said = ask(lab, At::Lab("outside"), to).expect("an answer of its node");
        assert_eq!((said.name.as_str(), said.peer), ("near", *outside));
        let elsewhere = SocketAddr::new(nodes["node1"][at], port);
        assert_eq!(ask(lab, At::Lab("outside"), elsewhere), None);
        assert!(ask(lab, At::Lab("client"), elsewhere).is_some());
        assert!(ask(lab, At::Network("client"), elsewhere).is_some());
        let Some(balancer) = balancers[at]["ip"].as_str() else {
            continue; // No pool on `azure`.
        };
        // Its address leads to node1, until somebody announces it where its endpoints are.
        let to = SocketAddr::new(balancer.parse().expect("an address"), 80);
        assert_eq!(ask(lab, At::Lab("outside"), to), None);
        assert!(ask(lab, At::Lab("client"), to).is_some());
        let via = nodes["node2"][at].to_string();
        let route = [
            "lab", "exec", "outside", "--", "ip", "route", "replace", balancer, "via", &via,
        ];
        lab.watari(&route);
        let said = ask(lab, At::Lab("outside"), to).expect("an answer by its node");
        assert_eq!((said.name.as_str(), said.peer), ("near", *outside));
    }
    assert!(drops(lab).contains("no-local-endpoint"), "{}", drops(lab));
    health_of_a_local_service(lab);
}

fn drops(lab: &TestLab) -> String {
    lab.watari(&["drops", "--node", "node1"])
}

/// What a load balancer asks each node.
fn health_of_a_local_service(lab: &TestLab) {
    let port = service(lab, "near")["spec"]["healthCheckNodePort"].clone();
    for (node, code, local) in [("node1", "503", 0), ("node2", "200", 1)] {
        let url = format!("http://{}:{port}/", addresses(lab)[node][0]);
        let words = [
            "lab",
            "exec",
            "outside",
            "--",
            "curl",
            "-s",
            "-m3",
            "-w",
            "\n%{http_code}",
            &url,
        ];
        let said = lab.watari(&words);
        let (body, status) = said.rsplit_once('\n').expect("a body and a status");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(
            (status, &body["localEndpoints"]),
            (code, &Value::from(local))
        );
        assert_eq!(body["service"]["name"], "near");
        assert_eq!(body["serviceProxyHealthy"], true);
    }
}

/// What the tools say of it.
fn is_told(lab: &TestLab) {
    let page = lab.watari(&["service", "talk", "--node", "node1"]);
    for part in ["NodePort", " endpoints ready", "ClusterIP", "node3"] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let detail = told(lab, "node1", "talk").expect("the Service");
    let frontends = detail["balancers"].as_array().expect("balancers").iter();
    let mut frontends = frontends.flat_map(|one| one["frontends"].as_array().expect("frontends"));
    assert!(frontends.all(|one| one["programmed"] == true), "{detail}");
    let address = cluster_ips(lab, "talk")[0];
    its_connection_is_told(lab, SocketAddr::new(address, 7));

    let to = format!("{address}:80");
    let words = ["trace", "--json", "--reply", "client", &to];
    let trace: Value = serde_json::from_str(&lab.watari(&words)).expect("a trace");
    let last = trace["reply"]["hops"]
        .as_array()
        .and_then(|hops| hops.last());
    let verdict = &last.expect("the reply")["verdict"]["verdict"];
    assert_eq!(verdict, "deliver", "{trace:#}");
    let text = lab.watari(&["trace", "client", &to]);
    let told = text.contains("Service") && text.contains("Delivered to default/talk");
    assert!(told, "{text}");
}

/// A connection of a pod that was given its endpoint at its socket.
fn its_connection_is_told(lab: &TestLab, to: SocketAddr) {
    let client = pod_of(lab, "client")["podIPs"][0].clone();
    let mut talk = Talk::start(lab, At::Lab("client"), to);
    talk.goes_on("before it is looked for");
    let of = ["--service", "talk", "--pod", "client"];
    let flows = lab.watari(&[&["flows", "--json", "--node", "node1"], &of[..]].concat());
    let flows = flows
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let flows: Vec<Value> = flows.collect();
    let is_it = |flow: &&Value| flow["translation"]["destination"] == to.to_string();
    let found = flows.iter().find(is_it);
    let found = found.unwrap_or_else(|| panic!("no flow in {flows:#?}"));
    assert_eq!(found["translation"]["name"], "default/talk:talk");
    assert_eq!(found["translation"]["kind"], "socket");
    assert_eq!(found["source"]["address"], client);
}

/// What kube-proxy would answer.
fn health_and_metrics(lab: &TestLab) {
    let get = |url: &str| lab.watari(&["lab", "exec", "node1", "--", "curl", "-sf", "-m3", url]);
    assert!(get("http://127.0.0.1:10256/healthz").contains("\"nodeEligible\": true"));
    assert!(!get("http://127.0.0.1:10256/livez").is_empty());
    let metrics = get("http://127.0.0.1:10249/metrics");
    let count = "kubeproxy_sync_proxy_rules_duration_seconds_count";
    for part in ["watari_services 2\n", count] {
        assert!(metrics.contains(part), "{part} in {metrics}");
    }
}

#[test]
fn a_service_is_reached_from_everywhere_on_a_switch() {
    let lab = up("waysl2", "{fabric: l2, ipv6: true, nodes: 3}");
    let outside = ["10.240.0.3", "fd10:240::3"].map(|ip| ip.parse().expect("an address"));
    node_ports_from_outside(&lab, &outside);
    cluster_address_from_inside(&lab);
    a_local_service(&lab, &outside);
    is_told(&lab);
    health_and_metrics(&lab);
}

#[test]
fn a_service_is_reached_from_everywhere_on_azure() {
    let lab = up("waysaz", "{nodes: 3}");
    // Its place: `outside` is a NIC of the network, and its address is one that the SDN carries.
    let said = lab.watari(&["lab", "exec", "outside", "--", "hostname", "-I"]);
    let outside = said.split_whitespace().next().expect("an address");
    let outside = [outside.parse().expect("an address")];
    node_ports_from_outside(&lab, &outside);
    cluster_address_from_inside(&lab);
    let port = node_port(&lab, "talk", 80);
    for ips in addresses(&lab).values() {
        for from in [At::Lab("node1"), At::Lab("client"), At::Network("client")] {
            all_three(&lab, from, SocketAddr::new(ips[0], port));
        }
    }
    a_local_service(&lab, &outside);
    is_told(&lab);
    health_and_metrics(&lab);
}

/// Connections by every way, from `client`, from a node and from outside.
fn talks(lab: &TestLab) -> Vec<Talk> {
    let port = node_port(lab, "talk", 7);
    let nodes = addresses(lab);
    let mut all = Vec::new();
    for (at, ip) in cluster_ips(lab, "talk").into_iter().enumerate() {
        let cluster = SocketAddr::new(ip, 7);
        let near = SocketAddr::new(nodes["node1"][at], port);
        let far = SocketAddr::new(nodes["node3"][at], port);
        for (from, to) in [
            (At::Lab("client"), cluster),
            (At::Network("client"), cluster),
            (At::Lab("node1"), cluster),
            (At::Lab("outside"), near),
            (At::Lab("outside"), far),
        ] {
            all.extend((0..3).map(|_| Talk::start(lab, from, to)));
        }
    }
    all
}

#[test]
fn no_connection_is_lost_while_agents_are_killed_and_come_back() {
    let lab = up("wayskill", "{fabric: l2, ipv6: true, nodes: 3}");
    let mut before = talks(&lab);
    lab.watari(&["lab", "agent", "kill"]);
    let mut without = talks(&lab);
    for talk in before.iter_mut().chain(&mut without) {
        talk.goes_on("without agents");
    }
    lab.watari(&["lab", "agent", "start"]);
    for node in nodes(&lab) {
        ready(&lab, &node, "talk", 3);
    }
    let mut after = talks(&lab);
    for talk in before.iter_mut().chain(&mut without).chain(&mut after) {
        talk.goes_on("with new agents");
    }
    // They found everything as it should be.
    for node in nodes(&lab) {
        let words = [
            "lab",
            "exec",
            &node,
            "--",
            "curl",
            "-s",
            "http://127.0.0.1:10249/metrics",
        ];
        let metrics = lab.watari(&words);
        assert!(
            metrics.contains("watari_service_writes_total 0\n"),
            "{node}: {metrics}"
        );
    }
}

#[test]
fn endpoints_come_and_go_and_no_client_is_refused() {
    let lab = up("wayschurn", "{fabric: l2, ipv6: true, nodes: 3}");
    let cluster = cluster_ips(&lab, "talk")
        .into_iter()
        .map(|ip| SocketAddr::new(ip, 7));
    let nodes = addresses(&lab);
    let port = node_port(&lab, "talk", 7);
    let mut clients = Vec::new();
    for (at, cluster) in cluster.enumerate() {
        for (from, to) in [
            (At::Lab("client"), cluster),
            (At::Network("client"), cluster),
            (At::Lab("node1"), cluster),
            (
                At::Lab("outside"),
                SocketAddr::new(nodes["node1"][at], port),
            ),
        ] {
            clients.push(Churn::start(&lab, from, to));
        }
    }
    let all = |count: usize| {
        nodes
            .keys()
            .for_each(|node| ready(&lab, node, "talk", count))
    };
    lab.watari(&["lab", "scale", "deployment/talk", "--replicas", "1"]);
    all(1);
    lab.watari(&["lab", "scale", "deployment/talk", "--replicas", "3"]);
    all(3);
    let first = pods_of(&lab, "talk").remove(0);
    let first = first["name"].as_str().expect("a name").to_owned();
    lab.delete(&["pod", &first]);
    all(3);
    for client in clients {
        let who = client.end();
        assert!(who.len() >= 4, "it met old and new endpoints: {who:?}");
    }
}
