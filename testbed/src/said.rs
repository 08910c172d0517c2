//! Services in few words, as the model has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use watari_model::{
    ClusterNode, EndpointSlice, Ingress, Protocol, Service, ServiceName, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TargetPort, Wishes,
};

use crate::bed::Node;

/// The ranges of cluster addresses.
pub const CIDRS: [&str; 2] = ["10.96.0.0/16", "fd96::/112"];

/// A Service with its `EndpointSlice`s. Both families, unless something else is said.
#[derive(Debug, Clone)]
pub struct Said {
    /// Public, for what no method says.
    pub service: Service,
    /// Who is behind.
    pub ends: Vec<End>,
    targets: Vec<SlicePort>,
}

/// An endpoint: a pod by the indices of node and pod.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "fields of the API, as it has them"
)]
pub struct End {
    /// The index of the node.
    pub node: u8,
    /// The index of the pod on it.
    pub pod: u8,
    /// The condition.
    pub ready: bool,
    /// The condition.
    pub serving: bool,
    /// The condition.
    pub terminating: bool,
    /// `watari.io/weight`.
    pub weight: u8,
    /// `hints.forZones`.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<Arc<str>>,
    /// Processes of the node itself, not of a pod.
    pub host: bool,
}

/// A pod that is ready.
pub fn end(node: u8, pod: u8) -> End {
    End {
        node,
        pod,
        ready: true,
        serving: true,
        terminating: false,
        weight: 1,
        for_zones: Vec::new(),
        for_nodes: Vec::new(),
        host: false,
    }
}

/// The name of a node by its index.
pub fn node_name(index: u8) -> Arc<str> {
    format!("node{}", index + 1).into()
}

/// A node as the cluster knows it.
pub fn cluster_node(node: &Node, zone: Option<&str>) -> ClusterNode {
    ClusterNode {
        name: node_name(node.number - 1).to_string(),
        addresses: node.addresses().to_vec(),
        pod_cidrs: node
            .ranges()
            .iter()
            .filter_map(|range| range.parse().ok())
            .collect(),
        owned: Vec::new(),
        zone: zone.map(Into::into),
        deleting: false,
    }
}

impl End {
    /// It drains: it serves, and is ready no more.
    #[must_use]
    pub fn terminating(mut self) -> Self {
        (self.ready, self.terminating) = (false, true);
        self
    }

    /// It is not ready, and does not serve.
    #[must_use]
    pub fn unready(mut self) -> Self {
        (self.ready, self.serving) = (false, false);
        self
    }

    /// It gets so many parts.
    #[must_use]
    pub fn weight(mut self, weight: u8) -> Self {
        self.weight = weight;
        self
    }

    /// It is for clients in this zone.
    #[must_use]
    pub fn for_zone(mut self, zone: &str) -> Self {
        self.for_zones.push(zone.into());
        self
    }

    /// It is for clients on this node.
    #[must_use]
    pub fn for_node(mut self, node: u8) -> Self {
        self.for_nodes.push(node_name(node));
        self
    }

    /// It is in the node's own namespace.
    #[must_use]
    pub fn host(mut self) -> Self {
        self.host = true;
        self
    }

    fn address(&self, v6: bool) -> IpAddr {
        let (node, pod) = (self.node + 1, self.pod + 1);
        match (self.host, v6) {
            (false, false) => Ipv4Addr::new(10, 250, node, pod).into(),
            (false, true) => Ipv6Addr::new(0xfd50, 0, 0, node.into(), 0, 0, 0, pod.into()).into(),
            (true, false) => Ipv4Addr::new(172, 20, node, 1).into(),
            (true, true) => Ipv6Addr::new(0xfd20, 0, 0, node.into(), 0, 0, 0, 1).into(),
        }
    }

