//! Services, EndpointSlices and workloads, as `watari lab get` shows them.

use serde_json::{Value, json};
use watari_lab::{Objects, OpenLab};
use watari_manifests::{Manifest, Object};
use watari_model::{EndpointSlice, Service, ServicePort, ServiceType};

use super::get::Page;
use super::kinds::Kind;

/// What is shown where there is nothing.
const NONE: &str = "<none>";

fn of(namespace: Option<&str>, manifest: &Manifest) -> bool {
    namespace.is_none_or(|only| manifest.id().namespace == only)
}

fn given(manifest: &Manifest) -> Value {
    manifest.given.as_deref().cloned().unwrap_or_default()
}

/// Services.
pub fn services(lab: &OpenLab, namespace: Option<&str>, wide: bool) -> anyhow::Result<Page> {
    let mut page = page(&[
        "NAMESPACE",
        "NAME",
        "TYPE",
        "CLUSTER-IP",
        "EXTERNAL-IP",
        "PORT(S)",
    ]);
    if wide {
        page.head.push("SELECTOR");
    }
    for manifest in Objects::look(lab).all()?.objects {
        let Object::Service(service) = &manifest.object else {
            continue;
        };
        if !of(namespace, &manifest) {
            continue;
        }
        let value = given(&manifest);
        let mut row = vec![
            service.name.namespace.clone(),
            service.name.name.clone(),
            type_of(service).to_owned(),
            cluster_ip(service),
            external(service, &value),
            some(service.ports.iter().map(port)),
        ];
        if wide {
            let selector = service.selector.iter();
            row.push(some(selector.map(|(k, v)| format!("{k}={v}"))));
        }
        page.rows.push(row);
        page.values.push(value);
    }
    Ok(page)
}

fn type_of(service: &Service) -> &'static str {
    match service.kind {
        ServiceType::ClusterIp => "ClusterIP",
        ServiceType::NodePort => "NodePort",
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::ExternalName => "ExternalName",
    }
}

fn cluster_ip(service: &Service) -> String {
    if service.headless {
        return "None".to_owned();
    }
    some(service.cluster_ips.iter().map(ToString::to_string))
}

fn external(service: &Service, value: &Value) -> String {
    if service.kind == ServiceType::ExternalName {
        let name = value.pointer("/spec/externalName").and_then(Value::as_str);
        return name.unwrap_or(NONE).to_owned();
    }
    let ingress = service.ingress.iter().map(|one| one.address.to_string());
    let own = service.external_ips.iter().map(ToString::to_string);
    let all: Vec<String> = ingress.chain(own).collect();
    if all.is_empty() && service.kind == ServiceType::LoadBalancer {
        return "<pending>".to_owned();
    }
    some(all)
}

fn port(port: &ServicePort) -> String {
    let protocol = port.protocol.to_string().to_ascii_uppercase();
    match port.node_port {
        Some(node) => format!("{}:{node}/{protocol}", port.port),
        None => format!("{}/{protocol}", port.port),
    }
}

fn some(all: impl IntoIterator<Item = String>) -> String {
    let all: Vec<String> = all.into_iter().collect();
    if all.is_empty() {
        return NONE.to_owned();
    }
    all.join(",")
}

/// EndpointSlices: those given by hand, and those that follow from selectors and pods.
pub fn slices(lab: &OpenLab, namespace: Option<&str>, wide: bool) -> anyhow::Result<Page> {
    let mut page = page(&["NAMESPACE", "NAME", "ADDRESSTYPE", "PORTS", "ENDPOINTS"]);
    if wide {
        page.head.push("CONDITIONS");
    }
    for manifest in watari_lab::published(lab)?.objects {
        let Object::EndpointSlice(slice) = &manifest.object else {
            continue;
        };
        if !of(namespace, &manifest) {
            continue;
        }
        let ports = slice.ports.iter();
        let ports = ports.map(|port| port.port.map_or("*".to_owned(), |port| port.to_string()));
        let addresses = slice.endpoints.iter().map(|one| one.address.to_string());
        let mut row = vec![
            slice.name.namespace.clone(),
            slice.name.name.clone(),
            if slice.v6 { "IPv6" } else { "IPv4" }.to_owned(),
            some(ports),
            some(addresses),
        ];
        if wide {
            row.push(some(conditions(slice)));
        }
        page.rows.push(row);
        page.values.push(given(&manifest));
    }
    Ok(page)
}

/// Each endpoint's, in the order of the addresses.
fn conditions(slice: &EndpointSlice) -> Vec<String> {
    let words = slice.endpoints.iter().map(|one| {
        match (one.ready, one.serving, one.terminating) {
            (true, _, _) => "ready",
            (false, true, true) => "serving,terminating",
            (false, false, true) => "terminating",
            (false, true, false) => "serving",
            (false, false, false) => "not-ready",
        }
        .to_owned()
    });
    words.collect()
}

/// Deployments and their like.
pub fn workloads(
    lab: &OpenLab,
    kind: Kind,
    namespace: Option<&str>,
    wide: bool,
) -> anyhow::Result<Page> {
    let mut page = page(&["NAMESPACE", "NAME", "READY", "UP-TO-DATE", "AVAILABLE"]);
    if wide {
        page.head.push("SELECTOR");
    }
    let pods = watari_lab::list_pods(lab)?;
    for manifest in Objects::look(lab).all()?.objects {
        let Object::Workload(workload) = &manifest.object else {
            continue;
        };
        if workload.kind.as_str() != kind.as_kind() || !of(namespace, &manifest) {
            continue;
        }
        let progress = watari_lab::progress(lab, workload, &pods);
        let mut row = vec![
            workload.id.namespace.clone(),
            workload.id.name.clone(),
            format!("{}/{}", progress.ready, progress.wanted),
            progress.current.to_string(),
            progress.ready.to_string(),
        ];
        if wide {
            let labels = workload.selector.match_labels.iter().flatten();
            row.push(some(labels.map(|(k, v)| format!("{k}={v}"))));
        }
        page.rows.push(row);
        let mut value = given(&manifest);
        value["status"] = json!({
            "replicas": progress.has,
            "updatedReplicas": progress.current,
            "readyReplicas": progress.ready,
            "availableReplicas": progress.ready,
        });
        page.values.push(value);
    }
    Ok(page)
}

fn page(head: &[&'static str]) -> Page {
    Page {
        head: head.to_vec(),
        rows: Vec::new(),
        values: Vec::new(),
        well: true,
    }
}
