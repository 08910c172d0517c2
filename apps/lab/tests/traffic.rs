//! Services of a lab with agents: whom clients reach, and that nothing is lost while pods come and go.

mod common;

use std::process::{Child, Stdio};
use std::time::Duration;

use common::TestLab;
use serde_json::Value;
use watari_testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(30);

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: c
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  ipFamilyPolicy: PreferDualStack
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {nodeName: node2, containers: [{name: c, command: [sleep, '1000']}]}
";

/// Asks until a file comes; then says how often it was answered, and how often not.
const ASK: &str = "ok=0; bad=0
while [ ! -e /tmp/STOP ]; do
  if curl -gsf -m3 -o /dev/null http://HOST/; then ok=$((ok+1)); else bad=$((bad+1)); fi
done
echo $ok $bad";

fn cluster_ips(lab: &TestLab) -> Vec<String> {
    let output = lab.try_watari(&["get", "services", "--json"]);
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ips = all["services"][0]["spec"]["clusterIPs"].clone();
    let ips: Vec<String> = serde_json::from_value(ips).expect("addresses");
    let bracketed = |ip: String| {
        if ip.contains(':') {
            format!("[{ip}]")
        } else {
            ip
        }
    };
    ips.into_iter().map(bracketed).collect()
}

#[test]
fn a_service_answers_while_its_pods_are_renewed_and_scaled() {
    let lab = TestLab::up("traffic", "{fabric: l2, ipv6: true, nodes: 2}");
    lab.watari(&["apply", "-f", &lab.file("web.yaml", WEB)]);
    let hosts = cluster_ips(&lab);
    assert_eq!(hosts.len(), 2);
    for host in &hosts {
        for from in ["client", "node1", "node2"] {
            let curl = format!("curl -gsf -m3 http://{host}/");
            wait_until(DEADLINE, "the Service answers", || {
                lab.sh_works(from, &curl)
            });
            let said = lab.sh(from, &curl);
            assert!(said.contains("\"name\":\"default/web-"), "{said}");
        }
    }

    let stop = format!("stop-{}", lab.name);
    let asks = hosts.iter().map(|host| {
        let line = ASK.replace("STOP", &stop).replace("HOST", host);
        let mut ask = lab.command(&["exec", "client", "--", "sh", "-c", &line]);
        ask.stdout(Stdio::piped()).spawn().expect("start watari")
    });
    let asks: Vec<_> = asks.collect();
    let new = WEB.replace("containerPort: 8080", "containerPort: 8081");
    lab.watari(&["apply", "-f", &lab.file("web.yaml", &new)]);
    lab.watari(&["scale", "web", "--replicas", "4"]);
    lab.watari(&["scale", "web", "--replicas", "1"]);
    let file = std::path::Path::new("/tmp").join(&stop);
    std::fs::write(&file, "").expect("write a file");
    let said = asks.into_iter().map(Child::wait_with_output);
    let said: Vec<_> = said.collect();
    std::fs::remove_file(&file).expect("remove the file");
    for output in said {
        let output = output.expect("wait for the client");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut counts = text.split_whitespace().map(str::parse::<u32>);
        let (ok, bad) = (counts.next(), counts.next());
        assert!(matches!(ok, Some(Ok(20..))), "{text}");
        assert_eq!(bad, Some(Ok(0)), "{text}");
    }
}
