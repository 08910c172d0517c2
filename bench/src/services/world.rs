//! Services as a cluster has them: many, a few of which somebody uses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use watari_model::{
    EndpointSlice, Ingress, Protocol, Service, ServiceName, ServicePort, ServiceType,
    SliceEndpoint, SlicePort, TargetPort, Wishes,
};

/// Services that are used.
pub const USED: u32 = 8;
/// The port of every Service.
pub const PORT: u16 = 80;
/// The port of endpoints that nobody reaches.
const TARGET: u16 = 8080;
/// The ports of the endpoints of Services that are used: of one pod, from this on.
const FIRST: u16 = 8000;
/// All endpoints are in such a slice each at most; the control plane's own limit.
const SLICE: usize = 100;

/// So many Services with so many endpoints each.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// How many.
    pub services: u32,
    /// Of each.
    pub endpoints: u32,
    /// The pod behind those that are used; nobody uses any without it. Its family is everybody's.
    pub server: Option<IpAddr>,
    /// Every so many one is a `LoadBalancer`, so that it has a table of Maglev; none for zero.
    pub load_balancers: u32,
}

impl World {
    /// Services with cluster addresses alone.
    pub fn new(services: u32, endpoints: u32, server: Option<IpAddr>) -> Self {
        Self {
            services,
            endpoints,
            server,
            load_balancers: 0,
        }
    }

    fn v6(&self) -> bool {
        self.server.is_some_and(|server| server.is_ipv6())
    }

    /// An address by its number, of a range of this world's family: 0 for cluster addresses, 1 for
    /// endpoints, 2 for load balancers.
    fn address(&self, range: u16, number: u32) -> IpAddr {
        if self.v6() {
            let [high, low] = [(number >> 16) as u16, (number & 0xffff) as u16];
            return Ipv6Addr::new(0xfd00, 0x96 + range, 0, 0, 0, 0, high, low).into();
        }
        // 10.96.0.0/12, 10.128.0.0/9's first quarter, 10.112.0.0/12.
        let base = [0x0a60_0000, 0x0a80_0000, 0x0a70_0000][usize::from(range % 3)];
        Ipv4Addr::from(base + number).into()
    }

