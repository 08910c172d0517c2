//! `v1` `Service`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{self as k8s, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use watari_model::{
    Distribution, Ingress, PortRange, Protocol, Service, ServiceName, ServicePort, ServiceType,
    TargetPort, Wishes,
};

use crate::check::{self, annotation, none_of, refuse, shown};
use crate::object::Refusal;

/// Further ports of a Service: `6000-6999/UDP, */TCP`.
pub const PORT_RANGES: &str = "watari.io/port-ranges";
/// How a backend is chosen: `random` (as when not said) or `least-connections`.
pub const ALGORITHM: &str = "watari.io/algorithm";
/// `true`: the backend answers clients outside by itself.
pub const DIRECT_RETURN: &str = "watari.io/direct-return";
/// Where source ranges stood before `spec.loadBalancerSourceRanges`.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
/// Whose Service it is, if not the usual proxy's.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when not said, and at most.
const AFFINITY_S: u32 = 10_800;
const AFFINITY_MOST_S: i32 = 86_400;

/// A Service as balancers need it, with the paths of annotations of ours that are not known.
///
/// What the API server would refuse is refused; the reason comes with the field's path.
pub fn service(given: &k8s::Service) -> Result<(Service, Vec<String>), Refusal> {
    let meta = &given.metadata;
    let none = ServiceSpec::default();
    let spec = given.spec.as_ref().unwrap_or(&none);
    let kind = kind(spec)?;
    let (cluster_ips, headless) = cluster_ips(spec, kind)?;
    let external_ips = external_ips(spec)?;
    let exposed = matches!(kind, ServiceType::NodePort | ServiceType::LoadBalancer);
    let outside = exposed || !external_ips.is_empty();
    let external_local = external_policy(spec, outside)?;
    let labels = meta.labels.as_ref();
    let annotations = meta.annotations.as_ref();
    let known = [PORT_RANGES, ALGORITHM, DIRECT_RETURN];
    families(spec)?;
    let service = Service {
        name: ServiceName {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        },
        created: meta
            .creation_timestamp
            .as_ref()
            .map_or(0, |time| time.0.as_second()),
        kind,
        ports: ports(spec, kind, headless)?,
        selector: spec.selector.clone().unwrap_or_default(),
        internal_local: check::is_local(
            "spec.internalTrafficPolicy",
            spec.internal_traffic_policy.as_deref(),
        )?,
        affinity: affinity(spec)?,
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        source_ranges: source_ranges(spec, kind, annotations)?,
        distribution: distribution(spec)?,
        health_check_port: health_check_port(spec, kind, external_local)?,
        load_balancer_class: spec.load_balancer_class.clone(),
        proxy_name: labels.and_then(|all| all.get(PROXY_NAME)).cloned(),
        wishes: wishes(annotations)?,
        ingress: ingress(given)?,
        cluster_ips,
        headless,
        external_ips,
        external_local,
    };
    Ok((service, check::unknown_annotations(annotations, &known)))
}

fn kind(spec: &ServiceSpec) -> Result<ServiceType, Refusal> {
    let kind = match spec.type_.as_deref() {
        None | Some("" | "ClusterIP") => ServiceType::ClusterIp,
        Some("NodePort") => ServiceType::NodePort,
        Some("LoadBalancer") => ServiceType::LoadBalancer,
        Some("ExternalName") => ServiceType::ExternalName,
        Some(other) => {
            let right = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
            return none_of("spec.type", other, &right);
        }
    };
    let named = spec.external_name.as_deref().unwrap_or_default();
    if kind == ServiceType::ExternalName {
        if named.is_empty() {
            return refuse(
                "spec.externalName",
                "missing; type ExternalName is a name for it",
            );
        }
        // A name of DNS may end in its root.
        let bare = named.strip_suffix('.').unwrap_or(named);
        check::name("spec.externalName", bare, 253, true)?;
    }
    Ok(kind)
}

