use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_model::{Protocol, Service, ServiceType};
use watari_tables::{Frontend, FrontendKind, Others};

use crate::names::{Names, Symbol};

/// What is kept of a Service.
#[expect(
    clippy::struct_excessive_bools,
    reason = "fields of the API, as it has them"
)]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub created: i64,
    pub kind: ServiceType,
    pub programmed: Programmed,
    pub cluster_ips: Box<[IpAddr]>,
    pub external_ips: Box<[IpAddr]>,
    /// Of load balancers: where nobody else's proxy stands.
    pub ingress: Box<[IpAddr]>,
    /// Addresses of the Service that no Service may have.
    pub unfit: Box<[IpAddr]>,
    pub ports: Box<[Port]>,
    /// By protocol and port; those of a protocol have no port in common.
    pub ranges: Box<[Range]>,
    pub internal_local: bool,
    /// Also: its type or addresses make it reached from outside.
    pub external_local: bool,
    pub affinity: Option<u32>,
    pub source_ranges: Box<[IpNet]>,
    pub health_check_port: Option<u16>,
    pub least_connections: bool,
    pub direct_return: bool,
}

/// Whether a Service is programmed on nodes, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programmed {
    /// It is.
    Here,
    /// Its label `service.kubernetes.io/service-proxy-name` gives it to somebody else.
    Foreign,
    /// It is headless: DNS gives its endpoints' own addresses.
    Headless,
    /// It is a name in DNS.
    ExternalName,
    /// It has no cluster address yet.
    NoAddress,
}

impl fmt::Display for Programmed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Here => "programmed",
            Self::Foreign => "another proxy's",
            Self::Headless => "headless",
            Self::ExternalName => "a name in DNS",
            Self::NoAddress => "no cluster address yet",
        })
    }
}

/// A port of a Service.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub name: Symbol,
    pub protocol: Protocol,
    pub number: u16,
    pub at_nodes: Option<u16>,
}

/// Ports of a Service at which a backend is reached by the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// What becomes one balancer: a port or the ranges of a protocol, in one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub v6: bool,
    pub item: Item,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Item {
    /// An index of [`Spec::ports`].
    Port(u16),
    /// All of [`Spec::ranges`] that have this protocol.
    Ranges(Protocol),
}

/// A frontend that a part would have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub frontend: Frontend,
    pub protocol: Protocol,
    pub part: Part,
    pub kind: FrontendKind,
}

impl Spec {
    pub fn new(service: &Service, names: &mut Names) -> Self {
        let programmed = if service.kind == ServiceType::ExternalName {
            Programmed::ExternalName
        } else if service.headless {
            Programmed::Headless
        } else if service.cluster_ips.is_empty() {
            Programmed::NoAddress
        } else if service.proxy_name.is_some() {
            Programmed::Foreign
        } else {
            Programmed::Here
        };
        let (cluster_ips, mut unfit) = sorted(service.cluster_ips.iter().copied());
        let (external_ips, bad) = sorted(service.external_ips.iter().copied());
        unfit.extend(bad);
        let direct = service.ingress.iter().filter(|ingress| !ingress.proxy);
        let (ingress, bad) = sorted(direct.map(|ingress| ingress.address));
        unfit.extend(bad);
        // As upstream's `ExternalPolicyLocal`: the field alone means nothing.
        let reached = match service.kind {
            ServiceType::NodePort | ServiceType::LoadBalancer => true,
            ServiceType::ClusterIp => !external_ips.is_empty(),
            ServiceType::ExternalName => false,
        };
        let ports = service.ports.iter().map(|port| Port {
            name: names.take(&port.name),
            protocol: port.protocol,
            number: port.port,
            at_nodes: port.node_port.filter(|&port| port != 0),
        });
        let checked = service.kind == ServiceType::LoadBalancer && service.external_local;
        Self {
            created: service.created,
            kind: service.kind,
            programmed,
            cluster_ips: cluster_ips.into(),
            external_ips: external_ips.into(),
            ingress: ingress.into(),
            unfit: unfit.into(),
            ports: ports.collect(),
            ranges: ranges(service),
            internal_local: service.internal_local,
            external_local: service.external_local && reached,
            affinity: service.affinity,
            source_ranges: service.source_ranges.iter().copied().collect(),
            health_check_port: service.health_check_port.filter(|_| checked),
            least_connections: service.wishes.least_connections,
            direct_return: service.wishes.direct_return,
        }
    }

    /// Gives its texts back.
    pub fn release(&self, names: &mut Names) {
        for port in &self.ports {
            names.release(port.name);
        }
    }

    /// Whether it is reached in a family at all: as upstream, it is where it has a cluster address.
    pub fn has(&self, v6: bool) -> bool {
        self.cluster_ips.iter().any(|ip| ip.is_ipv6() == v6)
    }

