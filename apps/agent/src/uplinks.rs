//! The links by which packets for pods enter the node.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;
use watari_model::IfName;
use watari_netlink::{Handle, Snapshot};

/// Addresses for documentation (RFC 5737, RFC 3849): nobody routes them, so the way to them is
/// the default route.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Those that are configured, as far as they are there; else the links that hold the node's
/// addresses and those that the default routes go over.
pub fn uplinks(
    host: &mut Handle,
    snapshot: &Snapshot,
    configured: &[IfName],
    own: &[IpAddr],
) -> Result<BTreeSet<IfName>> {
    if !configured.is_empty() {
        let there = |name: &&IfName| snapshot.link(name).is_some();
        return Ok(configured.iter().filter(there).cloned().collect());
    }
    let mut found = BTreeSet::new();
    for link in snapshot.links().filter(|link| !link.loopback) {
        let addresses = snapshot.addresses(link.index);
        if addresses.iter().any(|net| own.contains(&net.addr())) {
            found.insert(link.name.clone());
        }
    }
    for nowhere in NOWHERE {
        let Some(way) = host.route_to(nowhere)? else {
            continue;
        };
        let link = snapshot.links().find(|link| link.index == way.index);
        found.extend(
            link.filter(|link| !link.loopback)
                .map(|link| link.name.clone()),
        );
    }
    Ok(found)
}
