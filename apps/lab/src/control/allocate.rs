//! What an API server adds to a Service: families, addresses, ports, and what is not said.
//!
//! Where it chooses, it begins at a place that comes of the Service's name: a Service has the same
//! address in every lab, unless another one has it already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{
    LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec, ServiceStatus,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::Refusal;

/// `--service-node-port-range` as it usually is. The first are kept for who asks for one by number.
const NODE_PORTS: (i32, i32) = (30_000, 32_767);
const NODE_PORTS_ASKED: i32 = 86;

/// Where addresses are from, and which are given already.
#[derive(Debug, Default)]
pub struct Given {
    /// The ranges of cluster addresses; the first is of the family that is meant when none is said.
    pub cidrs: Vec<IpNet>,
    /// Those of load balancers.
    pub pools: Vec<IpNet>,
    /// Addresses of other Services.
    addresses: BTreeSet<IpAddr>,
    /// Node ports of other Services, for health checks too, with the protocol (none for all).
    ports: BTreeSet<NodePort>,
}

impl Given {
    /// Nothing is given yet.
    pub fn new(cidrs: &[IpNet], pools: &[IpNet]) -> Self {
        Self {
            cidrs: cidrs.to_vec(),
            pools: pools.to_vec(),
            ..Self::default()
        }
    }

    /// Notes what a Service has.
    pub fn note(&mut self, service: &Service) {
        let (addresses, ports) = what_it_has(service);
        self.addresses.extend(addresses);
        self.ports.extend(ports);
    }

    /// What a Service had is free again.
    pub fn forget(&mut self, service: &Service) {
        let (addresses, ports) = what_it_has(service);
        for address in addresses {
            self.addresses.remove(&address);
        }
        for port in ports {
            self.ports.remove(&port);
        }
    }

    fn port_is_free(&self, number: i32, protocol: Option<&str>) -> bool {
        let mut of = self.ports.range((number, None)..(number + 1, None));
        !of.any(|(_, other)| other.is_none() || protocol.is_none() || other.as_deref() == protocol)
    }
}

/// A node port with its protocol; without one it is taken for all.
type NodePort = (i32, Option<String>);

fn what_it_has(service: &Service) -> (BTreeSet<IpAddr>, BTreeSet<NodePort>) {
    let none = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&none);
    let clusters = spec.cluster_ips.iter().flatten();
    let balancers = ingress_of(service).iter();
    let balancers = balancers.filter_map(|one| one.ip.as_ref());
    let addresses = clusters.chain(balancers);
    let addresses = addresses.filter_map(|ip| ip.parse::<IpAddr>().ok());
    let mut ports = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        if let Some(number) = port.node_port.filter(|&number| number != 0) {
            ports.insert((number, Some(protocol(port.protocol.as_deref()))));
        }
    }
    let health = spec.health_check_node_port.filter(|&number| number != 0);
    ports.extend(health.map(|number| (number, None)));
    (addresses.collect(), ports)
}

fn protocol(text: Option<&str>) -> String {
    match text {
        None | Some("") => "TCP".to_owned(),
        Some(text) => text.to_owned(),
    }
}

fn ingress_of(service: &Service) -> &[LoadBalancerIngress] {
    let status = service.status.as_ref();
    let balancer = status.and_then(|status| status.load_balancer.as_ref());
    balancer
        .and_then(|b| b.ingress.as_deref())
        .unwrap_or_default()
}

/// A Service as the API server would keep it. `old` is what it was before, if it was there: it keeps
/// what was given to it.
pub fn complete(
    mut service: Service,
    old: Option<&Service>,
    given: &mut Given,
) -> Result<Service, Refusal> {
    let name = format!(
        "{}/{}",
        service.metadata.namespace.as_deref().unwrap_or_default(),
        service.metadata.name.as_deref().unwrap_or_default()
    );
    let mut spec = service.spec.take().unwrap_or_default();
    defaults(&mut spec);
    if let Some(old) = old.and_then(|old| old.spec.as_ref()) {
        keep(&mut spec, old);
    }
    if spec.type_.as_deref() != Some("ExternalName") {
        families(&mut spec, &given.cidrs)?;
        cluster_ips(&mut spec, &name, given)?;
        node_ports(&mut spec, &name, given)?;
        health_check(&mut spec, &name, given)?;
    }
    let had = old.map(ingress_of).unwrap_or_default();
    let ingress = ingress(&spec, &name, had, given)?;
    service.spec = Some(spec);
    service.status = Some(ServiceStatus {
        conditions: None,
        load_balancer: Some(LoadBalancerStatus {
            ingress: (!ingress.is_empty()).then_some(ingress),
        }),
    });
    Ok(service)
}

