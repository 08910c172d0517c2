//! The lab as control plane: Services, EndpointSlices and Deployments from ordinary manifests.

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::TestLab;
use serde_json::Value;
use watari_testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(30);

const WEB: &str = "apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: c
        ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  selector: {app: web}
  ports:
  - {name: http, port: 80, targetPort: http}
  - {name: dns, port: 53, protocol: UDP, targetPort: 5353}
";

/// `watari lab get KIND --json`, its objects.
fn get(lab: &TestLab, kind: &str) -> Vec<Value> {
    let output = lab.try_watari(&["get", kind, "--json"]);
    let all: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    all[kind].as_array().expect("a list").clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

fn one(lab: &TestLab, kind: &str, name: &str) -> Option<Value> {
    let all = get(lab, kind).into_iter();
    all.into_iter().find(|one| one["metadata"]["name"] == name)
}

fn pods(lab: &TestLab) -> BTreeSet<String> {
    let pods = get(lab, "pods").into_iter();
    pods.map(|pod| pod["name"].as_str().expect("a name").to_owned())
        .collect()
}

/// The endpoints that the node is told, with their conditions: ready, serving, terminating.
fn told(lab: &TestLab, node: &str, service: &str) -> Vec<(String, bool, bool, bool)> {
    let file = format!("/run/watari/cluster/service-default_{service}.json");
    let output = lab.try_watari(&["exec", node, "--", "cat", &file]);
    let Ok(list) = serde_json::from_slice::<Value>(&output.stdout) else {
        return Vec::new();
    };
    let items = list["items"].as_array().expect("items");
    let slices = items.iter().filter(|item| item["kind"] == "EndpointSlice");
    let mut found = Vec::new();
    for slice in slices {
        for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
            let is = |name: &str| endpoint["conditions"][name] == true;
            let address = endpoint["addresses"][0].as_str().expect("an address");
            found.push((
                address.to_owned(),
                is("ready"),
                is("serving"),
                is("terminating"),
            ));
        }
    }
    found.sort();
    found
}

fn addresses(lab: &TestLab) -> BTreeSet<String> {
    let pods = get(lab, "pods").into_iter();
    pods.map(|pod| pod["podIPs"][0].as_str().expect("an address").to_owned())
        .collect()
}

#[test]
fn a_deployment_and_its_service_live_from_apply_to_delete() {
    let lab = TestLab::plain("svc", "{fabric: l2, nodes: 2, zones: [a, b]}");
    let file = lab.file("web.yaml", WEB);
    let said = lab.watari(&["apply", "-f", &file]);
    assert!(said.contains("service default/web: created"), "{said}");
    assert!(said.contains("deployment default/web: created"), "{said}");

    // Names as kubectl shows them, spread over the nodes, and owned.
    let before = pods(&lab);
    assert_eq!(before.len(), 3);
    for pod in get(&lab, "pods") {
        let name = pod["name"].as_str().unwrap();
        let parts: Vec<usize> = name.split('-').map(str::len).collect();
        assert_eq!(parts, [3, 10, 5], "{name}");
        assert_eq!(pod["owner"]["kind"], "Deployment");
        assert_eq!(pod["labels"]["app"], "web");
    }

    let cluster_ip = has_what_an_api_server_gives(&lab);
    every_node_is_told(&lab);

    // Applied again, nothing changes; tables name it.
    let said = lab.watari(&["apply", "-f", &file]);
    assert!(said.contains("service default/web: unchanged"), "{said}");
    assert!(said.contains("deployment default/web: unchanged"), "{said}");
    assert_eq!(pods(&lab), before);
    let page = lab.watari(&["get", "svc,endpointslices,deployments,pods", "-o", "wide"]);
    for part in [
        cluster_ip.as_str(),
        "LoadBalancer",
        "3/3",
        "app=web",
        "IPv4",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }

    // Fewer, more.
    lab.watari(&["scale", "deployment/web", "--replicas", "1"]);
    assert_eq!(pods(&lab).len(), 1);
    assert!(pods(&lab).is_subset(&before));
    assert_eq!(told(&lab, "node2", "web").len(), 1);
    lab.watari(&["scale", "web", "--replicas", "2"]);
    assert_eq!((pods(&lab).len(), told(&lab, "node1", "web").len()), (2, 2));

    // A pod that is deleted is replaced.
    let two = pods(&lab);
    lab.watari(&["delete", "pod", two.first().unwrap()]);
    let after = pods(&lab);
    assert_eq!((after.len(), after.intersection(&two).count()), (2, 1));

    lab.watari(&["delete", "-f", &file]);
    assert_eq!(pods(&lab).len(), 0);
    let left = lab.sh("node1", "ls /run/watari/cluster");
    assert_eq!(left, "nodes.yaml\nservicecidr.yaml\n");
    assert!(!lab.try_watari(&["delete", "svc/web"]).status.success());
}

