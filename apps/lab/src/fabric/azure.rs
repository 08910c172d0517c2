//! An SDN that knows which NIC owns each address. The kernel of the fabric's namespace does all of
//! it but the document.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use hyper::StatusCode;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use tokio::net::TcpListener;
use watari_model::IfName;
use watari_netlink::{Change, Handle, Netns, NewRoute, RouteKind, RouteProtocol, write_setting};
use watari_tables::{Neighbour, Route};

use super::guard::guard;
use super::{BATCH, index_of};
use crate::http::{self, Answer, Asked};
use crate::layout::{GATEWAY6, Lab, METADATA, Node, WIRE_SERVER};
use crate::{node, wire};

/// Makes the fabric's own side, in its namespaces.
pub fn make(lab: &Lab) -> Result<()> {
    settings(lab)?;
    let mut handle = Handle::open()?;
    let lo = index_of(&mut handle, "lo")?;
    let mut changes = vec![Change::Up(lo)];
    for address in [lab.gateway, WIRE_SERVER, METADATA] {
        let address = IpNet::V4(Ipv4Net::from(address));
        changes.push(Change::AddAddress(lo, address));
    }
    // What nobody owns goes nowhere, and is not answered for.
    changes.push(Change::AddRoute(unreachable(IpNet::V4(lab.subnet))));
    if let Some(prefix) = lab.ipv6_prefix {
        changes.push(Change::AddRoute(unreachable(IpNet::V6(prefix))));
    }
    handle.batch(&changes).context("set up the fabric")
}

/// Serves the nodes their documents, once `ready` has told that it listens.
pub fn serve(lab: &Lab, ready: impl FnOnce() -> Result<()>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the fabric's server")?;
    let address = (Ipv4Addr::UNSPECIFIED, 80);
    let listener = runtime
        .block_on(TcpListener::bind(address))
        .context("listen on port 80 of the fabric")?;
    ready()?;
    runtime.block_on(answer_all(lab, listener));
    Ok(())
}

async fn answer_all(lab: &Lab, listener: TcpListener) {
    let documents: BTreeMap<IpAddr, String> = lab
        .nodes
        .iter()
        .filter_map(|node| Some((node.primary?.into(), wire::document(lab, node))))
        .collect();
    let handler = move |asked: &Asked<'_>| answer(&documents, asked);
    http::serve(listener, Arc::new(handler)).await;
}

/// A node is known by the address that it calls from; a pod gets nothing, and nobody gets
/// anything but the document of interfaces.
fn answer(documents: &BTreeMap<IpAddr, String>, asked: &Asked<'_>) -> Answer {
    let wire_server = asked.local.ip() == IpAddr::V4(WIRE_SERVER);
    let known = wire_server && asked.target == wire::DOCUMENT && asked.method == "GET";
    match documents.get(&asked.peer.ip()) {
        Some(document) if known => (StatusCode::OK, "text/xml", document.clone()),
        _ => (
            StatusCode::NOT_FOUND,
            "text/plain",
            "not found\n".to_owned(),
        ),
    }
}

fn settings(lab: &Lab) -> Result<()> {
    let mut settings = vec![
        ("ipv4/ip_forward", "1"),
        // A source that the port does not own is dropped (IPv4; the filter does the rest).
        ("ipv4/conf/all/rp_filter", "1"),
        ("ipv4/conf/default/rp_filter", "1"),
    ];
    if node::has_ipv6() {
        settings.push(("ipv6/conf/default/accept_dad", "0"));
        settings.push(("ipv6/conf/default/accept_ra", "0"));
        // Ports have the SDN's link-local address, not one made of their MAC.
        settings.push(("ipv6/conf/default/addr_gen_mode", "1"));
        if lab.ipv6_prefix.is_some() {
            settings.push(("ipv6/conf/all/forwarding", "1"));
        }
    }
    node::set_all(&settings)
}

fn unreachable(destination: IpNet) -> NewRoute {
    NewRoute {
        route: Route {
            destination,
            via: None,
        },
        index: None,
        protocol: RouteProtocol::Static,
        kind: RouteKind::Unreachable,
        scope_link: false,
        onlink: false,
        replace: false,
    }
}

/// Tells the fabric what a node owns that is connected to `port`.
pub fn own(fabric: &Netns, here: &mut Handle, port: &IfName, node: &Node) -> Result<()> {
    fabric.within(|| port_settings(port))??;
    fabric.within(|| guard(port.as_str(), node.mac))??;
    let index = index_of(here, port.as_str())?;
    let changes = ownership(index, node);
    for batch in changes.chunks(BATCH) {
        here.batch(batch)
            .with_context(|| format!("tell the fabric what {} owns", node.name))?;
    }
    Ok(())
}

/// The kernel itself answers for what another port owns: proxy ARP looks up the route, and
/// answers, at once, if it leads out of another port.
fn port_settings(port: &IfName) -> Result<()> {
    for (path, value) in [
        (format!("ipv4/conf/{port}/proxy_arp"), "1"),
        (format!("ipv4/conf/{port}/rp_filter"), "1"),
        (format!("ipv4/conf/{port}/send_redirects"), "0"),
        (format!("ipv4/neigh/{port}/proxy_delay"), "0"),
    ] {
        write_setting(&Path::new("/proc/sys/net").join(path), value)?;
    }
    Ok(())
}

/// A route for each address that the node owns, all over its primary one: one neighbour a node,
/// however many pods it has.
fn ownership(port: u32, node: &Node) -> Vec<Change<'static>> {
    let mut changes = vec![Change::Up(port)];
    if node.primary6.is_some() {
        let gateway = IpNet::V6(Ipv6Net::new_assert(GATEWAY6, 64));
        changes.push(Change::AddAddressWithRoute(port, gateway));
    }
    for address in node.primaries() {
        let route = Route {
            destination: IpNet::from(address),
            via: None,
        };
        changes.push(Change::AddRoute(NewRoute::unicast(port, route)));
        let mac = node.mac;
        changes.push(Change::SetNeighbour(port, Neighbour { address, mac }));
    }
    for address in node.secondaries() {
        let route = Route {
            destination: IpNet::from(address),
            via: node.primary_like(address),
        };
        changes.push(Change::AddRoute(NewRoute {
            onlink: true,
            ..NewRoute::unicast(port, route)
        }));
    }
    for &destination in &node.pod_cidrs {
        let route = Route {
            destination,
            via: node.primary_like(destination.addr()),
        };
        changes.push(Change::AddRoute(NewRoute {
            onlink: true,
            ..NewRoute::unicast(port, route)
        }));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_gets_its_document_and_only_that_one() {
        let one: IpAddr = "10.240.0.4".parse().unwrap();
        let documents = BTreeMap::from([(one, "one".to_owned())]);
        let ask = |method, target, peer: &str, local: &str| {
            let asked = Asked {
                method,
                target,
                peer: peer.parse().unwrap(),
                local: local.parse().unwrap(),
            };
            answer(&documents, &asked).0
        };
        let (peer, local) = ("10.240.0.4:5000", "168.63.129.16:80");
        assert_eq!(ask("GET", wire::DOCUMENT, peer, local), StatusCode::OK);
        for (method, target, peer, local) in [
            ("GET", "/", peer, local),
            ("GET", "/machine/plugins?comp=nmagent", peer, local),
            ("POST", wire::DOCUMENT, peer, local),
            ("GET", wire::DOCUMENT, "10.240.0.5:5000", local),
            ("GET", wire::DOCUMENT, peer, "169.254.169.254:80"),
        ] {
            assert_eq!(ask(method, target, peer, local), StatusCode::NOT_FOUND);
        }
    }
}