/// The cluster's addresses, and whether there are none on purpose.
fn cluster_ips(spec: &ServiceSpec, kind: ServiceType) -> Result<(Vec<IpAddr>, bool), Refusal> {
    let one = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
    let many = spec.cluster_ips.iter().flatten().map(String::as_str);
    let many: Vec<&str> = many.filter(|text| !text.is_empty()).collect();
    let path = |at: usize| format!("spec.clusterIPs[{at}]");
    if let (Some(one), Some(&first)) = (one, many.first())
        && one != first
    {
        let reason = format!("{} is not spec.clusterIP, {}", shown(first), shown(one));
        return refuse(path(0), reason);
    }
    let given = if many.is_empty() {
        Vec::from_iter(one)
    } else {
        many
    };
    if kind == ServiceType::ExternalName {
        if let Some(first) = given.first() {
            let reason = format!("{} with type ExternalName, which has none", shown(first));
            return refuse("spec.clusterIP", reason);
        }
        return Ok((Vec::new(), false));
    }
    if given.contains(&"None") {
        if given.len() > 1 {
            return refuse("spec.clusterIPs", "None stands beside an address");
        }
        if kind != ServiceType::ClusterIp {
            return refuse(
                "spec.clusterIP",
                "None is for type ClusterIP: a headless Service has no ports on nodes",
            );
        }
        return Ok((Vec::new(), true));
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (at, text) in given.into_iter().enumerate() {
        let address = check::unicast(&path(at), text)?;
        let like = |other: &IpAddr| other.is_ipv4() == address.is_ipv4();
        if let Some(other) = addresses.iter().find(|other| like(other)) {
            let reason = format!("{address} and {other} are of one family: want one of each");
            return refuse(path(at), reason);
        }
        addresses.push(address);
    }
    Ok((addresses, false))
}

fn external_ips(spec: &ServiceSpec) -> Result<BTreeSet<IpAddr>, Refusal> {
    let given = spec.external_ips.iter().flatten().enumerate();
    given
        .map(|(at, text)| check::unicast(&format!("spec.externalIPs[{at}]"), text))
        .collect()
}

fn external_policy(spec: &ServiceSpec, outside: bool) -> Result<bool, Refusal> {
    let path = "spec.externalTrafficPolicy";
    let given = spec
        .external_traffic_policy
        .as_deref()
        .filter(|text| !text.is_empty());
    let local = check::is_local(path, given)?;
    if given.is_some() && !outside {
        let reason = "nobody outside reaches it: it is for NodePort, LoadBalancer and externalIPs";
        return refuse(path, reason);
    }
    Ok(local)
}

/// `ipFamilies` and `ipFamilyPolicy` matter to who gives addresses; here they are spelt well.
fn families(spec: &ServiceSpec) -> Result<(), Refusal> {
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    if let Some(policy) = &spec.ip_family_policy
        && !policies.contains(&policy.as_str())
    {
        return none_of("spec.ipFamilyPolicy", policy, &policies);
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (at, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{at}]");
        if !["IPv4", "IPv6"].contains(&family.as_str()) {
            return none_of(&path, family, &["IPv4", "IPv6"]);
        }
        if families[..at].contains(family) {
            return refuse(path, format!("{family} stands twice"));
        }
    }
    Ok(())
}

fn ports(
    spec: &ServiceSpec,
    kind: ServiceType,
    headless: bool,
) -> Result<Vec<ServicePort>, Refusal> {
    let given = spec.ports.as_deref().unwrap_or_default();
    if given.is_empty() && !headless && kind != ServiceType::ExternalName {
        return refuse("spec.ports", "missing; only a headless Service has none");
    }
    let mut ports: Vec<ServicePort> = Vec::with_capacity(given.len());
    for (at, one) in given.iter().enumerate() {
        let path = format!("spec.ports[{at}]");
        let port = service_port(&path, one, kind, given.len() > 1)?;
        for other in &ports {
            twice(&path, &port, other)?;
        }
        ports.push(port);
    }
    Ok(ports)
}

/// What two ports of a Service cannot share.
fn twice(path: &str, port: &ServicePort, other: &ServicePort) -> Result<(), Refusal> {
    if port.name == other.name {
        let reason = format!("another port has the name {}", shown(&port.name));
        return refuse(format!("{path}.name"), reason);
    }
    if port.protocol != other.protocol {
        return Ok(());
    }
    if port.port == other.port {
        let reason = format!("{} {} stands twice", port.protocol, port.port);
        return refuse(format!("{path}.port"), reason);
    }
    match port.node_port {
        Some(same) if port.node_port == other.node_port => {
            let reason = format!("{} {same} stands twice", port.protocol);
            refuse(format!("{path}.nodePort"), reason)
        }
        _ => Ok(()),
    }
}

fn service_port(
    path: &str,
    given: &k8s::ServicePort,
    kind: ServiceType,
    several: bool,
) -> Result<ServicePort, Refusal> {
    let name = given.name.clone().unwrap_or_default();
    let name_path = format!("{path}.name");
    if !name.is_empty() {
        check::name(&name_path, &name, 63, false)?;
    } else if several {
        return refuse(name_path, "missing; of several ports each has one");
    }
    let port = check::port(&format!("{path}.port"), given.port)?;
    let target_path = format!("{path}.targetPort");
    let target = match &given.target_port {
        None | Some(IntOrString::Int(0)) => TargetPort::Number(port),
        Some(IntOrString::Int(number)) => TargetPort::Number(check::port(&target_path, *number)?),
        Some(IntOrString::String(text)) if text.is_empty() => TargetPort::Number(port),
        Some(IntOrString::String(text)) => {
            check::port_name(&target_path, text)?;
            TargetPort::Name(text.clone())
        }
    };
    let node_path = format!("{path}.nodePort");
    let node_port = match given.node_port.filter(|&port| port != 0) {
        None => None,
        Some(_) if !matches!(kind, ServiceType::NodePort | ServiceType::LoadBalancer) => {
            let reason = "it is for types NodePort and LoadBalancer";
            return refuse(node_path, reason);
        }
        Some(number) => Some(check::port(&node_path, number)?),
    };
    Ok(ServicePort {
        name,
        protocol: check::protocol(&format!("{path}.protocol"), given.protocol.as_deref())?,
        port,
        target,
        node_port,
    })
}

fn affinity(spec: &ServiceSpec) -> Result<Option<u32>, Refusal> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(None),
        Some("ClientIP") => {}
        Some(other) => return none_of("spec.sessionAffinity", other, &["None", "ClientIP"]),
    }
    let config = spec.session_affinity_config.as_ref();
    let client = config.and_then(|config| config.client_ip.as_ref());
    let Some(seconds) = client.and_then(|client| client.timeout_seconds) else {
        return Ok(Some(AFFINITY_S));
    };
    match u32::try_from(seconds) {
        Ok(well) if (1..=AFFINITY_MOST_S).contains(&seconds) => Ok(Some(well)),
        _ => refuse(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            format!("want 1 to {AFFINITY_MOST_S} seconds, not {seconds}"),
        ),
    }
}