    fn slice_endpoint(&self, v6: bool) -> SliceEndpoint {
        SliceEndpoint {
            address: self.address(v6),
            ready: self.ready,
            serving: self.serving,
            terminating: self.terminating,
            node: Some(node_name(self.node)),
            zone: None,
            for_zones: self.for_zones.clone(),
            for_nodes: self.for_nodes.clone(),
            pod: None,
            weight: self.weight,
        }
    }
}

impl Said {
    /// A Service with the cluster addresses of that number (1 to 65,534).
    pub fn new(name: &str, number: u16) -> Self {
        let service = Service {
            name: ServiceName {
                namespace: "scenes".to_owned(),
                name: name.to_owned(),
            },
            created: 0,
            kind: ServiceType::ClusterIp,
            cluster_ips: [false, true].map(|v6| cluster_ip(number, v6)).to_vec(),
            headless: false,
            external_ips: BTreeSet::new(),
            ingress: Vec::new(),
            ports: Vec::new(),
            selector: BTreeMap::new(),
            internal_local: false,
            external_local: false,
            affinity: None,
            publish_not_ready: false,
            source_ranges: BTreeSet::new(),
            distribution: None,
            health_check_port: None,
            load_balancer_class: None,
            proxy_name: None,
            wishes: Wishes::default(),
        };
        Self {
            service,
            ends: Vec::new(),
            targets: Vec::new(),
        }
    }

    /// A port, and that of the endpoints.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: Protocol, port: u16, target: u16) -> Self {
        self.service.ports.push(ServicePort {
            name: name.to_owned(),
            protocol,
            port,
            target: TargetPort::Name(name.to_owned()),
            node_port: None,
        });
        self.targets.push(SlicePort {
            name: name.to_owned(),
            protocol,
            port: Some(target),
        });
        self
    }

    /// Port 80 by TCP and UDP, and 8080 of the endpoints.
    #[must_use]
    pub fn web(self) -> Self {
        self.port("tcp", Protocol::Tcp, 80, 8080)
            .port("udp", Protocol::Udp, 80, 8080)
    }

    /// All its ports have that node port, so it is at least of type `NodePort`.
    #[must_use]
    pub fn node_port(mut self, port: u16) -> Self {
        if self.service.kind == ServiceType::ClusterIp {
            self.service.kind = ServiceType::NodePort;
        }
        for said in &mut self.service.ports {
            said.node_port = Some(port);
        }
        self
    }

    /// It has a load balancer's address.
    #[must_use]
    pub fn ingress(mut self, address: IpAddr, proxy: bool) -> Self {
        self.service.kind = ServiceType::LoadBalancer;
        self.service.ingress.push(Ingress { address, proxy });
        self
    }

    /// What no method says.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Service)) -> Self {
        change(&mut self.service);
        self
    }

    /// Who is behind.
    #[must_use]
    pub fn ends(mut self, ends: impl IntoIterator<Item = End>) -> Self {
        self.ends = ends.into_iter().collect();
        self
    }

    /// Its cluster address of a family.
    pub fn cluster_ip(&self, v6: bool) -> IpAddr {
        let mut all = self.service.cluster_ips.iter();
        let found = all.find(|address| address.is_ipv6() == v6);
        *found.unwrap_or(&IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// Its `EndpointSlice`s, one of each family.
    pub fn slices(&self) -> [EndpointSlice; 2] {
        [false, true].map(|v6| EndpointSlice {
            name: ServiceName {
                namespace: self.service.name.namespace.clone(),
                name: format!(
                    "{}-{}",
                    self.service.name.name,
                    if v6 { "v6" } else { "v4" }
                ),
            },
            service: self.service.name.name.clone(),
            v6,
            ports: self.targets.clone(),
            endpoints: self.ends.iter().map(|end| end.slice_endpoint(v6)).collect(),
        })
    }
}

/// The cluster address of that number.
pub fn cluster_ip(number: u16, v6: bool) -> IpAddr {
    let [high, low] = number.to_be_bytes();
    if v6 {
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, number).into()
    } else {
        Ipv4Addr::new(10, 96, high, low).into()
    }
}
