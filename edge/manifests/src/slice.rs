//! `discovery.k8s.io/v1` `EndpointSlice`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1 as k8s;
use watari_model::{EndpointSlice, PodName, ServiceName, SliceEndpoint, SlicePort};

use crate::check::{self, none_of, refuse};
use crate::object::Refusal;

/// How many connections an endpoint gets beside others: on an `EndpointSlice`, or on a `Pod`.
pub const WEIGHT: &str = "watari.io/weight";
/// Of which Service a slice is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Endpoints in one slice, and ports (as the API server allows).
const MOST_ENDPOINTS: usize = 1000;
const MOST_PORTS: usize = 20_000;
/// Addresses of one endpoint.
const MOST_ADDRESSES: usize = 100;

/// Names that many endpoints have, each kept once.
#[derive(Debug, Default)]
pub(crate) struct Names(BTreeSet<Arc<str>>);

impl Names {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return Arc::clone(known);
        }
        let new: Arc<str> = text.into();
        self.0.insert(Arc::clone(&new));
        new
    }

    fn some(&mut self, text: Option<&String>) -> Option<Arc<str>> {
        let text = text.filter(|text| !text.is_empty())?;
        Some(self.get(text))
    }
}

/// What a slice is for balancers.
pub(crate) enum Read {
    /// Endpoints of a Service.
    Slice(EndpointSlice),
    /// None for balancers, and why.
    Nothing(&'static str),
}

/// A slice as balancers need it, with the paths of annotations of ours that are not known.
pub(crate) fn slice(
    given: &k8s::EndpointSlice,
    names: &mut Names,
) -> Result<(Read, Vec<String>), Refusal> {
    let meta = &given.metadata;
    let v6 = match given.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => {
            let why = "the endpoints of type FQDN are DNS' alone";
            return Ok((Read::Nothing(why), Vec::new()));
        }
        other => return none_of("addressType", other, &["IPv4", "IPv6", "FQDN"]),
    };
    let service = meta.labels.as_ref().and_then(|all| all.get(SERVICE_NAME));
    let Some(service) = service.filter(|name| !name.is_empty()) else {
        let why = "without the label kubernetes.io/service-name it is no Service's";
        return Ok((Read::Nothing(why), Vec::new()));
    };
    check::name(
        &format!("metadata.labels['{SERVICE_NAME}']"),
        service,
        63,
        false,
    )?;
    let weight = check::weight(meta.annotations.as_ref())?;
    let all = given.endpoints.as_deref().unwrap_or_default();
    if all.len() > MOST_ENDPOINTS {
        let reason = format!("more than {MOST_ENDPOINTS}: want several slices");
        return refuse("endpoints", reason);
    }
    let mut endpoints = Vec::with_capacity(all.len());
    for (at, one) in all.iter().enumerate() {
        let path = format!("endpoints[{at}]");
        let mut endpoint = endpoint(&path, one, v6, meta.namespace.as_ref(), names)?;
        endpoint.weight = weight;
        endpoints.push(endpoint);
    }
    let slice = EndpointSlice {
        name: ServiceName {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        },
        service: service.clone(),
        v6,
        ports: ports(given)?,
        endpoints,
    };
    let unknown = check::unknown_annotations(meta.annotations.as_ref(), &[WEIGHT]);
    Ok((Read::Slice(slice), unknown))
}

fn ports(given: &k8s::EndpointSlice) -> Result<Vec<SlicePort>, Refusal> {
    let given = given.ports.as_deref().unwrap_or_default();
    if given.len() > MOST_PORTS {
        return refuse("ports", format!("more than {MOST_PORTS}"));
    }
    let mut ports = Vec::with_capacity(given.len());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, one) in given.iter().enumerate() {
        let path = format!("ports[{at}]");
        let name = one.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            check::name(&format!("{path}.name"), name, 63, false)?;
        }
        if let Some(first) = seen.insert(name, at) {
            let reason = format!("ports[{first}] has the name {name:?} too");
            return refuse(format!("{path}.name"), reason);
        }
        let port = one
            .port
            .map(|port| check::port(&format!("{path}.port"), port));
        ports.push(SlicePort {
            name: name.to_owned(),
            protocol: check::protocol(&format!("{path}.protocol"), one.protocol.as_deref())?,
            port: port.transpose()?,
        });
    }
    Ok(ports)
}

fn endpoint(
    path: &str,
    given: &k8s::Endpoint,
    v6: bool,
    namespace: Option<&String>,
    names: &mut Names,
) -> Result<SliceEndpoint, Refusal> {
    let address = addresses(path, given, v6)?;
    let conditions = given.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let hints = given.hints.as_ref();
    let zones = hints.and_then(|hints| hints.for_zones.as_ref());
    let zones = zones.into_iter().flatten();
    let nodes = hints.and_then(|hints| hints.for_nodes.as_ref());
    let nodes = nodes.into_iter().flatten();
    let pod = given.target_ref.as_ref().and_then(|target| {
        let name = target.name.clone().filter(|name| !name.is_empty())?;
        let namespace = target.namespace.as_ref().or(namespace);
        (target.kind.as_deref() == Some("Pod")).then(|| PodName {
            namespace: namespace.cloned().unwrap_or_default(),
            name,
        })
    });
    Ok(SliceEndpoint {
        address,
        ready,
        serving: conditions.serving.unwrap_or(ready),
        terminating: conditions.terminating.unwrap_or(false),
        node: names.some(given.node_name.as_ref()),
        zone: names.some(given.zone.as_ref()),
        for_zones: zones.map(|zone| names.get(&zone.name)).collect(),
        for_nodes: nodes.map(|node| names.get(&node.name)).collect(),
        pod,
        weight: 1,
    })
}

/// The first address. All have to be of the slice's family.
fn addresses(path: &str, given: &k8s::Endpoint, v6: bool) -> Result<IpAddr, Refusal> {
    let path = format!("{path}.addresses");
    if given.addresses.len() > MOST_ADDRESSES {
        return refuse(path, format!("more than {MOST_ADDRESSES}"));
    }
    let mut first = None;
    for (at, text) in given.addresses.iter().enumerate() {
        let path = format!("{path}[{at}]");
        let address = check::unicast(&path, text)?;
        if address.is_ipv6() != v6 {
            let (is, want) = if v6 {
                ("IPv4", "IPv6")
            } else {
                ("IPv6", "IPv4")
            };
            let reason = format!("{address} is an {is} address, and addressType is {want}");
            return refuse(path, reason);
        }
        first = first.or(Some(address));
    }
    first.ok_or_else(|| (path, "missing; an endpoint has one at least".to_owned()))
}
