//! `azure-vnet` in transparent mode: a veth pair, host routes and a gateway that nobody has.
//!
//! The node store learns of an attachment before the kernel does, in the one transaction that
//! leases its address; so whatever a killed ADD leaves behind is known to DEL and to GC.

mod addresses;
mod conf;
mod fast;

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use watari_cni_spec::{
    CniArgs, CniError, CniResult, Code, Dns, Interface, IpConfig, NetConf, Request, ResultRoute,
};
use watari_model::{Attachment, IfName, PodName};
use watari_netlink::{CreateError, Handle, NetlinkError, Netns, create, observe, remove};
use watari_plan::{Transparent, differences, gateway, owner_of_alias, transparent};
use watari_store::{EndpointRecord, Store, Tx, now};
use watari_tables::Endpoint;

use crate::ipam;
use crate::node::{self, kernel_error};
use addresses::{Addresses, Granted};
use conf::InterfaceConf;

/// Connects a pod.
pub fn add(request: &Request, conf: &NetConf) -> Result<CniResult, CniError> {
    let own = InterfaceConf::read(conf)?;
    let attachment = attachment(request)?;
    let netns = pod_netns(request)?;
    let mut host = Handle::open().map_err(|error| kernel_error(&error))?;
    let primary = node::primary(&mut host, own.master.as_ref())?;
    let mtu = own.mtu.unwrap_or(primary.mtu);
    let store = ipam::open(conf)?;
    let addresses = Addresses::of(request, conf, &own)?;
    let record = |granted: &Granted| {
        let addresses: Vec<IpNet> = granted.ips.iter().map(|ip| ip.address).collect();
        let destinations: Vec<IpNet> = granted.routes.iter().map(|route| route.dst).collect();
        let tables = transparent(&Transparent {
            network: &conf.name,
            attachment: &attachment,
            prefix: &own.prefix,
            mtu,
            pod_mac: conf.runtime.mac,
            addresses: &addresses,
            destinations: &destinations,
            ipv6: node::has_ipv6(),
        });
        EndpointRecord {
            network: conf.name.clone(),
            attachment: attachment.clone(),
            pod: pod_name(&request.args),
            netns: request.netns.clone(),
            host_ifname: tables.host.name.clone(),
            tables,
            ips_to_route_via_host: own.via_host.clone(),
            created: now(),
        }
    };
    let (granted, record) = addresses.grant(&store, &attachment, record)?;
    let has = |v4: bool| {
        granted
            .ips
            .iter()
            .any(|ip| ip.address.addr().is_ipv4() == v4)
    };
    let made = node::forward(has(true), has(false), &primary)
        .map_err(CreateError::Kernel)
        .and_then(|()| create(&record.tables, &mut host, &netns))
        .map_err(|error| create_error(&error))
        .and_then(|_| fast::add(&own.bpf_root, &record.tables));
    if let Err(error) = made {
        // The link that an earlier ADD of this attachment made may be there still, and the lease
        // that is given up is its own too.
        let undone = take_out(&own, &BTreeMap::from([fast::leaving(&record)]))
            .and_then(|()| forget(&store, conf, &attachment))
            .and_then(|()| addresses.release());
        return Err(undone_error(error, undone.err()));
    }
    Ok(result(conf, request, &record.tables, &granted))
}

/// Disconnects a pod; succeeds whatever is already gone.
pub fn del(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let own = InterfaceConf::read(conf)?;
    let attachment = attachment(request)?;
    // The link is deleted even where the store cannot be used: its name needs none.
    let store = ipam::open(conf);
    let mut pods = BTreeMap::from([(attachment.host_ifname(&own.prefix), Vec::new())]);
    if let Ok(store) = &store
        && let Ok(Some(record)) = store.read(|tx| tx.endpoint(&attachment))
    {
        pods.extend([fast::leaving(&record)]);
    }
    take_out(&own, &pods)?;
    // An address is free only when nothing answers for it any more.
    forget(&store?, conf, &attachment)?;
    Addresses::of(request, conf, &own)?.release()
}