/// Answers the cluster address.
fn has_what_an_api_server_gives(lab: &TestLab) -> String {
    let service = one(lab, "services", "web").expect("a Service");
    let spec = service["spec"].clone();
    let cluster_ip = text(&spec["clusterIP"]);
    assert!(cluster_ip.starts_with("10.96."), "{cluster_ip}");
    assert_eq!(spec["ipFamilies"], serde_json::json!(["IPv4"]));
    let ingress = &service["status"]["loadBalancer"]["ingress"];
    assert!(text(&ingress[0]["ip"]).starts_with("10.100.0."));
    let in_range = |port: &Value| (30_000..=32_767).contains(&port.as_i64().expect("a port"));
    assert!(in_range(&spec["ports"][0]["nodePort"]) && in_range(&spec["ports"][1]["nodePort"]));
    assert!(in_range(&spec["healthCheckNodePort"]));
    cluster_ip
}

/// The same: each pod, ready, with its node and zone.
fn every_node_is_told(lab: &TestLab) {
    let ready: Vec<_> = addresses(lab)
        .into_iter()
        .map(|address| (address, true, true, false))
        .collect();
    for node in ["node1", "node2"] {
        assert_eq!(told(lab, node, "web"), ready);
    }
    let slices = get(lab, "endpointslices");
    let ports = &slices[0]["ports"];
    let named = |name: &str| {
        let mut all = ports.as_array().expect("ports").iter();
        all.find(|port| port["name"] == name).expect("a port")["port"].clone()
    };
    assert_eq!((named("http"), named("dns")), (8080.into(), 5353.into()));
    for endpoint in slices[0]["endpoints"].as_array().expect("endpoints") {
        let zone = if endpoint["nodeName"] == "node1" {
            "a"
        } else {
            "b"
        };
        assert_eq!(endpoint["zone"], zone);
        assert_eq!(endpoint["targetRef"]["kind"], "Pod");
    }
}

fn service(name: &str, rest: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  ports: [{{port: 80}}]\n{rest}---\n"
    )
}

/// The exit status, and what was complained of.
fn try_apply(lab: &TestLab, text: &str) -> (Option<i32>, String) {
    let file = lab.file("s.yaml", text);
    let output = lab.try_watari(&["apply", "-f", &file]);
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), words)
}

fn ips(lab: &TestLab, name: &str) -> Value {
    one(lab, "services", name).expect("a Service")["spec"]["clusterIPs"].clone()
}

#[test]
fn an_address_once_given_stays() {
    let lab = TestLab::plain("stay", "{fabric: l2, ipv6: true, nodes: 1}");
    assert_eq!(
        try_apply(&lab, &service("a", "  type: LoadBalancer\n")).0,
        Some(0)
    );
    let first = one(&lab, "services", "a").unwrap();
    // More is asked for: what was given stays, and the other family joins it.
    let dual = service(
        "a",
        "  type: LoadBalancer\n  ipFamilyPolicy: PreferDualStack\n  selector: {a: b}\n",
    );
    assert_eq!(try_apply(&lab, &dual).0, Some(0));
    let second = one(&lab, "services", "a").unwrap();
    for path in [
        "/spec/clusterIP",
        "/spec/ports/0/nodePort",
        "/metadata/creationTimestamp",
        "/status/loadBalancer/ingress/0/ip",
    ] {
        assert_eq!(first.pointer(path), second.pointer(path), "{path}");
        assert!(first.pointer(path).is_some(), "{path}");
    }
    assert_eq!(
        second["spec"]["ipFamilies"],
        serde_json::json!(["IPv4", "IPv6"])
    );
    assert!(
        ips(&lab, "a")[1]
            .as_str()
            .unwrap()
            .starts_with("fd00:10:96::")
    );
    assert_eq!(
        second["status"]["loadBalancer"]["ingress"]
            .as_array()
            .unwrap()
            .len(),
        2
    );

    what_is_somebody_elses_is_refused(&lab, &second);
}

