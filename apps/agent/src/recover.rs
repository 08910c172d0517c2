//! A damaged node store, made again from what the node itself still says: whose a host-side link is
//! by its alias, the pod's addresses by the host routes, its MAC by the permanent neighbours, and
//! the rest by a look into its namespace.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use ipnet::IpNet;
use watari_ipam::Holder;
use watari_model::{HostPrefix, MacAddr};
use watari_netlink::{Handle, Link, Netns, Snapshot, inspect};
use watari_plan::{Owner, Transparent, owner_of_alias, transparent};
use watari_store::{EndpointRecord, Options, Store, now};
use watari_tables::Endpoint;

/// Where runtimes mount the namespaces of sandboxes.
const NAMESPACES: [&str; 2] = ["/run/netns", "/run/docker/netns"];

/// The scope of the node's own addresses, and that of a network's ranges: nothing on the node says
/// which a pod's address came of, and a lease too many does no harm.
fn scopes(owner: &Owner) -> [String; 2] {
    ["node".to_owned(), format!("network/{}", owner.network)]
}

/// A namespace of a sandbox.
struct Sandbox {
    path: PathBuf,
    links: Vec<Link>,
}

/// Makes the store in `dir` again if it is damaged; says how many endpoints were found, none if
/// there was nothing to do.
pub fn recover(dir: &Path, host: &mut Handle, namespaces: &[PathBuf]) -> Result<Option<usize>> {
    let snapshot = host.snapshot()?;
    let sandboxes = sandboxes(namespaces);
    let owned = snapshot
        .links()
        .filter_map(|link| Some((link, owner_of_alias(&link.alias)?)));
    let mut records = Vec::new();
    for (link, owner) in owned {
        records.extend(record(&snapshot, link, &owner, &sandboxes)?);
    }
    let count = records.len();
    let (_, replaced) = Store::replace_damaged(dir, &Options::default(), |tx| {
        for (record, owner) in &records {
            let holder = Holder {
                network: owner.network.clone(),
                attachment: owner.attachment.clone(),
            };
            for net in &record.tables.pod.addresses {
                for scope in scopes(owner) {
                    tx.adopt(&scope, net.addr(), &holder, record.created)?;
                }
            }
            tx.put_endpoint(record)?;
        }
        Ok(())
    })?;
    Ok(replaced.then_some(count))
}

/// The usual folders.
pub fn usual_namespaces() -> Vec<PathBuf> {
    NAMESPACES.iter().map(PathBuf::from).collect()
}

fn sandboxes(folders: &[PathBuf]) -> Vec<Sandbox> {
    let mut found = Vec::new();
    for entry in folders
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .flatten()
    {
        let path = entry.path();
        let seen = Netns::open(&path).and_then(|netns| Handle::open_in(&netns)?.links());
        // What is no namespace is no sandbox.
        if let Ok(links) = seen {
            found.push(Sandbox { path, links });
        }
    }
    found
}

/// A pod's addresses: those that the link has a host route to.
fn addresses(snapshot: &Snapshot, link: &Link) -> BTreeSet<IpAddr> {
    snapshot
        .routes(link.index)
        .iter()
        .filter(|route| {
            route.via.is_none()
                && route.destination.prefix_len() == route.destination.max_prefix_len()
        })
        .map(|route| route.destination.addr())
        .collect()
}

fn record(
    snapshot: &Snapshot,
    link: &Link,
    owner: &Owner,
    sandboxes: &[Sandbox],
) -> Result<Option<(EndpointRecord, Owner)>> {
    let addresses = addresses(snapshot, link);
    let neighbours = snapshot.neighbours(link.index);
    let mac = neighbours.iter().next().map(|neighbour| neighbour.mac);
    let ifname = &owner.attachment.ifname;
    let is_other_end = |end: &&Link| {
        end.name == *ifname
            && end.peer == Some(link.index)
            && mac.is_none_or(|mac| end.mac == Some(mac))
    };
    let sandbox = sandboxes
        .iter()
        .find(|sandbox| sandbox.links.iter().any(|end| is_other_end(&end)));
    let plan = |nets: &[IpNet], mac: Option<MacAddr>| {
        let name = link.name.as_str();
        let prefix = name
            .get(..name.len().saturating_sub(11))
            .unwrap_or_default();
        transparent(&Transparent {
            network: &owner.network,
            attachment: &owner.attachment,
            prefix: &HostPrefix::new(prefix).unwrap_or_default(),
            mtu: link.mtu,
            pod_mac: mac,
            addresses: nets,
            destinations: &[],
            ipv6: Path::new("/proc/sys/net/ipv6").exists(),
        })
    };
    let bare: Vec<IpNet> = addresses.iter().map(|&address| address.into()).collect();
    let mut tables = plan(&bare, mac);
    if let Some(sandbox) = sandbox {
        look_inside(&sandbox.path, &addresses, &plan, &mut tables)?;
    }
    if tables.host.name != link.name || tables.pod.addresses.is_empty() {
        return Ok(None);
    }
    let record = EndpointRecord {
        network: owner.network.clone(),
        attachment: owner.attachment.clone(),
        pod: None,
        netns: sandbox.map(|sandbox| sandbox.path.clone()),
        host_ifname: link.name.clone(),
        tables,
        ips_to_route_via_host: Vec::new(),
        created: now(),
    };
    Ok(Some((record, owner.clone())))
}

/// Prefix lengths and routes are the pod's alone.
fn look_inside(
    path: &Path,
    addresses: &BTreeSet<IpAddr>,
    plan: &impl Fn(&[IpNet], Option<MacAddr>) -> Endpoint,
    tables: &mut Endpoint,
) -> Result<()> {
    let desired = tables.pod.clone();
    let netns = Netns::open(path)?;
    let inside = netns.within(|| inspect(&mut Handle::open()?, &desired))??;
    let Some(inside) = inside else { return Ok(()) };
    let held = inside.tables.addresses.iter();
    let whole: Vec<IpNet> = held
        .filter(|net| addresses.contains(&net.addr()))
        .copied()
        .collect();
    if !whole.is_empty() {
        *tables = plan(&whole, Some(inside.tables.mac));
        tables.pod.routes = inside.tables.routes;
    }
    Ok(())
}