/// Is everything as ADD left it? Names each difference.
pub fn check(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let own = InterfaceConf::read(conf)?;
    let attachment = attachment(request)?;
    let netns = pod_netns(request)?;
    let store = ipam::open(conf)?;
    let record = store.read(|tx| tx.endpoint(&attachment))?;
    let Some(record) = record else {
        let path = store.path().display();
        return Err(CniError::new(
            Code::CHECK_FAILED,
            format!("{attachment} is not attached: {path} has no endpoint of it"),
        ));
    };
    let mut found = observed_differences(&record.tables, &netns)?;
    found.extend(fast::differences(&own.bpf_root, &record.tables)?);
    found.extend(result_differences(conf, &record.tables));
    if !found.is_empty() {
        return Err(CniError::new(
            Code::CHECK_FAILED,
            format!("{attachment} is not as ADD left it"),
        )
        .because(found.join("; ")));
    }
    Addresses::of(request, conf, &own)?.check()
}

/// Removes what belongs to no valid attachment of this network.
pub fn gc(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let own = InterfaceConf::read(conf)?;
    let valid: BTreeSet<Attachment> = conf.valid_attachments.iter().flatten().cloned().collect();
    let store = ipam::open(conf)?;
    let known = store.read(|tx| tx.endpoints(Some(&conf.name)))?;
    let gone: Vec<_> = known
        .into_iter()
        .filter(|record| !valid.contains(&record.attachment))
        .collect();
    let stray = stray_links(conf, &valid)?.into_iter();
    let mut pods: BTreeMap<_, _> = stray.map(|link| (link, Vec::new())).collect();
    pods.extend(gone.iter().map(fast::leaving));
    take_out(&own, &pods)?;
    if !gone.is_empty() {
        let forgotten = store.write(|tx| {
            gone.iter()
                .try_for_each(|record| forget_in(tx, conf, &record.attachment))
        });
        forgotten?;
    }
    Addresses::of(request, conf, &own)?.gc()
}

/// Can this node take a pod?
pub fn status(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let unavailable = |error: CniError| CniError {
        code: Code::NOT_AVAILABLE,
        ..error
    };
    let own = InterfaceConf::read(conf)?;
    let mut host = Handle::open().map_err(|error| unavailable(kernel_error(&error)))?;
    node::primary(&mut host, own.master.as_ref()).map_err(unavailable)?;
    let store = ipam::open(conf).map_err(unavailable)?;
    // Opening reads; only a transaction shows that ADD could write.
    store
        .write(|_| Ok::<_, CniError>(()))
        .map_err(unavailable)?;
    Addresses::of(request, conf, &own)?.status()
}

fn attachment(request: &Request) -> Result<Attachment, CniError> {
    request.attachment().ok_or_else(|| {
        CniError::new(
            Code::INVALID_ENVIRONMENT,
            "CNI_CONTAINERID and CNI_IFNAME are required",
        )
    })
}

/// The pod that a Kubernetes runtime speaks of; none if it does not.
fn pod_name(args: &CniArgs) -> Option<PodName> {
    let named = |key| args.get(key).filter(|name| !name.is_empty()).cloned();
    Some(PodName {
        namespace: named("K8S_POD_NAMESPACE")?,
        name: named("K8S_POD_NAME")?,
    })
}

/// The pod's namespace; the node's own is refused: a pod there has no interface of its own.
fn pod_netns(request: &Request) -> Result<Netns, CniError> {
    let path = request
        .netns
        .as_deref()
        .ok_or_else(|| CniError::new(Code::INVALID_ENVIRONMENT, "CNI_NETNS is required"))?;
    let netns = Netns::open(path)
        .map_err(|error| CniError::new(Code::UNKNOWN_CONTAINER, error.to_string()))?;
    let node = Netns::current().map_err(|error| kernel_error(&error))?;
    if netns.is_same(&node) {
        return Err(CniError::new(
            Code::INVALID_ENVIRONMENT,
            format!("CNI_NETNS {} is the node's own namespace", path.display()),
        )
        .because("a pod in the host's network needs no plugin"));
    }
    Ok(netns)
}

fn forget(store: &Store, conf: &NetConf, attachment: &Attachment) -> Result<(), CniError> {
    Ok(store.write(|tx| forget_in(tx, conf, attachment))?)
}

/// Endpoint and leases go in one transaction. Leases are of our own IPAM only; with another's
/// there are none to end.
fn forget_in(
    tx: &Tx<'_>,
    conf: &NetConf,
    attachment: &Attachment,
) -> Result<(), watari_store::StoreError> {
    tx.remove_endpoint(attachment)?;
    tx.release(&conf.name, attachment, now()).map(drop)
}

