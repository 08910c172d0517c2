//! One pod's veth pair, made, taken away and looked at as a whole.

use std::time::{Duration, Instant};

use watari_model::{IfName, MacAddr};
use watari_tables::{Endpoint, LinkTables, Neighbour, Route};

use crate::snapshot::settings;
use crate::{Change, Handle, NetlinkError, Netns, NewRoute, Observed, Veth, sysctl};

/// How long to wait for a new link to carry packets.
const CARRIER: Duration = Duration::from_secs(2);

/// What [`create`] made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// Index of the host-side link in the handle's namespace.
    pub host_index: u32,
}

/// Why an endpoint could not be made. Nothing of it stands, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The container has an interface of that name that is not ours.
    #[error("{netns} already has an interface {name}; delete it, or choose another CNI_IFNAME")]
    PodNameTaken {
        /// The namespace.
        netns: String,
        /// The name.
        name: IfName,
    },
    /// The kernel refused a step; the steps before were undone.
    #[error(transparent)]
    Kernel(#[from] NetlinkError),
    /// The kernel refused a step, and then the deletion of what had been made.
    #[error("{cause}; and then its undoing failed, so link {link} is left behind: {undo}")]
    LeftBehind {
        /// The first failure.
        cause: Box<NetlinkError>,
        /// The host-side link.
        link: IfName,
        /// Why it could not be deleted.
        undo: Box<NetlinkError>,
    },
}

/// Makes the pair with all that belongs to it; a stale host-side link of that name is replaced.
/// The route to the pod is the last thing made, so nothing is sent to a pod that cannot answer.
pub fn create(
    endpoint: &Endpoint,
    host: &mut Handle,
    netns: &Netns,
) -> Result<Created, CreateError> {
    create_pair(endpoint, host, netns)?;
    configure(endpoint, host, netns).map_err(|cause| {
        let link = endpoint.host.name.clone();
        match remove(host, &link) {
            Ok(_) => CreateError::Kernel(cause),
            Err(undo) => CreateError::LeftBehind {
                cause: Box::new(cause),
                link,
                undo: Box::new(undo),
            },
        }
    })
}

fn create_pair(endpoint: &Endpoint, host: &mut Handle, netns: &Netns) -> Result<(), CreateError> {
    let (ours, theirs) = (&endpoint.host, &endpoint.pod);
    let change = [Change::CreateVeth(
        Veth {
            name: &ours.name,
            mac: Some(ours.mac),
            mtu: ours.mtu,
            netns: None,
        },
        Veth {
            name: &theirs.name,
            mac: Some(theirs.mac),
            mtu: theirs.mtu,
            netns: Some(netns),
        },
    )];
    match host.batch(&change) {
        Err(error) if error.is_exists() => {}
        other => return Ok(other?),
    }
    // The host-side name is a digest of the attachment: such a link is an earlier, failed ADD's.
    if host.link(&ours.name)?.is_some() {
        remove(host, &ours.name)?;
        match host.batch(&change) {
            Err(error) if error.is_exists() => {}
            other => return Ok(other?),
        }
    }
    let netns = netns.path().display().to_string();
    Err(CreateError::PodNameTaken {
        netns,
        name: theirs.name.clone(),
    })
}

fn configure(
    endpoint: &Endpoint,
    host: &mut Handle,
    netns: &Netns,
) -> Result<Created, NetlinkError> {
    let absent = |name: &IfName| NetlinkError::Answer {
        what: format!("cannot look up link {name}"),
        why: "it was created and is gone: somebody deleted it".to_owned(),
    };
    let link = host
        .link(&endpoint.host.name)?
        .ok_or_else(|| absent(&endpoint.host.name))?;
    let pod_index = link.peer.ok_or_else(|| absent(&endpoint.pod.name))?;
    write_settings(&endpoint.host)?;
    let mut first = Vec::new();
    if !endpoint.host.alias.is_empty() {
        first.push(Change::Alias(link.index, &endpoint.host.alias));
    }
    first.push(Change::Up(link.index));
    host.batch(&first)?;

    let mut pod = netns.within(|| {
        write_settings(&endpoint.pod)?;
        Handle::open()
    })??;
    let mut changes = vec![Change::Up(pod_index)];
    changes.extend(contents(&endpoint.pod, &endpoint.pod, pod_index, false));
    pod.batch(&changes)?;
    host.batch(&contents(&endpoint.host, &endpoint.host, link.index, false))?;
    wait_for_carrier(host, link.index)?;
    Ok(Created {
        host_index: link.index,
    })
}