/// Address, range, port, and class.
fn what_is_somebody_elses_is_refused(lab: &TestLab, second: &Value) {
    let taken = text(&ips(lab, "a")[0]);
    for (rest, told) in [
        (format!("  clusterIP: {taken}\n"), "is another Service's"),
        (
            "  clusterIP: 10.97.0.1\n".to_owned(),
            "is not of the lab's range",
        ),
        (
            "  type: NodePort\n  clusterIP: None\n".to_owned(),
            "spec.clusterIP: None is for type ClusterIP",
        ),
        (
            "  ipFamilies: [IPv4, IPv6]\n".to_owned(),
            "want ipFamilyPolicy",
        ),
    ] {
        let (code, words) = try_apply(lab, &service("b", &rest));
        assert_eq!(code, Some(1), "{rest}");
        assert!(words.contains(told), "{rest}: {words}");
    }
    let node_port = second["spec"]["ports"][0]["nodePort"].clone();
    let same = service("b", "  type: NodePort\n")
        .replace("port: 80", &format!("port: 81, nodePort: {node_port}"));
    assert!(try_apply(lab, &same).1.contains("is another Service's"));
    let low = same.replace(&node_port.to_string(), "8080");
    assert!(
        try_apply(lab, &low)
            .1
            .contains("is not of the range of node ports"),
        "{low}"
    );
    assert!(one(lab, "services", "b").is_none());
    let other = service(
        "c",
        "  type: LoadBalancer\n  loadBalancerClass: example.com/x\n",
    );
    assert_eq!(try_apply(lab, &other).0, Some(0));
    let other = one(lab, "services", "c").expect("a Service");
    assert!(other["status"]["loadBalancer"]["ingress"].is_null());
    let six = service("six", "  ipFamilies: [IPv6]\n");
    assert_eq!(try_apply(lab, &six).0, Some(0));
    assert!(text(&ips(lab, "six")[0]).contains(':'));
}

#[test]
fn slices_by_hand_and_mistakes() {
    let lab = TestLab::plain("hand", "{nodes: 1}");
    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db-1, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\nports: [{port: 5432}]\nendpoints: [{addresses: [192.0.2.9], conditions: {ready: true, serving: true}}]\n---\n";
    let service =
        "apiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {ports: [{port: 5432}]}\n---\n";
    let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 99999}]}\n---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: bad}\nspec: {replicas: -1, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c}]}}}\n";
    let file = lab.file("db.yaml", &[service, slice, bad].concat());
    let output = lab.try_watari(&["apply", "-f", &file]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains("document 3 (from line 12): spec.ports[0].port: 99999 is no port"),
        "{words}"
    );
    assert!(
        words.contains("spec.replicas: want 0 to 10000, not -1"),
        "{words}"
    );
    assert_eq!(
        told(&lab, "node1", "db"),
        [("192.0.2.9".to_owned(), true, true, false)]
    );
    // No pool on azure: nobody gives the load balancer an address.
    let balancer = service.replace("spec: {", "spec: {type: LoadBalancer, ");
    lab.watari(&["apply", "-f", &lab.file("lb.yaml", &balancer)]);
    assert!(lab.watari(&["get", "svc"]).contains("<pending>"));
    lab.watari(&["delete", "eps/db-1", "svc/db"]);
    assert!(get(&lab, "endpointslices").is_empty() && get(&lab, "services").is_empty());
}