fn source_ranges(
    spec: &ServiceSpec,
    kind: ServiceType,
    annotations: Option<&BTreeMap<String, String>>,
) -> Result<BTreeSet<IpNet>, Refusal> {
    let path = "spec.loadBalancerSourceRanges";
    let given = spec
        .load_balancer_source_ranges
        .as_deref()
        .unwrap_or_default();
    if !given.is_empty() {
        if kind != ServiceType::LoadBalancer {
            return refuse(path, "it is for type LoadBalancer");
        }
        let numbered = given.iter().enumerate();
        return numbered
            .map(|(at, text)| check::cidr(&format!("{path}[{at}]"), text.trim()))
            .collect();
    }
    let text = annotations.and_then(|all| all.get(SOURCE_RANGES));
    let parts = text.into_iter().flat_map(|text| text.split(','));
    let parts = parts.map(str::trim).filter(|part| !part.is_empty());
    if kind != ServiceType::LoadBalancer {
        return Ok(BTreeSet::new());
    }
    parts
        .map(|part| check::cidr(&annotation(SOURCE_RANGES), part))
        .collect()
}

fn distribution(spec: &ServiceSpec) -> Result<Option<Distribution>, Refusal> {
    match spec.traffic_distribution.as_deref() {
        None | Some("") => Ok(None),
        Some("PreferClose" | "PreferSameZone") => Ok(Some(Distribution::PreferSameZone)),
        Some("PreferSameNode") => Ok(Some(Distribution::PreferSameNode)),
        Some(other) => {
            let right = ["PreferSameZone", "PreferSameNode", "PreferClose"];
            none_of("spec.trafficDistribution", other, &right)
        }
    }
}

