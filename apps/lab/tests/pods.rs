//! Pods of a lab: from manifests to processes with a network, and back to nothing.

mod common;

use std::thread;
use std::time::Duration;

use common::TestLab;
use watari_testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(20);

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  nodeName: node1
  hostname: webby
  subdomain: site
  dnsConfig: {searches: [x.example], nameservers: [10.0.0.10]}
  hostAliases: [{ip: 1.2.3.4, hostnames: [other]}]
  terminationGracePeriodSeconds: 5
  volumes: [{name: v, emptyDir: {}}]
  containers:
  - name: server
    ports: [{containerPort: 80, hostPort: 8080}]
  - name: words
    command: [sh, -c, "echo $(GREETING); echo errors >&2; trap 'echo ended; exit 0' TERM; while :; do sleep 0.1; done"]
    workingDir: /tmp
    env:
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: APP, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}
    - {name: GREETING, value: "$(POD) at $(IP) is $(APP)"}
---
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: system}
spec:
  nodeName: node2
  hostNetwork: true
  containers: [{name: c, command: [watari, echo, --http, "8081", --tcp, "8082", --udp, "8083"]}]
"#;

fn ip(lab: &TestLab, pod: &str) -> String {
    let pod = lab.pod(pod).expect("the pod is listed");
    pod["podIPs"][0]
        .as_str()
        .expect("it has an address")
        .to_owned()
}

#[test]
fn a_pod_lives_from_its_manifest_to_its_end() {
    let lab = TestLab::up("pods", "nodes: 2");
    let file = lab.file("pods.yaml", PODS);
    let said = lab.watari(&["apply", "-f", &file]);
    assert!(said.contains("has no effect here: spec.volumes"), "{said}");
    assert!(said.contains("pod default/web: created on node1"), "{said}");
    let web = ip(&lab, "web");

    sees_itself(&lab, &web);
    carries_traffic(&lab, &web);

    // The page, and the same again.
    let page = lab.watari(&["inspect", "node1"]);
    assert!(page.contains("(other end: pod default/web eth0)"), "{page}");
    assert!(page.contains(&format!("{web} dev azv")), "{page}");
    let said = lab.watari(&["apply", "-f", &file]);
    assert!(said.contains("pod default/web: unchanged"), "{said}");

    // The end: told, given time, and nothing stays on the node.
    lab.watari(&["delete", "-f", &file]);
    assert!(lab.pod("web").is_none() && lab.pod("agent").is_none());
    assert_eq!(lab.sh("node1", "ls /run/netns"), "");
    assert_eq!(lab.sh("node1", "ls /sys/class/net"), "eth0\nlo\n");
    assert!(
        !lab.traces().iter().any(|line| line.contains("pod-")),
        "{:?}",
        lab.traces()
    );
}

/// What the pod sees of itself.
fn sees_itself(lab: &TestLab, web: &str) {
    assert_eq!(lab.sh("web", "hostname"), "webby\n");
    let hosts = lab.sh("web", "cat /etc/hosts");
    assert!(
        hosts.contains(&format!("{web} webby.site.default.svc.cluster.local webby")),
        "{hosts}"
    );
    assert!(hosts.contains("1.2.3.4 other"), "{hosts}");
    let resolver = lab.sh("web", "cat /etc/resolv.conf");
    assert_eq!(
        resolver,
        "search x.example\nnameserver 168.63.129.16\nnameserver 10.0.0.10\n"
    );
    assert_eq!(lab.sh("web", "ls /sys/class/net"), "eth0\nlo\n");
    assert!(
        !lab.sh_works("web", "test -e /run/netns"),
        "the node's /run is not the pod's"
    );
    let cgroup = lab.sh("web", "cat /proc/self/cgroup");
    assert!(
        cgroup.contains(&format!("/watari/{}/node1/pod-default_web/", lab.name)),
        "{cgroup}"
    );
    wait_until(DEADLINE, "the container wrote", || {
        let said = lab.watari(&["logs", "web", "-c", "words"]);
        said.contains(&format!("web at {web} is web\n")) && said.contains("errors\n")
    });
}