    /// What its addresses mean to their other ports.
    pub fn addresses(&self) -> Vec<(IpAddr, Others)> {
        let cluster = match self.programmed {
            Programmed::Here => Others::Refused,
            // Nobody has this address here, yet it must not be dropped as one that no Service has.
            Programmed::Foreign => Others::Stack,
            _ => return Vec::new(),
        };
        let mut all: Vec<_> = self.cluster_ips.iter().map(|ip| (*ip, cluster)).collect();
        if self.programmed == Programmed::Here {
            let others = self.external_ips.iter().chain(&self.ingress);
            let others = others.filter(|ip| self.has(ip.is_ipv6()));
            all.extend(others.map(|ip| (*ip, Others::Stack)));
        }
        all.sort_unstable();
        // Of two words about one address that of the cluster address counts, which is the first.
        all.dedup_by_key(|(ip, _)| *ip);
        all
    }

    /// Its parts, in their order.
    pub fn parts(&self) -> Vec<Part> {
        if self.programmed != Programmed::Here {
            return Vec::new();
        }
        let mut parts = Vec::new();
        for v6 in [false, true].into_iter().filter(|v6| self.has(*v6)) {
            for at in 0..self.ports.len() {
                let item = Item::Port(u16::try_from(at).unwrap_or(u16::MAX));
                parts.push(Part { v6, item });
            }
            let mut protocols: Vec<_> = self.ranges.iter().map(|range| range.protocol).collect();
            protocols.dedup();
            let items = protocols.into_iter().map(Item::Ranges);
            parts.extend(items.map(|item| Part { v6, item }));
        }
        parts
    }

    /// A port by its part.
    pub fn port(&self, at: u16) -> &Port {
        &self.ports[usize::from(at)]
    }

    /// What a part is called.
    pub fn name_of<'a>(&self, part: Part, names: &'a Names) -> &'a str {
        match part.item {
            Item::Port(at) => names.text(self.port(at).name),
            Item::Ranges(Protocol::Tcp) => "ranges/tcp",
            Item::Ranges(Protocol::Udp) => "ranges/udp",
            Item::Ranges(Protocol::Sctp) => "ranges/sctp",
        }
    }

    /// The protocol of a part.
    pub fn protocol_of(&self, part: Part) -> Protocol {
        match part.item {
            Item::Port(at) => self.port(at).protocol,
            Item::Ranges(protocol) => protocol,
        }
    }

    /// Every frontend that it would have if nobody else wanted it; with the addresses of this node
    /// that have node ports. An address that is two things is the first of: cluster address, load
    /// balancer's, external, this node's.
    pub fn claims(&self, node: &[IpAddr]) -> Vec<Claim> {
        let mut claims = Vec::new();
        for part in self.parts() {
            self.claim(part, node, &mut claims);
        }
        claims
    }

    fn claim(&self, part: Part, node: &[IpAddr], claims: &mut Vec<Claim>) {
        let protocol = self.protocol_of(part);
        let mut claim = |address: IpAddr, first, last, range, kind| {
            if address.is_ipv6() == part.v6 {
                let frontend = Frontend {
                    address,
                    first,
                    last,
                    range,
                };
                claims.push(Claim {
                    frontend,
                    protocol,
                    part,
                    kind,
                });
            }
        };
        let kinds = [
            (&self.cluster_ips, FrontendKind::ClusterIp),
            (&self.ingress, FrontendKind::LoadBalancer),
            (&self.external_ips, FrontendKind::ExternalIp),
        ];
        for (addresses, kind) in kinds {
            for &address in addresses {
                match part.item {
                    Item::Port(at) => {
                        let number = self.port(at).number;
                        claim(address, number, number, false, kind);
                    }
                    Item::Ranges(_) => {
                        let ranges = self.ranges.iter();
                        for range in ranges.filter(|range| range.protocol == protocol) {
                            claim(address, range.first, range.last, true, kind);
                        }
                    }
                }
            }
        }
        if let Item::Port(at) = part.item
            && let Some(number) = self.port(at).at_nodes
        {
            for &address in node {
                claim(address, number, number, false, FrontendKind::NodePort);
            }
        }
    }
}

/// Addresses in their order, those that may be none apart.
fn sorted(addresses: impl Iterator<Item = IpAddr>) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (unfit, mut fit): (Vec<_>, Vec<_>) = addresses.partition(|ip| special(*ip).is_some());
    fit.sort_unstable();
    fit.dedup();
    (fit, unfit)
}

/// Ranges of a protocol that overlap or touch are one.
fn ranges(service: &Service) -> Box<[Range]> {
    let given = service.wishes.port_ranges.iter();
    let mut all: Vec<Range> = given
        .filter(|range| range.first <= range.last)
        .map(|range| Range {
            protocol: range.protocol,
            first: range.first.max(1),
            last: range.last.max(1),
        })
        .collect();
    all.sort_unstable();
    let mut merged: Vec<Range> = Vec::with_capacity(all.len());
    for range in all {
        match merged.last_mut() {
            Some(before)
                if before.protocol == range.protocol
                    && range.first <= before.last.saturating_add(1) =>
            {
                before.last = before.last.max(range.last);
            }
            _ => merged.push(range),
        }
    }
    merged.into()
}

/// Why an address can be neither a Service's nor an endpoint's: upstream's `ValidateNonSpecialIP`.
pub(crate) fn special(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("it is unspecified")
    } else if address.is_loopback() {
        Some("it is a loopback address")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if link_local {
        Some("it is a link-local address")
    } else {
        None
    }
}
