//! The node's health, its Services' and its metrics, asked by real clients.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::services::put;
use crate::world::{Agent, Node, until, until_healthy};

/// The status and the body of an answer; none if nobody answers.
fn get(node: &Node, at: &str, path: &str) -> Option<(u16, String)> {
    node.netns.enter(|| {
        let mut stream = TcpStream::connect(at).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n").unwrap();
        let mut said = String::new();
        // A port that is just being closed hangs up.
        stream.read_to_string(&mut said).ok()?;
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some((status, body.to_owned()))
    })
}

fn status(node: &Node, at: &str, path: &str) -> u16 {
    get(node, at, path).map_or(0, |(status, _)| status)
}

fn until_answer(agent: &mut Agent, node: &Node, at: &str, wanted: u16) {
    until(agent, &format!("{at} to say {wanted}"), |_| {
        status(node, at, "/healthz") == wanted
    });
}

fn local_service(endpoints: &[(&str, &str)]) -> String {
    let endpoints: Vec<String> = endpoints
        .iter()
        .map(|(address, node)| format!("- {{addresses: [{address}], nodeName: {node}}}\n"))
        .collect();
    let endpoints = endpoints.concat();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000, clusterIP: \
         10.96.0.9, clusterIPs: [10.96.0.9], ports: [{{port: 80, nodePort: 30080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: shop, \
         labels: {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: '', port: 8080}}]\n\
         endpoints:\n{endpoints}"
    )
}

#[test]
fn the_node_is_healthy_until_it_is_to_be_deleted() {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    node.with_agent(|agent| {
        until_healthy(agent);
        until_answer(agent, &node, "127.0.0.1:10256", 200);
        assert_eq!(status(&node, "10.240.0.4:10256", "/livez"), 200);
        assert_eq!(status(&node, "[fd00::4]:10256", "/livez"), 200, "both families");
        let tainted = "apiVersion: v1\nkind: Node\nmetadata: {name: node1}\nspec: {podCIDRs: [10.244.1.0/24], \
             taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]}\n\
             status: {addresses: [{type: InternalIP, address: 10.240.0.4}]}\n";
        put(&node, "node1.yaml", tainted);
        until_answer(agent, &node, "127.0.0.1:10256", 503);
        let (_, body) = get(&node, "127.0.0.1:10256", "/healthz").unwrap();
        assert!(body.contains("\"nodeEligible\": false"), "{body}");
        assert_eq!(status(&node, "127.0.0.1:10256", "/livez"), 200);
        node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
        until_answer(agent, &node, "127.0.0.1:10256", 200);
    });
}

#[test]
fn a_health_check_port_tells_of_local_endpoints() {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    put(
        &node,
        "web.yaml",
        &local_service(&[("10.244.1.2", "node1"), ("10.244.2.2", "node2")]),
    );
    node.with_agent(|agent| {
        let at = "10.240.0.4:32000";
        until_answer(agent, &node, at, 200);
        let (_, body) = get(&node, at, "/").unwrap();
        let said: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(said["service"]["namespace"], "shop");
        assert_eq!(
            (&said["localEndpoints"], &said["serviceProxyHealthy"]),
            (&1.into(), &true.into())
        );
        put(
            &node,
            "web.yaml",
            &local_service(&[("10.244.2.2", "node2")]),
        );
        until_answer(agent, &node, at, 503);
        std::fs::remove_file(node.cluster().join("web.yaml")).unwrap();
        until_answer(agent, &node, at, 0);
    });
}

#[test]
fn a_port_in_use_is_told_tried_again_and_holds_nothing_up() {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    put(
        &node,
        "web.yaml",
        &local_service(&[("10.244.1.2", "node1")]),
    );
    let taken = node
        .netns
        .enter(|| TcpListener::bind("0.0.0.0:32000").unwrap());
    node.with_agent(|agent| {
        let status = until(agent, "the note", |status| {
            status
                .notes
                .iter()
                .any(|note| note.contains(":32000") && note.contains("shop/web"))
        });
        assert!(status.healthy, "{status:#?}");
        drop(taken);
        until_answer(agent, &node, "10.240.0.4:32000", 200);
        assert!(
            agent
                .status()
                .notes
                .iter()
                .all(|note| !note.contains("32000"))
        );
    });
}

#[test]
fn metrics_have_the_names_that_operators_graph() {
    let node = Node::new();
    node.manifest("node1", "10.240.0.4", "10.244.1.0/24");
    put(
        &node,
        "web.yaml",
        &local_service(&[("10.244.1.2", "node1")]),
    );
    node.with_agent(|agent| {
        until_answer(agent, &node, "10.240.0.4:32000", 200);
        put(
            &node,
            "web.yaml",
            &local_service(&[("10.244.1.2", "node1"), ("10.244.1.3", "node1")]),
        );
        let page = || get(&node, "127.0.0.1:10249", "/metrics").unwrap().1;
        until(agent, "the second sync", |_| {
            page().contains(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"} 1",
            )
        });
        let text = page();
        for line in [
            "kubeproxy_sync_proxy_rules_service_changes_total ",
            "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0",
            "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"} 1",
            "watari_services 1",
            "watari_service_backends ",
            "watari_table_limit{table=\"frontends\"} ",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        assert!(
            get(&node, "10.240.0.4:10249", "/metrics").is_none(),
            "to this node alone"
        );
    });
}