/// Of two ends the one that is brought up first gets its carrier with the second, and sends only
/// when the kernel's link watch has seen that, which can take a while; what is sent before is
/// lost. From 6.8 on the question itself makes the kernel catch up.
fn wait_for_carrier(host: &mut Handle, index: u32) -> Result<(), NetlinkError> {
    let deadline = Instant::now() + CARRIER;
    while let Some(link) = host.link_by_index(index)?
        && !link.running
        // The pod has a link that works, only later: no reason to take it away again.
        && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn write_settings(link: &LinkTables) -> Result<(), NetlinkError> {
    link.sysctls
        .iter()
        .try_for_each(|setting| sysctl::write_link_setting(&link.name, setting))
}

/// Addresses, neighbours and routes of a link, those that `part` names, each after what it needs.
/// `replace`: another route to the same destination gives way.
pub(crate) fn contents(
    whole: &LinkTables,
    part: &LinkTables,
    index: u32,
    replace: bool,
) -> Vec<Change<'static>> {
    let link = part;
    let addresses = link
        .addresses
        .iter()
        .map(|&net| Change::AddAddress(index, net));
    // The kernel defers the local route of an IPv6 address to a work queue, even where nothing
    // is to be detected; until then the pod refuses what is sent to it.
    let own = link.addresses.iter().filter(|net| net.addr().is_ipv6());
    let own = own.map(|net| Change::AddRoute(NewRoute::local(index, net.addr())));
    let neighbours = link
        .neighbours
        .iter()
        .map(|&entry| Change::SetNeighbour(index, entry));
    let proxies = link
        .proxies
        .iter()
        .map(|&address| Change::AddProxy(index, address));
    // A next hop must be reachable when its route comes: direct routes first.
    let (direct, indirect): (Vec<Route>, Vec<Route>) =
        link.routes.iter().partition(|route| route.via.is_none());
    let routes = direct.into_iter().chain(indirect).map(|route| {
        // A pod is behind its host-side link; only what is a next hop is on a link.
        let through = |other: &Route| {
            other
                .via
                .is_some_and(|via| route.destination.contains(&via))
        };
        Change::AddRoute(NewRoute {
            scope_link: whole.routes.iter().any(through),
            replace,
            ..NewRoute::unicast(index, route)
        })
    });
    addresses
        .chain(own)
        .chain(neighbours)
        .chain(proxies)
        .chain(routes)
        .collect()
}

/// Deletes the host-side link and, with it, all of the endpoint; false if it was gone already.
pub fn remove(host: &mut Handle, name: &IfName) -> Result<bool, NetlinkError> {
    match host.batch(&[Change::DeleteLink(name)]) {
        Ok(()) => Ok(true),
        Err(error) if error.is_absent() => Ok(false),
        Err(error) => Err(error),
    }
}

/// A link as it is, of the kinds that `desired` speaks about: its settings are read for the keys
/// that `desired` names. None if there is no such link. Runs in the thread's namespace, which must
/// be the handle's.
pub fn inspect(
    handle: &mut Handle,
    desired: &LinkTables,
) -> Result<Option<Observed>, NetlinkError> {
    let Some(link) = handle.link(&desired.name)? else {
        return Ok(None);
    };
    let neighbours = handle.neighbours(link.index)?;
    let permanent = neighbours.into_iter().filter(|&(_, permanent)| permanent);
    let tables = LinkTables {
        name: link.name,
        mac: link.mac.unwrap_or(MacAddr([0; 6])),
        mtu: link.mtu,
        alias: link.alias,
        addresses: handle.addresses(link.index)?,
        routes: handle.routes(link.index)?,
        neighbours: permanent
            .map(|(neighbour, _): (Neighbour, bool)| neighbour)
            .collect(),
        proxies: handle.proxies(link.index)?,
        sysctls: settings(desired)?,
    };
    Ok(Some(Observed {
        index: link.index,
        up: link.up,
        tables,
    }))
}

/// The tables of [`inspect`].
pub fn observe(
    handle: &mut Handle,
    desired: &LinkTables,
) -> Result<Option<LinkTables>, NetlinkError> {
    Ok(inspect(handle, desired)?.map(|observed| observed.tables))
}
