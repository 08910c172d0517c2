use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::{PodName, Protocol};

/// A Service, by `metadata.namespace` and `metadata.name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in it.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What programs a node's load balancing needs to know of a `v1` `Service`.
#[expect(
    clippy::struct_excessive_bools,
    reason = "fields of the API, as it has them"
)]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Which one.
    pub name: ServiceName,
    /// `metadata.creationTimestamp` in seconds since 1970, zero for unknown: of two Services that
    /// claim one address and port the older one has it, then the first by name.
    pub created: i64,
    /// `spec.type`.
    pub kind: ServiceType,
    /// `spec.clusterIPs`, at most one a family; empty for a headless one, or before there are any.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.clusterIP` is `None`.
    pub headless: bool,
    /// `spec.externalIPs`.
    pub external_ips: BTreeSet<IpAddr>,
    /// `status.loadBalancer.ingress` that have an `ip`.
    pub ingress: Vec<Ingress>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
    /// `spec.selector`; empty for none.
    pub selector: BTreeMap<String, String>,
    /// `spec.internalTrafficPolicy` is `Local`.
    pub internal_local: bool,
    /// `spec.externalTrafficPolicy` is `Local`.
    pub external_local: bool,
    /// `spec.sessionAffinity` is `ClientIP`: `timeoutSeconds`, 10,800 when not said.
    pub affinity: Option<u32>,
    /// `spec.publishNotReadyAddresses`. The endpoints say it themselves; it is for who derives them.
    pub publish_not_ready: bool,
    /// `spec.loadBalancerSourceRanges`, else the annotation
    /// `service.beta.kubernetes.io/load-balancer-source-ranges`; empty for anybody.
    pub source_ranges: BTreeSet<IpNet>,
    /// `spec.trafficDistribution`. The hints of endpoints say it themselves; it is for who derives
    /// them.
    pub distribution: Option<Distribution>,
    /// `spec.healthCheckNodePort`.
    pub health_check_port: Option<u16>,
    /// `spec.loadBalancerClass`. Nobody here asks for it: who gives addresses does.
    pub load_balancer_class: Option<String>,
    /// The label `service.kubernetes.io/service-proxy-name`: somebody else's Service.
    pub proxy_name: Option<String>,
    /// What annotations of ours ask for.
    pub wishes: Wishes,
}

/// `spec.type` of a Service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ServiceType {
    /// `ClusterIP`.
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// `NodePort`.
    NodePort,
    /// `LoadBalancer`.
    LoadBalancer,
    /// `ExternalName`: DNS' alone.
    ExternalName,
}

/// An address that a load balancer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Ingress {
    /// `ip`.
    pub address: IpAddr,
    /// `ipMode` is `Proxy`: clients inside go to the load balancer, as others do.
    pub proxy: bool,
}

/// `spec.ports[]` of a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`; empty for the only one.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `targetPort`; for who derives endpoints.
    pub target: TargetPort,
    /// `nodePort`, if there is one.
    pub node_port: Option<u16>,
}

/// `targetPort`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// The name of a container's port.
    Name(String),
}

/// `spec.trafficDistribution`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Distribution {
    /// `PreferSameZone`, formerly `PreferClose`.
    PreferSameZone,
    /// `PreferSameNode`.
    PreferSameNode,
}

/// What annotations of ours ask of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wishes {
    /// `watari.io/port-ranges: "6000-6999/UDP, */TCP"`: further ports, by which the backend is
    /// reached at the port that the client chose. `*` is 1-65535.
    pub port_ranges: Vec<PortRange>,
    /// `watari.io/algorithm: least-connections`: of two backends that with fewer connections.
    pub least_connections: bool,
    /// `watari.io/direct-return: "true"`: the backend answers clients outside by itself.
    pub direct_return: bool,
}

/// Ports from `first` to `last`, both among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// Of which protocol.
    pub protocol: Protocol,
    /// The first one.
    pub first: u16,
    /// The last one.
    pub last: u16,
}

/// What a node's load balancing needs to know of a `discovery.k8s.io/v1` `EndpointSlice`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// `metadata.namespace` and `metadata.name` of the slice.
    pub name: ServiceName,
    /// Of which Service: the label `kubernetes.io/service-name`.
    pub service: String,
    /// `addressType` is `IPv6`; else it is `IPv4`.
    pub v6: bool,
    /// `ports`.
    pub ports: Vec<SlicePort>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
}

/// `ports[]` of a slice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlicePort {
    /// `name`: that of the Service's port.
    pub name: String,
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`; nothing for any.
    pub port: Option<u16>,
}

/// `endpoints[]` of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// The first of `addresses`; the others have no meaning (as the API says).
    pub address: IpAddr,
    /// `conditions.ready`; true when not said.
    pub ready: bool,
    /// `conditions.serving`; as `ready` when not said.
    pub serving: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
    /// `nodeName`. Many have the same.
    pub node: Option<Arc<str>>,
    /// `zone`.
    pub zone: Option<Arc<str>>,
    /// `hints.forZones`.
    pub for_zones: Vec<Arc<str>>,
    /// `hints.forNodes`.
    pub for_nodes: Vec<Arc<str>>,
    /// `targetRef`, if it is a Pod.
    pub pod: Option<PodName>,
    /// How many parts of the connections it gets beside others, 1 to 100: the annotation
    /// `watari.io/weight` of its slice, or of its Pod where slices are derived; 1 when not said.
    pub weight: u8,
}
