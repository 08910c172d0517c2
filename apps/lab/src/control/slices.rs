//! The slices that follow from Services' selectors and the lab's pods, as manifests.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use k8s_openapi::api::core::v1::{Pod, PodIP, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use watari_manifests::{SERVICE_NAME, WEIGHT, cluster_pod};
use watari_model::{ClusterPod, EndpointSlice, Service, SliceEndpoint};

use crate::layout::Lab;
use crate::pod::{FoundPod, Phase};

/// Who made them, as the API says it.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// A pod of the lab as Services need to know it; none before it has a network.
pub fn of_pod(pod: &FoundPod) -> Result<Option<ClusterPod>> {
    let (Some(plan), Some(status)) = (&pod.plan, &pod.status) else {
        return Ok(None);
    };
    let text = |ip: &String| PodIP { ip: ip.clone() };
    let spec: PodSpec = serde_json::from_value(plan.spec.clone())?;
    let finished = matches!(status.phase, Phase::Succeeded | Phase::Failed | Phase::Lost);
    let given = Pod {
        metadata: ObjectMeta {
            namespace: Some(pod.key.namespace.clone()),
            name: Some(pod.key.name.clone()),
            labels: Some(plan.labels.clone()),
            annotations: Some(plan.annotations.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some(plan.node.clone()),
            ..spec
        }),
        status: Some(PodStatus {
            pod_ips: Some(status.pod_ips.iter().map(text).collect()),
            ..PodStatus::default()
        }),
    };
    let known = cluster_pod(&given);
    let known = known.map_err(|(path, reason)| anyhow!("pod {}: {path}: {reason}", pod.key))?;
    Ok(Some(ClusterPod {
        ready: status.is_ready(),
        terminating: pod.terminating,
        finished,
        ..known
    }))
}

/// The slices of all Services with selectors that have none given by hand.
pub fn derive(
    lab: &Lab,
    services: &[Arc<Service>],
    by_hand: &[Arc<EndpointSlice>],
    pods: &[ClusterPod],
) -> Vec<EndpointSlice> {
    let by_hand = |service: &Service| {
        by_hand.iter().any(|slice| {
            slice.service == service.name.name && slice.name.namespace == service.name.namespace
        })
    };
    let wanted = services.iter().filter(|service| !by_hand(service));
    let wanted: Vec<&Service> = wanted.map(AsRef::as_ref).collect();
    let zones: BTreeMap<&str, Arc<str>> = lab
        .nodes
        .iter()
        .filter_map(|node| Some((node.name.as_str(), node.zone.as_ref()?.as_str().into())))
        .collect();
    let derived = watari_services::derive(wanted, pods, &|node| zones.get(node).cloned());
    derived.into_iter().flat_map(by_weight).collect()
}

/// A manifest says one weight for a whole slice: endpoints of another one get a slice of their own.
fn by_weight(slice: EndpointSlice) -> Vec<EndpointSlice> {
    let mut parts: BTreeMap<u8, Vec<SliceEndpoint>> = BTreeMap::new();
    for endpoint in slice.endpoints.iter().cloned() {
        parts.entry(endpoint.weight).or_default().push(endpoint);
    }
    if parts.len() <= 1 {
        return vec![slice];
    }
    let part = |(weight, endpoints): (u8, Vec<SliceEndpoint>)| {
        let mut part = EndpointSlice {
            endpoints,
            ..slice.clone()
        };
        if weight != 1 {
            part.name.name = format!("{}-w{weight}", part.name.name);
        }
        part
    };
    parts.into_iter().map(part).collect()
}

/// A slice as a manifest.
pub fn manifest(slice: &EndpointSlice) -> Value {
    let ports = slice.ports.iter().map(|port| {
        let protocol = port.protocol.to_string().to_ascii_uppercase();
        json!({"name": port.name, "protocol": protocol, "port": port.port})
    });
    let weight = slice.endpoints.first().map_or(1, |first| first.weight);
    let mut meta = json!({
        "namespace": slice.name.namespace,
        "name": slice.name.name,
        "labels": {SERVICE_NAME: slice.service, MANAGED_BY: "watari-lab"},
    });
    if weight != 1 {
        meta["annotations"] = json!({WEIGHT: weight.to_string()});
    }
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": meta,
        "addressType": if slice.v6 { "IPv6" } else { "IPv4" },
        "ports": ports.collect::<Vec<_>>(),
        "endpoints": slice.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(endpoint: &SliceEndpoint) -> Value {
    let mut value = json!({
        "addresses": [endpoint.address],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
    });
    if let Some(node) = &endpoint.node {
        value["nodeName"] = json!(**node);
    }
    if let Some(zone) = &endpoint.zone {
        value["zone"] = json!(**zone);
    }
    let names = |all: &[Arc<str>]| -> Vec<Value> {
        all.iter().map(|name| json!({"name": **name})).collect()
    };
    if !endpoint.for_zones.is_empty() {
        value["hints"]["forZones"] = names(&endpoint.for_zones).into();
    }
    if !endpoint.for_nodes.is_empty() {
        value["hints"]["forNodes"] = names(&endpoint.for_nodes).into();
    }
    if let Some(pod) = &endpoint.pod {
        value["targetRef"] = json!({"kind": "Pod", "namespace": pod.namespace, "name": pod.name});
    }
    value
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use watari_model::{PodName, Protocol, ServiceName, SlicePort};

    use super::*;

    #[test]
    fn a_slice_reads_back_as_it_was() {
        let endpoint = |last: u8, weight| SliceEndpoint {
            address: [10, 244, 1, last].into(),
            ready: last == 2,
            serving: true,
            terminating: last != 2,
            node: Some("node1".into()),
            zone: Some("a".into()),
            for_zones: vec!["a".into()],
            for_nodes: vec!["node1".into(), "node2".into()],
            pod: Some(PodName {
                namespace: "shop".to_owned(),
                name: format!("web-{last}"),
            }),
            weight,
        };
        let slice = EndpointSlice {
            name: ServiceName {
                namespace: "shop".to_owned(),
                name: "web-x".to_owned(),
            },
            service: "web".to_owned(),
            v6: false,
            ports: vec![SlicePort {
                name: "http".to_owned(),
                protocol: Protocol::Sctp,
                port: Some(80),
            }],
            endpoints: vec![endpoint(2, 1), endpoint(3, 5), endpoint(4, 1)],
        };
        let parts = by_weight(slice.clone());
        let names: Vec<&str> = parts.iter().map(|part| part.name.name.as_str()).collect();
        assert_eq!(names, ["web-x", "web-x-w5"]);
        for part in parts {
            let found = watari_manifests::judge(Path::new("x"), manifest(&part));
            assert!(
                found.errors.is_empty() && found.notes.is_empty(),
                "{found:?}"
            );
            assert_eq!(**found.endpoint_slices().next().unwrap(), part);
        }
    }
}