/// What holds when nothing is said.
fn defaults(spec: &mut ServiceSpec) {
    let say = |field: &mut Option<String>, text: &str| {
        if field.as_ref().is_none_or(String::is_empty) {
            *field = Some(text.to_owned());
        }
    };
    say(&mut spec.type_, "ClusterIP");
    say(&mut spec.session_affinity, "None");
    let external = spec.type_.as_deref() == Some("ExternalName");
    if !external {
        say(&mut spec.internal_traffic_policy, "Cluster");
    }
    let outside = exposed(spec)
        || spec
            .external_ips
            .as_ref()
            .is_some_and(|ips| !ips.is_empty());
    if outside && !external {
        say(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.type_.as_deref() == Some("LoadBalancer") {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    for port in spec.ports.iter_mut().flatten() {
        port.protocol = Some(protocol(port.protocol.as_deref()));
        let unsaid = match &port.target_port {
            None => true,
            Some(IntOrString::Int(number)) => *number == 0,
            Some(IntOrString::String(text)) => text.is_empty(),
        };
        if unsaid {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    let first = spec
        .cluster_ips
        .as_ref()
        .and_then(|all| all.first())
        .cloned();
    match (&spec.cluster_ip, first) {
        (None, Some(first)) => spec.cluster_ip = Some(first),
        (Some(one), None) if !one.is_empty() => spec.cluster_ips = Some(vec![one.clone()]),
        _ => {}
    }
}

fn exposed(spec: &ServiceSpec) -> bool {
    matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"))
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// Takes over what was given before and is not said again.
fn keep(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let has = |spec: &ServiceSpec| {
        let one = spec.cluster_ip.as_ref();
        one.is_some_and(|one| !one.is_empty())
    };
    if spec.ip_family_policy.is_none() {
        spec.ip_family_policy.clone_from(&old.ip_family_policy);
    }
    let external = spec.type_.as_deref() == Some("ExternalName");
    if !external && !has(spec) && has(old) && !is_headless(old) {
        spec.cluster_ip.clone_from(&old.cluster_ip);
        spec.cluster_ips.clone_from(&old.cluster_ips);
        if spec.ip_families.is_none() {
            spec.ip_families.clone_from(&old.ip_families);
        }
        if spec.ip_family_policy.as_deref() == Some("SingleStack") {
            // What a second family had is let go.
            spec.cluster_ips.iter_mut().for_each(|all| all.truncate(1));
            spec.ip_families.iter_mut().for_each(|all| all.truncate(1));
        }
    }
    if exposed(spec) {
        for port in spec.ports.iter_mut().flatten() {
            let mut before = old.ports.iter().flatten();
            let same =
                before.find(|other| (other.port, &other.protocol) == (port.port, &port.protocol));
            if port.node_port.is_none_or(|number| number == 0) {
                port.node_port = same.and_then(|same| same.node_port);
            }
        }
    }
    if spec.health_check_node_port.is_none() && wants_health_check(spec) {
        spec.health_check_node_port = old.health_check_node_port;
    }
}

/// Which families a Service has, by the rules of the API server.
fn families(spec: &mut ServiceSpec, cidrs: &[IpNet]) -> Result<(), Refusal> {
    let text = |net: &IpNet| if net.addr().is_ipv4() { "IPv4" } else { "IPv6" };
    let has: Vec<&str> = cidrs.iter().map(text).collect();
    let free = is_headless(spec) && spec.selector.as_ref().is_none_or(BTreeMap::is_empty);
    let usual = if free {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    let policy = spec
        .ip_family_policy
        .get_or_insert_with(|| usual.to_owned());
    let policy = policy.clone();
    let single = policy == "SingleStack";
    let mut families = spec.ip_families.clone().unwrap_or_default();
    let addresses = spec.cluster_ips.clone().unwrap_or_default();
    let several = "want ipFamilyPolicy PreferDualStack or RequireDualStack with more than one";
    if single && families.len() > 1 {
        return super::refuse("spec.ipFamilies", several);
    }
    if single && addresses.len() > 1 {
        return super::refuse("spec.clusterIPs", several);
    }
    if !is_headless(spec) {
        for (at, ip) in addresses.iter().enumerate() {
            let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
            match families.get(at) {
                None => families.push(family.to_owned()),
                Some(other) if other == family => {}
                Some(other) => {
                    let reason = format!("{ip} is not of spec.ipFamilies[{at}], {other}");
                    return super::refuse(format!("spec.clusterIPs[{at}]"), reason);
                }
            }
        }
    }
    if !free && policy == "RequireDualStack" && has.len() < 2 {
        let reason = "RequireDualStack, and the lab has one family (ipv4, ipv6 of lab.yaml)";
        return super::refuse("spec.ipFamilyPolicy", reason);
    }
    let unknown = |family: &&String| !free && !has.contains(&family.as_str());
    if let Some(family) = families.iter().find(unknown) {
        let reason = format!("the lab has no {family} addresses");
        return super::refuse("spec.ipFamilies", reason);
    }
    if families.is_empty() {
        families.extend(has.first().map(|&first| first.to_owned()));
    }
    if !single && families.len() == 1 && (free || has.len() == 2) {
        let other = if families[0] == "IPv4" {
            "IPv6"
        } else {
            "IPv4"
        };
        families.push(other.to_owned());
    }
    spec.ip_families = Some(families);
    Ok(())
}

fn cluster_ips(spec: &mut ServiceSpec, name: &str, given: &mut Given) -> Result<(), Refusal> {
    if is_headless(spec) {
        spec.cluster_ips = Some(vec!["None".to_owned()]);
        return Ok(());
    }
    let families = spec.ip_families.clone().unwrap_or_default();
    let mut addresses = spec.cluster_ips.clone().unwrap_or_default();
    addresses.retain(|ip| !ip.is_empty());
    for (at, family) in families.iter().enumerate() {
        let path = format!("spec.clusterIPs[{at}]");
        let v6 = family == "IPv6";
        let Some(&net) = given.cidrs.iter().find(|net| net.addr().is_ipv6() == v6) else {
            return super::refuse(path, format!("the lab has no {family} addresses"));
        };
        let asked = addresses.get(at).and_then(|ip| ip.parse().ok());
        let address = match asked {
            Some(address) => claim(
                &path,
                address,
                net,
                "the lab's range of cluster addresses",
                given,
            )?,
            None => choose(&path, name, net, static_part(net), given)?,
        };
        if at < addresses.len() {
            addresses[at] = address.to_string();
        } else {
            addresses.push(address.to_string());
        }
    }
    spec.cluster_ip = addresses.first().cloned();
    spec.cluster_ips = Some(addresses);
    Ok(())
}

/// How many of the first addresses are kept for who asks for one by number (KEP-3070).
fn static_part(net: IpNet) -> u128 {
    (size(net) / 16).clamp(16, 256).min(size(net) / 2)
}

/// How many addresses a range has.
fn size(net: IpNet) -> u128 {
    1_u128 << u32::from((net.max_prefix_len() - net.prefix_len()).min(127))
}

fn claim(
    path: &str,
    address: IpAddr,
    net: IpNet,
    what: &str,
    given: &mut Given,
) -> Result<IpAddr, Refusal> {
    if !net.contains(&address) || address == net.addr() {
        return super::refuse(path, format!("{address} is not of {what}, {net}"));
    }
    if !given.addresses.insert(address) {
        return super::refuse(path, format!("{address} is another Service's"));
    }
    Ok(address)
}

fn choose(
    path: &str,
    name: &str,
    net: IpNet,
    kept: u128,
    given: &mut Given,
) -> Result<IpAddr, Refusal> {
    // Neither the first nor the last, which is the range's broadcast address.
    let first = kept.max(1);
    let count = size(net) - 1 - first;
    let start = u128::from(number_of(name)) % count.max(1);
    let around = (0..count.min(1 << 20)).map(|step| first + (start + step) % count);
    for offset in around.chain(1..first) {
        let address = nth(net, offset);
        if given.addresses.insert(address) {
            return Ok(address);
        }
    }
    super::refuse(path, format!("no address of {net} is free"))
}

fn nth(net: IpNet, offset: u128) -> IpAddr {
    match net.network() {
        IpAddr::V4(four) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(u32::from(four).saturating_add(offset).into())
        }
        IpAddr::V6(six) => IpAddr::V6(u128::from(six).saturating_add(offset).into()),
    }
}

/// A number that comes of a text, spread evenly (FNV-1a).
pub fn number_of(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, step);
    // The low bits of short texts are alike.
    hash ^ (hash >> 29)
}

fn node_ports(spec: &mut ServiceSpec, name: &str, given: &mut Given) -> Result<(), Refusal> {
    let balancer = spec.type_.as_deref() == Some("LoadBalancer");
    let chooses =
        exposed(spec) && !(balancer && spec.allocate_load_balancer_node_ports == Some(false));
    // One number for all protocols of a port, as the API server does.
    let mut of_port: BTreeMap<i32, i32> = BTreeMap::new();
    let mut ports = spec.ports.clone().unwrap_or_default();
    for (at, port) in ports.iter_mut().enumerate() {
        let path = format!("spec.ports[{at}].nodePort");
        let protocol = protocol(port.protocol.as_deref());
        let asked = port.node_port.filter(|&number| number != 0);
        let number = match asked {
            Some(number) => claim_port(&path, number, Some(&protocol), given)?,
            None if !chooses => continue,
            None => {
                let shared = of_port.get(&port.port).copied();
                let shared = shared.filter(|&n| given.port_is_free(n, Some(&protocol)));
                let seed = format!("{name}:{}", port.port);
                let number = match shared {
                    Some(number) => number,
                    None => free_port(&path, &seed, Some(&protocol), given)?,
                };
                given.ports.insert((number, Some(protocol)));
                number
            }
        };
        of_port.insert(port.port, number);
        port.node_port = Some(number);
    }
    spec.ports = spec.ports.is_some().then_some(ports);
    Ok(())
}

fn claim_port(
    path: &str,
    number: i32,
    protocol: Option<&str>,
    given: &mut Given,
) -> Result<i32, Refusal> {
    let (first, last) = NODE_PORTS;
    if !(first..=last).contains(&number) {
        let reason = format!("{number} is not of the range of node ports, {first}-{last}");
        return super::refuse(path, reason);
    }
    if !given.port_is_free(number, protocol) {
        return super::refuse(path, format!("{number} is another Service's"));
    }
    given.ports.insert((number, protocol.map(str::to_owned)));
    Ok(number)
}

fn free_port(
    path: &str,
    seed: &str,
    protocol: Option<&str>,
    given: &Given,
) -> Result<i32, Refusal> {
    let (first, last) = (NODE_PORTS.0 + NODE_PORTS_ASKED, NODE_PORTS.1);
    let count = u64::try_from(last - first + 1).unwrap_or(1);
    let start = i32::try_from(number_of(seed) % count).unwrap_or(0);
    let around = (first + start..=last).chain(NODE_PORTS.0..first + start);
    let mut around = around.filter(|&number| given.port_is_free(number, protocol));
    match around.next() {
        Some(number) => Ok(number),
        None => super::refuse(path, "no node port is free"),
    }
}

fn wants_health_check(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn health_check(spec: &mut ServiceSpec, name: &str, given: &mut Given) -> Result<(), Refusal> {
    if !wants_health_check(spec) {
        spec.health_check_node_port = None;
        return Ok(());
    }
    let path = "spec.healthCheckNodePort";
    let asked = spec.health_check_node_port.filter(|&number| number != 0);
    let number = match asked {
        Some(number) => claim_port(path, number, None, given)?,
        None => free_port(path, &format!("{name}/health"), None, given)?,
    };
    given.ports.insert((number, None));
    spec.health_check_node_port = Some(number);
    Ok(())
}

/// The load balancer's addresses: one of each of the Service's families that the lab has a pool of.
fn ingress(
    spec: &ServiceSpec,
    name: &str,
    had: &[LoadBalancerIngress],
    given: &mut Given,
) -> Result<Vec<LoadBalancerIngress>, Refusal> {
    // Somebody else gives addresses of another class.
    let ours = spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none();
    if !ours {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let path = "spec.loadBalancerIP";
    let asked = spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty());
    let asked: Option<IpAddr> = match asked.map(str::parse) {
        Some(Err(_)) => return super::refuse(path, "it is no IP address"),
        Some(Ok(address)) => Some(address),
        None => None,
    };
    for family in spec.ip_families.iter().flatten() {
        let v6 = family == "IPv6";
        let Some(&pool) = given.pools.iter().find(|net| net.addr().is_ipv6() == v6) else {
            continue;
        };
        let like = |address: &IpAddr| address.is_ipv6() == v6;
        let mut before = had.iter().filter_map(|one| one.ip.as_ref()?.parse().ok());
        let before = before.find(|address| like(address) && pool.contains(address));
        let address = match (asked.filter(like), before) {
            (Some(asked), _) => claim(path, asked, pool, "the lab's pool", given)?,
            (None, Some(before)) => {
                given.addresses.insert(before);
                before
            }
            (None, None) => choose("status.loadBalancer", name, pool, 1, given)?,
        };
        found.push(LoadBalancerIngress {
            ip: Some(address.to_string()),
            ip_mode: Some("VIP".to_owned()),
            ..LoadBalancerIngress::default()
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