    /// The range of cluster addresses.
    pub fn cidr(&self) -> &'static str {
        if self.v6() {
            "fd00:96::/108"
        } else {
            "10.96.0.0/12"
        }
    }

    /// The number of a Service among those that are used.
    fn use_of(&self, service: u32) -> Option<u32> {
        self.server?;
        let uses = self.uses();
        (0..uses).find(|number| self.place(*number) == service)
    }

    /// Whether somebody uses it.
    pub fn is_used(&self, service: u32) -> bool {
        self.use_of(service).is_some()
    }

    /// How many are used.
    fn uses(&self) -> u32 {
        USED.min(self.services)
    }

    /// Where a used one stands among all: evenly spread, so that whoever asks one rule after the
    /// other goes through half of them on the average.
    fn place(&self, number: u32) -> u32 {
        let (number, uses) = (u64::from(number), u64::from(self.uses()));
        let place = (2 * number + 1) * u64::from(self.services) / (2 * uses);
        u32::try_from(place).unwrap_or(0)
    }

    /// Where a Service is reached.
    pub fn frontend(&self, service: u32) -> SocketAddr {
        SocketAddr::new(self.address(0, service + 1), PORT)
    }

    /// Where those are reached that are used, each as often as it has endpoints.
    pub fn used(&self) -> Vec<SocketAddr> {
        let places = (0..self.uses()).map(|number| self.frontend(self.place(number)));
        let each = self.endpoints as usize;
        places
            .flat_map(|at| std::iter::repeat_n(at, each))
            .collect()
    }

    /// Where the first of them is reached from outside.
    pub fn used_ingress(&self) -> SocketAddr {
        SocketAddr::new(self.ingress(self.place(0)), PORT)
    }

    fn ingress(&self, service: u32) -> IpAddr {
        self.address(2, service + 1)
    }

    /// Whom their clients reach.
    pub fn backends(&self) -> Vec<SocketAddr> {
        let places = (0..self.uses()).map(|number| self.place(number));
        places.flat_map(|at| self.endpoints_of(at)).collect()
    }

    /// Who is behind a Service.
    pub fn endpoints_of(&self, service: u32) -> Vec<SocketAddr> {
        let each = 0..self.endpoints;
        match (self.use_of(service), self.server) {
            (Some(number), Some(server)) => each
                .map(|at| SocketAddr::new(server, server_port(number * self.endpoints + at)))
                .collect(),
            _ => each
                .map(|at| self.unused_endpoint(service * self.endpoints + at))
                .collect(),
        }
    }

    /// An endpoint that nobody has, or that some Service has and nobody reaches.
    pub fn unused_endpoint(&self, number: u32) -> SocketAddr {
        SocketAddr::new(self.address(1, number + 1), TARGET)
    }

    /// The number of an endpoint that no Service has.
    pub fn spare(&self) -> u32 {
        self.services * self.endpoints
    }

    /// The name of a Service.
    pub fn name(service: u32) -> String {
        format!("svc-{service}")
    }

    fn is_load_balancer(&self, service: u32) -> bool {
        self.load_balancers > 0 && service.is_multiple_of(self.load_balancers)
    }

    /// The names of a Service's ports, and their protocols. Those that are used have UDP too.
    fn ports(&self, service: u32) -> impl Iterator<Item = (&'static str, Protocol)> {
        let ports: &'static [(&'static str, Protocol)] = if self.is_used(service) {
            &[("tcp", Protocol::Tcp), ("udp", Protocol::Udp)]
        } else {
            &[("", Protocol::Tcp)]
        };
        ports.iter().copied()
    }

    /// The Service.
    pub fn service(&self, service: u32) -> Service {
        let frontend = self.frontend(service);
        let outside = self.is_load_balancer(service);
        Service {
            name: ServiceName {
                namespace: "bench".to_owned(),
                name: Self::name(service),
            },
            created: 0,
            kind: if outside {
                ServiceType::LoadBalancer
            } else {
                ServiceType::ClusterIp
            },
            cluster_ips: vec![frontend.ip()],
            headless: false,
            external_ips: [].into(),
            ingress: outside
                .then(|| Ingress {
                    address: self.ingress(service),
                    proxy: false,
                })
                .into_iter()
                .collect(),
            ports: self.ports(service).map(port).collect(),
            selector: [].into(),
            internal_local: false,
            external_local: false,
            affinity: None,
            publish_not_ready: false,
            source_ranges: [].into(),
            distribution: None,
            health_check_port: None,
            load_balancer_class: None,
            proxy_name: None,
            wishes: Wishes::default(),
        }
    }

    /// Its slices: of one for endpoints of one port.
    pub fn slices(&self, service: u32) -> Vec<EndpointSlice> {
        let mut endpoints = self.endpoints_of(service);
        endpoints.sort_by_key(SocketAddr::port);
        let same_port = endpoints.chunk_by(|one, other| one.port() == other.port());
        let parts: Vec<_> = same_port
            .flat_map(|of_port| of_port.chunks(SLICE))
            .collect();
        let slice = |(number, part): (usize, &&[SocketAddr])| self.slice(service, number, part);
        parts.iter().enumerate().map(slice).collect()
    }

    /// A slice with these endpoints, which have one port.
    pub fn slice(&self, service: u32, number: usize, endpoints: &[SocketAddr]) -> EndpointSlice {
        let target = endpoints.first().map(SocketAddr::port);
        EndpointSlice {
            name: ServiceName {
                namespace: "bench".to_owned(),
                name: format!("{}-{number}", Self::name(service)),
            },
            service: Self::name(service),
            v6: endpoints.first().is_some_and(SocketAddr::is_ipv6),
            ports: self
                .ports(service)
                .map(|(name, protocol)| SlicePort {
                    name: name.to_owned(),
                    protocol,
                    port: target,
                })
                .collect(),
            endpoints: endpoints.iter().map(endpoint).collect(),
        }
    }
}

/// The port of a server by its number.
pub fn server_port(number: u32) -> u16 {
    FIRST + u16::try_from(number).unwrap_or(0)
}

fn port((name, protocol): (&str, Protocol)) -> ServicePort {
    ServicePort {
        name: name.to_owned(),
        protocol,
        port: PORT,
        target: TargetPort::Number(TARGET),
        node_port: None,
    }
}

fn endpoint(at: &SocketAddr) -> SliceEndpoint {
    SliceEndpoint {
        address: at.ip(),
        ready: true,
        serving: true,
        terminating: false,
        node: None,
        zone: None,
        for_zones: vec![],
        for_nodes: vec![],
        pod: None,
        weight: 1,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_used_ones_are_spread_and_theirs_are_the_servers() {
        let server = IpAddr::from([10, 250, 1, 2]);
        let world = World::new(1000, 2, Some(server));
        let used: BTreeSet<_> = world.used().into_iter().collect();
        assert_eq!(used.len(), 8);
        assert!(used.contains(&"10.96.0.63:80".parse().unwrap()), "{used:?}");
        assert_eq!(world.backends().len(), 16);
        let all: BTreeSet<_> = (0..1000).flat_map(|at| world.endpoints_of(at)).collect();
        assert_eq!(all.len(), 2000);
        let servers: Vec<_> = all.iter().filter(|at| at.ip() == server).collect();
        assert_eq!(servers.len(), 16);
        assert_eq!(world.slices(62).len(), 2);
        assert_eq!(world.slices(63).len(), 1);
    }
}