/// Takes pods out of the datapath and deletes their links. The datapath first: what it still sends
/// to a link that is gone is lost.
fn take_out(own: &InterfaceConf, pods: &fast::Leaving) -> Result<(), CniError> {
    let out = fast::remove(&own.bpf_root, pods);
    let mut host = Handle::open().map_err(|error| kernel_error(&error))?;
    for link in pods.keys() {
        remove(&mut host, link).map_err(|error| kernel_error(&error))?;
    }
    out
}

/// Links that say they are this network's, of attachments that are not valid: what is left where
/// the store was lost.
fn stray_links(conf: &NetConf, valid: &BTreeSet<Attachment>) -> Result<Vec<IfName>, CniError> {
    let mut host = Handle::open().map_err(|error| kernel_error(&error))?;
    let links = host.links().map_err(|error| kernel_error(&error))?;
    let stray = links.into_iter().filter(|link| {
        owner_of_alias(&link.alias)
            .is_some_and(|owner| owner.network == conf.name && !valid.contains(&owner.attachment))
    });
    Ok(stray.map(|link| link.name).collect())
}

/// What of the tables the kernel has lost. What a pod or a later plugin added is theirs.
fn observed_differences(tables: &Endpoint, netns: &Netns) -> Result<Vec<String>, CniError> {
    let failed = |error: NetlinkError| kernel_error(&error);
    let seen = |tables| observe(&mut Handle::open()?, tables);
    let host = seen(&tables.host).map_err(failed)?;
    let pod = netns
        .within(|| seen(&tables.pod))
        .and_then(|seen| seen)
        .map_err(failed)?;
    let sides = [("node", &tables.host, host), ("pod", &tables.pod, pod)];
    Ok(sides
        .iter()
        .flat_map(|(side, desired, observed)| {
            let found = differences(desired, observed.as_ref());
            let losses = found.into_iter().filter(watari_plan::Difference::is_loss);
            losses.map(move |loss| format!("{side} {}: {loss}", desired.name))
        })
        .collect())
}

/// The addresses that the runtime believes in must be the attachment's.
fn result_differences(conf: &NetConf, tables: &Endpoint) -> Vec<String> {
    let Some(previous) = &conf.prev_result else {
        return Vec::new();
    };
    let told: BTreeSet<IpNet> = previous.ips.iter().map(|ip| ip.address).collect();
    let missing = tables.pod.addresses.difference(&told);
    missing
        .map(|net| format!("prevResult does not hold the pod's address {net}"))
        .collect()
}

fn result(conf: &NetConf, request: &Request, tables: &Endpoint, granted: &Granted) -> CniResult {
    let mut result = conf.prev_result.clone().unwrap_or_default();
    let first = result.interfaces.len();
    for (link, sandbox) in [(&tables.host, None), (&tables.pod, request.netns.clone())] {
        result.interfaces.push(Interface {
            name: link.name.to_string(),
            mac: Some(link.mac),
            mtu: Some(link.mtu),
            sandbox,
            ..Interface::default()
        });
    }
    result.ips.extend(granted.ips.iter().map(|ip| IpConfig {
        address: ip.address,
        gateway: Some(gateway(ip.address.addr())),
        interface: Some(first + 1),
    }));
    // The routes as they are in the pod: all over the gateway, but that to the gateway itself.
    result
        .routes
        .extend(tables.pod.routes.iter().filter_map(|route| {
            Some(ResultRoute {
                gw: Some(route.via?),
                ..ResultRoute::to(route.destination)
            })
        }));
    if result.dns.is_empty() {
        let ours = if conf.dns.is_empty() {
            &granted.dns
        } else {
            &conf.dns
        };
        result.dns = Dns::clone(ours);
    }
    result
}

fn create_error(error: &CreateError) -> CniError {
    let code = match error {
        CreateError::PodNameTaken { .. } => Code::INVALID_ENVIRONMENT,
        _ => Code::KERNEL,
    };
    CniError::new(code, error.to_string())
}

fn undone_error(told: CniError, undo: Option<CniError>) -> CniError {
    match undo {
        None => told,
        Some(undo) => told.because(format_args!("and undoing it failed, so run DEL: {undo}")),
    }
}
