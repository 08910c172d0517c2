//! `v1` `Pod`, as Services need to know it.

use k8s_openapi::api::core::v1::{Container, Pod};
use watari_model::{ClusterPod, ContainerPort, PodName};

use crate::check;
use crate::object::Refusal;

/// What of a Pod decides which Service's endpoint it is.
pub fn cluster_pod(given: &Pod) -> Result<ClusterPod, Refusal> {
    let meta = &given.metadata;
    let spec = given.spec.clone().unwrap_or_default();
    let status = given.status.clone().unwrap_or_default();
    let mut ports = Vec::new();
    for (at, one) in spec.containers.iter().enumerate() {
        container_ports(&format!("spec.containers[{at}]"), one, &mut ports)?;
    }
    for (at, one) in spec.init_containers.iter().flatten().enumerate() {
        if one.restart_policy.as_deref() == Some("Always") {
            container_ports(&format!("spec.initContainers[{at}]"), one, &mut ports)?;
        }
    }
    let many = status.pod_ips.unwrap_or_default();
    let addresses = if many.is_empty() {
        let one = status.pod_ip.filter(|text| !text.is_empty());
        let one = one.map(|text| check::address("status.podIP", &text));
        one.into_iter().collect::<Result<_, _>>()?
    } else {
        let numbered = many.iter().enumerate();
        let read =
            numbered.map(|(at, one)| check::address(&format!("status.podIPs[{at}]"), &one.ip));
        read.collect::<Result<_, _>>()?
    };
    let ready = status.conditions.iter().flatten();
    let mut ready = ready.filter(|condition| condition.type_ == "Ready");
    Ok(ClusterPod {
        name: PodName {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        },
        labels: meta.labels.clone().unwrap_or_default(),
        addresses,
        node: spec
            .node_name
            .filter(|name| !name.is_empty())
            .map(Into::into),
        ready: ready.any(|condition| condition.status == "True"),
        terminating: meta.deletion_timestamp.is_some(),
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ports,
        hostname: spec.hostname.filter(|name| !name.is_empty()),
        subdomain: spec.subdomain.filter(|name| !name.is_empty()),
        weight: check::weight(meta.annotations.as_ref())?,
    })
}

fn container_ports(
    path: &str,
    container: &Container,
    ports: &mut Vec<ContainerPort>,
) -> Result<(), Refusal> {
    for (at, one) in container.ports.iter().flatten().enumerate() {
        let path = format!("{path}.ports[{at}]");
        let name = one.name.clone().unwrap_or_default();
        if !name.is_empty() {
            check::port_name(&format!("{path}.name"), &name)?;
        }
        ports.push(ContainerPort {
            name,
            protocol: check::protocol(&format!("{path}.protocol"), one.protocol.as_deref())?,
            port: check::port(&format!("{path}.containerPort"), one.container_port)?,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(text: serde_json::Value) -> Pod {
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn a_pod_is_what_its_status_says() {
        let known = cluster_pod(&pod(serde_json::json!({
            "metadata": {"namespace": "n", "name": "a", "labels": {"app": "a"},
                "annotations": {"watari.io/weight": "7"},
                "deletionTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"nodeName": "node1", "hostname": "h", "containers": [
                {"name": "c", "ports": [{"name": "web", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]}],
                "initContainers": [
                    {"name": "once", "ports": [{"containerPort": 1}]},
                    {"name": "side", "restartPolicy": "Always", "ports": [{"containerPort": 2}]}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}]}
        })))
        .unwrap();
        assert_eq!(known.name.to_string(), "n/a");
        assert!(known.ready && known.terminating && !known.finished);
        assert_eq!((known.weight, known.addresses.len()), (7, 2));
        let ports: Vec<u16> = known.ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [80, 53, 2]);
        assert_eq!(
            (known.node.as_deref(), known.hostname.as_deref()),
            (Some("node1"), Some("h"))
        );
        let new = cluster_pod(&pod(serde_json::json!({"metadata": {"name": "a"}}))).unwrap();
        assert!(!new.ready && new.addresses.is_empty() && new.weight == 1);
    }

    #[test]
    fn what_it_cannot_be_is_told_with_its_path() {
        for (text, told) in [
            (
                serde_json::json!({"metadata": {"annotations": {"watari.io/weight": "0"}}}),
                "metadata.annotations['watari.io/weight']",
            ),
            (
                serde_json::json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 0}]}]}}),
                "spec.containers[0].ports[0].containerPort",
            ),
            (
                serde_json::json!({"status": {"podIP": "x"}}),
                "status.podIP",
            ),
        ] {
            assert_eq!(cluster_pod(&pod(text)).unwrap_err().0, told);
        }
    }
}