/// Who is reached, and who is seen.
fn carries_traffic(lab: &TestLab, web: &str) {
    let answer = lab.sh("node2", &format!("curl -sf http://{web}/hello"));
    for part in [
        r#""name":"default/web""#,
        r#""node":"node1""#,
        r#""peer":"10.240.0.105:"#,
        "/hello",
    ] {
        assert!(answer.contains(part), "{part} in {answer}");
    }
    assert!(
        lab.sh("web", "curl -sf http://10.240.0.105:8081/")
            .contains(&format!(r#""peer":"{web}:"#))
    );
    let udp = "exec 3<>/dev/udp/10.240.0.105/8083; echo ping >&3; head -n1 <&3";
    let answer = lab.watari(&["exec", "web", "--", "timeout", "5", "bash", "-c", udp]);
    assert!(
        answer.contains(r#""local":"10.240.0.105:8083""#) && answer.contains("ping"),
        "{answer}"
    );
    let tcp =
        "exec 3<>/dev/tcp/10.240.0.105/8082; read a <&3; echo again >&3; read b <&3; echo $a $b";
    let answer = lab.watari(&["exec", "web", "--", "timeout", "5", "bash", "-c", tcp]);
    assert!(
        answer.contains(r#""protocol":"tcp""#) && answer.trim_end().ends_with("again"),
        "{answer}"
    );
    lab.sh("node2", "curl -sf http://10.240.0.4:8080/");
    assert_eq!(lab.sh("system/agent", "hostname"), "node2\n");
}

#[test]
fn containers_restart_as_the_policy_says() {
    let lab = TestLab::plain("restart", "nodes: 1");
    let pod = |name: &str, policy: &str, line: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: {policy}\n  containers:\n  - {{name: c, command: [sh, -c, \"{line}\"]}}\n---\n"
        )
    };
    let file = lab.file(
        "pods.yaml",
        &[
            pod("again", "Always", "echo run; exit 0"),
            pod("once", "OnFailure", "exit 0"),
            pod("never", "Never", "exit 3"),
            pod("killed", "Never", "kill -9 $$$$"),
            pod("missing", "Never", "true").replace("sh, -c", "/no/such/program"),
        ]
        .concat(),
    );
    lab.watari(&["apply", "-f", &file]);
    let exit = |name: &str| {
        lab.pod(name)
            .and_then(|p| p["containers"][0]["state"]["terminated"]["exitCode"].as_i64())
    };
    for (name, code, phase) in [
        ("once", 0, "Succeeded"),
        ("never", 3, "Failed"),
        ("killed", 137, "Failed"),
        ("missing", 127, "Failed"),
    ] {
        wait_until(DEADLINE, "the pod ended", || exit(name).is_some());
        assert_eq!(exit(name), Some(code), "{name}");
        assert_eq!(lab.pod(name).unwrap()["phase"], phase, "{name}");
    }
    wait_until(DEADLINE, "it was started again", || {
        lab.watari(&["logs", "again"]).lines().count() >= 3
    });
    assert!(lab.pod("again").unwrap()["containers"][0]["restarts"].as_i64() >= Some(2));
    // A pod that ended keeps its address until it is deleted.
    assert!(lab.sh("node1", "ip route").contains(&ip(&lab, "never")));
}

#[test]
fn a_pod_that_does_not_listen_is_killed_with_all_it_started() {
    let lab = TestLab::plain("deaf", "nodes: 1");
    let file = lab.file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: deaf}\nspec:\n  containers:\n  - {name: c, command: [sh, -c, \"trap '' TERM; setsid sleep 1000 & while :; do sleep 1; done\"]}\n");
    lab.watari(&["apply", "-f", &file]);
    lab.watari(&["delete", "pod", "deaf", "--grace-period", "1"]);
    assert!(
        !lab.traces().iter().any(|line| line.contains("pod-")),
        "{:?}",
        lab.traces()
    );
}

#[test]
fn an_apply_killed_half_way_is_mended() {
    let lab = TestLab::plain("half", "nodes: 1");
    let file = lab.file("pod.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers: [{name: c, command: [sleep, '1000']}]\n");
    for round in 0..12_u64 {
        let mut apply = lab
            .command(&["apply", "-f", &file])
            .spawn()
            .expect("start watari");
        thread::sleep(Duration::from_millis(round * 3));
        apply.kill().expect("kill apply");
        apply.wait().expect("wait for apply");
        if round % 2 == 0 {
            lab.watari(&["apply", "-f", &file]);
            assert_eq!(lab.pod("p").unwrap()["phase"], "Running");
            lab.sh("p", "ping -c1 -W2 10.240.0.4");
        }
        let listed = lab.pod("p").is_some();
        let deleted = lab.try_watari(&["delete", "pod", "p", "--grace-period", "0"]);
        assert!(deleted.status.success() || !listed, "{deleted:?}");
        assert!(lab.pod("p").is_none());
    }
    // Every lease came back: the node's namespaces, links and routes are as before.
    assert_eq!(lab.sh("node1", "ls /sys/class/net"), "eth0\nlo\n");
    assert_eq!(lab.sh("node1", "ls /run/netns"), "");
}

#[test]
fn a_wrong_manifest_is_named_and_the_others_run() {
    let lab = TestLab::plain("wrong", "nodes: 1");
    let file = lab.file(
        "mixed.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: 1}]}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: lost}\nspec: {nodeName: nowhere, containers: [{name: c}]}\n---\napiVersion: v1\nkind: Service\nmetadata: {name: s}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: good}\nspec: {containers: [{name: c}]}\n",
    );
    let output = lab.try_watari(&["apply", "-f", &file]);
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        words.contains("mixed.yaml: document 1 (from line 1): spec.containers[0].name"),
        "{words}"
    );
    assert!(words.contains("no node nowhere"), "{words}");
    assert_eq!(lab.pod("good").unwrap()["phase"], "Running");
    assert!(lab.pod("lost").is_none());
}

#[test]
fn pods_of_both_families_reach_each_other_over_both() {
    let lab = TestLab::up("dual", "{nodes: 2, ipv6: true}");
    let pod = |name: &str, node: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{nodeName: {node}, containers: [{{name: c}}]}}\n---\n"
        )
    };
    let file = lab.file(
        "pods.yaml",
        &[pod("a", "node1"), pod("b", "node2"), pod("c", "node2")].concat(),
    );
    lab.watari(&["apply", "-f", &file]);
    let ips = |name: &str| -> Vec<String> {
        let pod = lab.pod(name).expect("the pod is listed");
        serde_json::from_value(pod["podIPs"].clone()).expect("it has addresses")
    };
    for other in ["a", "b", "c"] {
        for ip in ips(other) {
            let host = if ip.contains(':') {
                format!("[{ip}]")
            } else {
                ip
            };
            for from in ["b", "node1", "node2"] {
                let answer = lab.sh(from, &format!("curl -gsf -m5 http://{host}/"));
                assert!(answer.contains(&format!("default/{other}")), "{answer}");
                let direct = from == "b" && other == "a";
                let seen = ips("b").iter().any(|own| {
                    answer.contains(&format!("{own}:")) || answer.contains(&format!("[{own}]:"))
                });
                assert!(
                    seen || !direct,
                    "the caller's own address is seen: {answer}"
                );
            }
        }
        assert_eq!(ips(other).len(), 2, "{other}");
    }
}