#[test]
fn readiness_is_told_as_it_changes_and_ending_pods_drain() {
    let lab = TestLab::plain("ready", "{nodes: 2}");
    let text = "apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: p}}
spec:
  nodeName: node1
  terminationGracePeriodSeconds: 20
  containers:
  - name: c
    command: [sh, -c, \"trap 'sleep 2; exit 0' TERM; while :; do sleep 0.1; done\"]
    readinessProbe: {exec: {command: [test, -e, /tmp/FILE]}, periodSeconds: 1, failureThreshold: 1}
  - name: web
    readinessProbe: {httpGet: {port: 80}}
---
apiVersion: v1
kind: Service
metadata: {name: p}
spec: {selector: {app: p}, ports: [{port: 80}]}
";
    let mark = format!("ready-{}", lab.name);
    let file = lab.file("p.yaml", &text.replace("FILE", &mark));
    lab.watari(&["apply", "-f", &file]);
    let conditions = || {
        let all = told(&lab, "node2", "p");
        all.first()
            .map(|(_, ready, serving, end)| (*ready, *serving, *end))
    };
    wait_until(DEADLINE, "the server is ready, the other one not", || {
        let pod = lab.pod("p").expect("the pod");
        pod["containers"][1]["ready"] == true && pod["containers"][0]["ready"] == false
    });
    assert_eq!(conditions(), Some((false, false, false)));
    lab.sh("node1", &format!("touch /tmp/{mark}"));
    wait_until(DEADLINE, "it is ready", || {
        conditions() == Some((true, true, false))
    });
    lab.sh("node1", &format!("rm /tmp/{mark}"));
    wait_until(DEADLINE, "it is not ready", || {
        conditions() == Some((false, false, false))
    });
    lab.sh("node1", &format!("touch /tmp/{mark}"));
    wait_until(DEADLINE, "it is ready again", || {
        conditions() == Some((true, true, false))
    });
    // Terminating while it ends, then gone.
    let mut delete = lab
        .command(&["delete", "pod", "p"])
        .spawn()
        .expect("start watari");
    wait_until(DEADLINE, "it terminates", || {
        matches!(conditions(), Some((false, _, true)))
    });
    assert!(delete.wait().expect("wait for delete").success());
    assert_eq!(conditions(), None);
    std::fs::remove_file(format!("/tmp/{mark}")).ok();
}

#[test]
fn a_new_template_replaces_pods_and_new_ones_come_first() {
    let lab = TestLab::plain("roll", "{nodes: 2}");
    let file = lab.file("web.yaml", WEB);
    lab.watari(&["apply", "-f", &file]);
    let old = pods(&lab);
    let new = WEB.replace("containerPort: 8080}]", "containerPort: 8081}]");
    let said = lab.watari(&["apply", "-f", &lab.file("web.yaml", &new)]);
    assert!(
        said.contains("deployment default/web: configured"),
        "{said}"
    );
    let now = pods(&lab);
    assert_eq!((now.len(), now.intersection(&old).count()), (3, 0));
    let created = said.find("created on").unwrap();
    assert!(created < said.find(": deleted").unwrap(), "{said}");
    let deployment = one(&lab, "deployments", "web").unwrap();
    assert_eq!(deployment["status"]["updatedReplicas"], 3);

    // The other kinds.
    let kinds = "apiVersion: apps/v1
kind: KIND
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec: {containers: [{name: c, command: [sleep, '1000']}]}
---
";
    let kind = |kind: &str, name: &str| kinds.replace("KIND", kind).replace("NAME", name);
    let text = [
        kind("StatefulSet", "db"),
        kind("DaemonSet", "each"),
        kind("ReplicaSet", "set"),
    ]
    .concat();
    let file = lab.file("kinds.yaml", &text);
    lab.watari(&["apply", "-f", &file]);
    lab.watari(&["scale", "sts/db", "--replicas", "2"]);
    let names = pods(&lab);
    assert!(
        names.contains("db-0") && names.contains("db-1"),
        "{names:?}"
    );
    assert_eq!(
        names
            .iter()
            .filter(|name| name.starts_with("each-"))
            .count(),
        2
    );
    assert!(
        !lab.try_watari(&["scale", "ds/each", "--replicas", "2"])
            .status
            .success()
    );
    lab.watari(&["delete", "pod", "db-0", "--grace-period", "0"]);
    assert!(pods(&lab).contains("db-0"), "it comes again under its name");
    lab.watari(&["delete", "-f", &file, "--grace-period", "0"]);
    assert_eq!(pods(&lab), now);
}

#[test]
fn the_host_outside_reaches_nodes_and_no_pod() {
    for (hint, yaml, own) in [
        (
            "outl2",
            "{fabric: l2, ipv6: true, nodes: 2}",
            vec!["10.240.0.3", "fd10:240::3"],
        ),
        (
            "outaz",
            "{nodes: 2, gateway: 10.240.0.3}",
            vec!["10.240.0.2"],
        ),
    ] {
        let lab = TestLab::plain(hint, yaml);
        let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: h}\nspec: {nodeName: node2, hostNetwork: true, containers: [{name: c}]}\n";
        lab.watari(&["apply", "-f", &lab.file("h.yaml", text)]);
        assert_eq!(lab.sh("outside", "hostname"), "outside\n");
        let ips: Vec<String> =
            serde_json::from_value(lab.pod("h").unwrap()["podIPs"].clone()).unwrap();
        assert_eq!(ips.len(), own.len());
        for (ip, own) in ips.iter().zip(own) {
            let host = if ip.contains(':') {
                format!("[{ip}]")
            } else {
                ip.clone()
            };
            let curl = format!("curl -gsf --retry 5 --retry-connrefused -m5 http://{host}/");
            let said: Value = serde_json::from_str(&lab.sh("outside", &curl)).unwrap();
            let peer: std::net::SocketAddr = said["peer"].as_str().unwrap().parse().unwrap();
            assert_eq!(peer.ip().to_string(), own);
            lab.sh("node1", &format!("ping -c1 -W2 {own}"));
        }
        if hint == "outl2" {
            let routes = lab.sh("outside", "ip route; ip -6 route");
            assert!(routes.contains("10.100.0.0/24 via 10.240.0.4"), "{routes}");
            assert!(
                routes.contains("fd00:10:100::/112 via fd10:240::4"),
                "{routes}"
            );
        }
        let page = lab.watari(&["inspect", "outside"]);
        assert!(page.contains("(other end: fabric outside)"), "{page}");
    }
}