fn health_check_port(
    spec: &ServiceSpec,
    kind: ServiceType,
    local: bool,
) -> Result<Option<u16>, Refusal> {
    let path = "spec.healthCheckNodePort";
    match spec.health_check_node_port.filter(|&port| port != 0) {
        None => Ok(None),
        Some(_) if kind != ServiceType::LoadBalancer || !local => refuse(
            path,
            "it is for type LoadBalancer with externalTrafficPolicy Local",
        ),
        Some(number) => check::port(path, number).map(Some),
    }
}

fn ingress(given: &k8s::Service) -> Result<Vec<Ingress>, Refusal> {
    let status = given.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    let all = balancer.and_then(|balancer| balancer.ingress.as_ref());
    let mut found = Vec::new();
    for (at, one) in all.into_iter().flatten().enumerate() {
        let path = format!("status.loadBalancer.ingress[{at}]");
        let Some(text) = one.ip.as_deref().filter(|text| !text.is_empty()) else {
            continue;
        };
        let proxy = match one.ip_mode.as_deref() {
            None | Some("" | "VIP") => false,
            Some("Proxy") => true,
            Some(other) => return none_of(&format!("{path}.ipMode"), other, &["VIP", "Proxy"]),
        };
        found.push(Ingress {
            address: check::unicast(&format!("{path}.ip"), text)?,
            proxy,
        });
    }
    Ok(found)
}

fn wishes(annotations: Option<&BTreeMap<String, String>>) -> Result<Wishes, Refusal> {
    let get = |name: &str| annotations.and_then(|all| all.get(name)).map(|t| t.trim());
    let least_connections = match get(ALGORITHM) {
        None | Some("" | "random") => false,
        Some("least-connections") => true,
        Some(other) => {
            let right = ["random", "least-connections"];
            return none_of(&annotation(ALGORITHM), other, &right);
        }
    };
    let direct_return = match get(DIRECT_RETURN) {
        None | Some("" | "false") => false,
        Some("true") => true,
        Some(other) => return none_of(&annotation(DIRECT_RETURN), other, &["true", "false"]),
    };
    Ok(Wishes {
        port_ranges: port_ranges(get(PORT_RANGES).unwrap_or_default())?,
        least_connections,
        direct_return,
    })
}

/// `6000-6999/UDP, 7000/SCTP, */TCP`. Without a protocol it is TCP, as for any port.
fn port_ranges(text: &str) -> Result<Vec<PortRange>, Refusal> {
    let path = annotation(PORT_RANGES);
    let mut ranges: Vec<PortRange> = Vec::new();
    let parts = text.split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        let Some(range) = port_range(part) else {
            let reason = format!("{} is no range of ports: 6000-6999/UDP", shown(part));
            return refuse(path, reason);
        };
        let meets = |other: &&PortRange| {
            let apart = range.last < other.first || other.last < range.first;
            other.protocol == range.protocol && !apart
        };
        if let Some(other) = ranges.iter().find(meets) {
            let (first, last) = (other.first, other.last);
            let reason = format!("{} meets {first}-{last}", shown(part));
            return refuse(path, reason);
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn port_range(text: &str) -> Option<PortRange> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol: Protocol = protocol.trim().parse().ok()?;
    let (first, last) = match ports.trim() {
        "*" => (1, u16::MAX),
        ports => {
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            (first.trim().parse().ok()?, last.trim().parse().ok()?)
        }
    };
    (1 <= first && first <= last).then_some(PortRange {
        protocol,
        first,
        last,
    })
}
