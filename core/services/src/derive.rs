use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use watari_model::{
    ClusterPod, Distribution, EndpointSlice, Service, ServiceName, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TargetPort,
};

/// Endpoints that a slice has at most (upstream's `--max-endpoints-per-slice`).
const MAX_ENDPOINTS: usize = 100;

/// The `EndpointSlices` of all Services that have a selector, as the control plane makes them of pods:
/// `staging/src/k8s.io/endpointslice` of Kubernetes. `zone_of` knows the zone of a node.
///
/// Names come of the Service, the family, the ports and a number; so a pod that comes changes the slices
/// that it comes into, and no name. Leave out Services whose slices somebody else makes.
pub fn derive<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    pods: impl IntoIterator<Item = &'a ClusterPod>,
    zone_of: &dyn Fn(&str) -> Option<Arc<str>>,
) -> Vec<EndpointSlice> {
    let pods = Pods::new(pods);
    let mut slices = Vec::new();
    for service in services {
        if service.kind == ServiceType::ExternalName || service.selector.is_empty() {
            continue;
        }
        let selected = pods.selected(service);
        let mut taken = BTreeSet::new();
        for v6 in families(service) {
            of_family(service, &selected, v6, zone_of, &mut taken, &mut slices);
        }
    }
    slices
}

/// The families of a Service: those of its cluster addresses; a headless one has both.
fn families(service: &Service) -> Vec<bool> {
    let has = |v6: bool| service.cluster_ips.iter().any(|ip| ip.is_ipv6() == v6);
    let neither = service.cluster_ips.is_empty();
    [false, true]
        .into_iter()
        .filter(|v6| neither || has(*v6))
        .collect()
}

/// Pods that may be endpoints, by namespace and label.
struct Pods<'a> {
    by_label: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a ClusterPod>>,
}

impl<'a> Pods<'a> {
    fn new(pods: impl IntoIterator<Item = &'a ClusterPod>) -> Self {
        let mut by_label: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for pod in pods {
            // Upstream's `ShouldPodBeInEndpoints`.
            if pod.finished || pod.addresses.is_empty() {
                continue;
            }
            for (key, value) in &pod.labels {
                let label = (pod.name.namespace.as_str(), key.as_str(), value.as_str());
                by_label.entry(label).or_default().push(pod);
            }
        }
        Self { by_label }
    }

    /// The pods that a Service selects, by name: of the label that the fewest have, those that have
    /// the others too.
    fn selected(&self, service: &Service) -> Vec<&'a ClusterPod> {
        let mut fewest: Option<&Vec<&ClusterPod>> = None;
        for (key, value) in &service.selector {
            let label = (
                service.name.namespace.as_str(),
                key.as_str(),
                value.as_str(),
            );
            let Some(having) = self.by_label.get(&label) else {
                return Vec::new();
            };
            if fewest.is_none_or(|fewest| having.len() < fewest.len()) {
                fewest = Some(having);
            }
        }
        let all = fewest.into_iter().flatten().copied();
        let has = |pod: &&ClusterPod| {
            let mut wanted = service.selector.iter();
            wanted.all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let mut selected: Vec<_> = all.filter(has).collect();
        selected.sort_by(|a, b| a.name.cmp(&b.name));
        selected.dedup_by(|a, b| a.name == b.name);
        selected
    }
}

/// Pods that have the same ports make slices of their own.
fn of_family(
    service: &Service,
    pods: &[&ClusterPod],
    v6: bool,
    zone_of: &dyn Fn(&str) -> Option<Arc<str>>,
    taken: &mut BTreeSet<String>,
    slices: &mut Vec<EndpointSlice>,
) {
    let mut groups: BTreeMap<Vec<SlicePort>, Vec<SliceEndpoint>> = BTreeMap::new();
    for pod in pods {
        let address = pod.addresses.iter().find(|ip| ip.is_ipv6() == v6);
        if let Some(address) = address {
            let group = groups.entry(ports(service, pod)).or_default();
            group.push(endpoint(service, pod, *address, zone_of));
        }
    }
    if groups.is_empty() {
        // The placeholder that tells apart what has no endpoints from what nobody looked at.
        groups.insert(Vec::new(), Vec::new());
    }
    for (ports, endpoints) in groups {
        let chunks = match endpoints.len() {
            0 => vec![&endpoints[..]],
            _ => endpoints.chunks(MAX_ENDPOINTS).collect(),
        };
        for (number, chunk) in chunks.into_iter().enumerate() {
            slices.push(EndpointSlice {
                name: ServiceName {
                    namespace: service.name.namespace.clone(),
                    name: name(&service.name.name, v6, &ports, number, taken),
                },
                service: service.name.name.clone(),
                v6,
                ports: ports.clone(),
                endpoints: chunk.to_vec(),
            });
        }
    }
}

/// The ports of a Service as a pod has them; those that it has not are left out.
fn ports(service: &Service, pod: &ClusterPod) -> Vec<SlicePort> {
    let all = service.ports.iter().filter_map(|port| {
        Some(SlicePort {
            name: port.name.clone(),
            protocol: port.protocol,
            port: Some(number(port, pod)?),
        })
    });
    all.collect()
}

/// Upstream's `FindPort`.
fn number(port: &ServicePort, pod: &ClusterPod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let mut all = pod.ports.iter();
            let found = all.find(|at| at.name == *name && at.protocol == port.protocol);
            found.map(|at| at.port)
        }
    }
}

/// Upstream's `podToEndpoint`, and the hints of its package `trafficdist`.
fn endpoint(
    service: &Service,
    pod: &ClusterPod,
    address: IpAddr,
    zone_of: &dyn Fn(&str) -> Option<Arc<str>>,
) -> SliceEndpoint {
    let ready = service.publish_not_ready || (pod.ready && !pod.terminating);
    let zone = pod.node.as_deref().and_then(zone_of);
    let near = service.distribution.filter(|_| ready);
    let to_node = near == Some(Distribution::PreferSameNode);
    SliceEndpoint {
        address,
        ready,
        serving: pod.ready,
        terminating: pod.terminating,
        node: pod.node.clone(),
        for_zones: zone.iter().filter(|_| near.is_some()).cloned().collect(),
        for_nodes: pod.node.iter().filter(|_| to_node).cloned().collect(),
        zone,
        pod: Some(pod.name.clone()),
        weight: pod.weight,
    }
}

/// The name of a slice: the Service's, and five characters that come of what the slice is.
fn name(
    service: &str,
    v6: bool,
    ports: &[SlicePort],
    number: usize,
    taken: &mut BTreeSet<String>,
) -> String {
    // As Kubernetes' own random ones: none of them can make a word.
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = Fnv::new();
    hash.add(&[u8::from(v6)]);
    for port in ports {
        hash.add(port.name.as_bytes());
        hash.add(&[0, port.protocol.number()]);
        hash.add(&port.port.unwrap_or(0).to_be_bytes());
    }
    hash.add(&(number as u64).to_be_bytes());
    loop {
        let mut rest = hash.0;
        let mut name = format!("{service}-");
        for _ in 0..5 {
            let letter = usize::try_from(rest % LETTERS.len() as u64).unwrap_or_default();
            name.push(char::from(LETTERS[letter]));
            rest /= LETTERS.len() as u64;
        }
        if taken.insert(name.clone()) {
            return name;
        }
        hash.add(b"again");
    }
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}
