use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};

use watari_model::{EndpointSlice, Protocol, SliceEndpoint};

use crate::names::{Names, Symbol, joined};
use crate::spec::special;

/// What is kept of an `EndpointSlice`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// In the namespace of its Service.
    pub name: Box<str>,
    pub v6: bool,
    ports: Box<[SlicePort]>,
    pub endpoints: Box<[Endpoint]>,
    /// The names of the endpoints' pods, one after the other.
    pods: Box<str>,
}

#[derive(Debug, PartialEq, Eq)]
struct SlicePort {
    name: Symbol,
    protocol: Protocol,
    port: u16,
}

/// What is kept of an endpoint: there are many.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub address: IpAddr,
    /// Bits.
    state: u8,
    pub weight: u8,
    pub node: Symbol,
    pub zone: Symbol,
    /// Several are one text.
    pub for_zones: Symbol,
    pub for_nodes: Symbol,
    /// Where the name of its pod ends in [`Slice::pods`].
    pod_end: u32,
}

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;
/// Its address is none that an endpoint can have.
const UNFIT: u8 = 8;

impl Endpoint {
    fn new(endpoint: &SliceEndpoint, v6: bool, pod_end: u32, names: &mut Names) -> Self {
        let unfit = unfit(endpoint.address, v6).is_some();
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        Self {
            address: endpoint.address,
            state: bit(endpoint.ready, READY)
                | bit(endpoint.serving, SERVING)
                | bit(endpoint.terminating, TERMINATING)
                | bit(unfit, UNFIT),
            weight: endpoint.weight.clamp(1, 100),
            node: names.take(endpoint.node.as_deref().unwrap_or("")),
            zone: names.take(endpoint.zone.as_deref().unwrap_or("")),
            for_zones: names.take(&joined(&endpoint.for_zones)),
            for_nodes: names.take(&joined(&endpoint.for_nodes)),
            pod_end,
        }
    }

    pub fn ready(&self) -> bool {
        self.state & READY != 0
    }

    pub fn serving(&self) -> bool {
        self.state & SERVING != 0
    }

    pub fn terminating(&self) -> bool {
        self.state & TERMINATING != 0
    }

    /// It is used only if no other is ready.
    pub fn draining(&self) -> bool {
        !self.ready() && self.serving() && self.terminating()
    }

    pub fn fit(&self) -> bool {
        self.state & UNFIT == 0
    }
}

/// Why an endpoint of a slice is none.
pub(crate) fn unfit(address: IpAddr, v6: bool) -> Option<&'static str> {
    if address.is_ipv6() == v6 {
        special(address)
    } else {
        Some("it is not of the slice's address type")
    }
}

impl Slice {
    pub fn new(slice: &EndpointSlice, names: &mut Names) -> Self {
        let ports = slice.ports.iter().filter_map(|port| {
            // Nothing means any port, which upstream's proxies do not know either.
            let number = port.port.filter(|&number| number != 0)?;
            Some(SlicePort {
                name: names.take(&port.name),
                protocol: port.protocol,
                port: number,
            })
        });
        let ports = ports.collect();
        let mut pods = String::new();
        let endpoints = slice.endpoints.iter().map(|endpoint| {
            if let Some(pod) = &endpoint.pod {
                pods.push_str(&pod.name);
            }
            let end = u32::try_from(pods.len()).unwrap_or(u32::MAX);
            Endpoint::new(endpoint, slice.v6, end, names)
        });
        let endpoints = endpoints.collect();
        Self {
            name: slice.name.name.as_str().into(),
            v6: slice.v6,
            ports,
            endpoints,
            pods: pods.into(),
        }
    }

    /// Gives its texts back.
    pub fn release(&self, names: &mut Names) {
        for port in &self.ports {
            names.release(port.name);
        }
        for endpoint in &self.endpoints {
            for symbol in [
                endpoint.node,
                endpoint.zone,
                endpoint.for_zones,
                endpoint.for_nodes,
            ] {
                names.release(symbol);
            }
        }
    }

    /// The name of the pod of an endpoint; empty for none.
    pub fn pod(&self, at: usize) -> &str {
        let before = at.checked_sub(1).map(|before| &self.endpoints[before]);
        let start = before.map_or(0, |before| before.pod_end as usize);
        self.pods
            .get(start..self.endpoints[at].pod_end as usize)
            .unwrap_or("")
    }

    /// Whether somebody of it is hinted to zones or nodes.
    pub fn hinted(&self) -> bool {
        self.endpoints.iter().any(|endpoint| {
            endpoint.for_zones != Symbol::NONE || endpoint.for_nodes != Symbol::NONE
        })
    }
}

/// Which of the ports of slices are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Wanted {
    /// Those of a port of the Service.
    Port(Symbol, Protocol),
    /// Endpoints whatever their ports; they come with port zero.
    Any,
}

/// An endpoint, by where it is reached.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate<'a> {
    pub at: SocketAddr,
    pub endpoint: &'a Endpoint,
    pub slice: &'a Slice,
    /// Its place in the slice.
    pub place: usize,
}

/// All endpoints of a family and port, each once, by address and port. Of those that several slices
/// tell of the best counts: ready, then serving, then one on this node.
pub(crate) fn merged(
    slices: &[Slice],
    wanted: Wanted,
    v6: bool,
    node: Symbol,
) -> Vec<Candidate<'_>> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.v6 == v6) {
        match wanted {
            Wanted::Any => gather(slice, 0, &mut found),
            Wanted::Port(name, protocol) => {
                let of_port = |port: &&SlicePort| port.name == name && port.protocol == protocol;
                for port in slice.ports.iter().filter(of_port) {
                    gather(slice, port.port, &mut found);
                }
            }
        }
    }
    found.sort_by(|a, b| (a.at, rank(a, node)).cmp(&(b.at, rank(b, node))));
    found.dedup_by_key(|candidate| candidate.at);
    found
}

fn gather<'a>(slice: &'a Slice, port: u16, found: &mut Vec<Candidate<'a>>) {
    let fit = slice.endpoints.iter().enumerate();
    let fit = fit.filter(|(_, endpoint)| endpoint.fit());
    found.extend(fit.map(|(place, endpoint)| Candidate {
        at: SocketAddr::new(endpoint.address, port),
        endpoint,
        slice,
        place,
    }));
}

/// What decides between two that are one: the lowest wins. At last the names decide, so that the order
/// in which slices came does not.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    good: Reverse<[bool; 4]>,
    slice: &'a str,
    place: usize,
}

fn rank<'a>(candidate: &Candidate<'a>, node: Symbol) -> Rank<'a> {
    let endpoint = candidate.endpoint;
    let local = node != Symbol::NONE && endpoint.node == node;
    Rank {
        good: Reverse([
            endpoint.ready(),
            endpoint.draining(),
            endpoint.serving(),
            local,
        ]),
        slice: &candidate.slice.name,
        place: candidate.place,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_stays_small() {
        assert!(size_of::<Endpoint>() <= 40, "{}", size_of::<Endpoint>());
    }
}
