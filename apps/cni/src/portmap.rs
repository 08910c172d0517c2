//! The chained plugin `portmap`: ports of the node that lead to a container, by nftables.
//!
//! Configuration, beside `runtimeConfig.portMappings`:
//! - `snat` (default true): masquerade what the container sends to itself by way of the node, and
//!   what the node sends from 127.0.0.1; without it such connections do not work.
//! - `masqAll` (default false): masquerade every mapped connection.
//! - `backend`: `nftables` or absent. `iptables` is refused.
//! - `conditionsV4`, `conditionsV6`: refused unless empty. They are fragments of an iptables
//!   command line; to ignore them would open to everybody what they keep for some.
//! - `externalSetMarkChain`, `markMasqBit`: ignored. They choose which packet mark carries the
//!   decision to masquerade from one iptables chain to another; here a set holds that decision,
//!   and no mark is used.
//!
//! A host port 0 maps nothing. A `hostIP` concerns the container's address of its own family
//! alone; an unspecified one (`0.0.0.0`, `::`) means any address of the node of that family.
//!
//! How the kernel is told: [`watari_nft::portmap`].

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use watari_cni_spec::{CniError, CniResult, Code, NetConf, PortMapping, Request};
use watari_model::{Attachment, IfName};
use watari_nft::portmap::{HostPort, Mapping, Masquerade, Owner, PortError, PortMaps, Wanted};

/// ADD: maps the ports and returns `prevResult` as it is.
pub fn add(request: &Request, conf: &NetConf) -> Result<CniResult, CniError> {
    let result = previous(conf)?;
    if conf.runtime.port_mappings.is_empty() {
        return Ok(result.clone());
    }
    let wanted = wanted(request, conf, result)?;
    if wanted.mappings.is_empty() {
        return Ok(result.clone());
    }
    let links = local_links(&wanted, result)?;
    let mut maps = open()?;
    // The table first: it holds the guard without which no link may have `route_localnet`.
    let added = maps
        .add(&wanted)
        .map_err(|error| failed("cannot map the container's ports", error))
        .and_then(|()| links.iter().try_for_each(allow_loopback));
    if let Err(error) = added {
        // A port that is taken changed nothing; after any other failure nothing may stay. What
        // ADD failed with is told, not that undoing it failed too.
        if error.code != Code::PORT_TAKEN {
            let _ = maps.remove_all(&wanted.owner);
        }
        return Err(error);
    }
    Ok(result.clone())
}

/// DEL: removes the attachment's mappings. Succeeds if they are gone already.
pub fn del(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let owner = Owner::new(&conf.name, &attachment(request)?);
    let ports: BTreeSet<HostPort> = host_ports(&conf.runtime.port_mappings)
        .map(|(host, _)| host)
        .collect();
    let mut maps = open()?;
    let removed = if conf.runtime.port_mappings.is_empty() {
        maps.remove_all(&owner)
    } else {
        maps.remove(&owner, &ports)
    };
    maps.leave();
    removed
        .map(|_| ())
        .map_err(|error| failed("cannot remove the container's port mappings", error))
}

/// CHECK: is everything as ADD left it? Names each difference.
pub fn check(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let result = previous(conf)?;
    let wanted = wanted(request, conf, result)?;
    if wanted.mappings.is_empty() {
        return Ok(());
    }
    let mut differences = open()?
        .check(&wanted)
        .map_err(|error| failed("cannot check the container's port mappings", error))?;
    for link in local_links(&wanted, result)? {
        let path = route_localnet(&link);
        match std::fs::read_to_string(&path) {
            Ok(value) if value.trim() != "1" => {
                differences.push(format!(
                    "{} is {} instead of 1",
                    path.display(),
                    value.trim()
                ));
            }
            _ => {}
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let msg = "the port mappings in nftables are not as ADD left them";
    Err(CniError::new(Code::CHECK_FAILED, msg).because(differences.join("; ")))
}

/// GC: removes the mappings of this network that belong to no valid attachment.
pub fn gc(_request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let valid = conf.valid_attachments.as_deref().ok_or_else(|| {
        let msg = "GC needs \"cni.dev/valid-attachments\": without it every mapping would go";
        CniError::new(Code::INVALID_CONFIG, msg)
    })?;
    open()?
        .prune(&conf.name, valid)
        .map(|_| ())
        .map_err(|error| failed("cannot remove stale port mappings", error))
}

/// STATUS: can ports be mapped on this node?
pub fn status(_request: &Request, conf: &NetConf) -> Result<(), CniError> {
    Settings::read(conf)?;
    let not_available = |error: watari_nft::Error| {
        let msg = "ports cannot be mapped on this node by nftables";
        CniError::new(Code::NOT_AVAILABLE, msg).because(error)
    };
    PortMaps::open()
        .and_then(|mut maps| maps.probe())
        .map_err(not_available)
}

fn open() -> Result<PortMaps, CniError> {
    PortMaps::open().map_err(|error| kernel("cannot reach nftables").because(error))
}

fn kernel(msg: impl Into<String>) -> CniError {
    CniError::new(Code::KERNEL, msg)
}

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(Code::INVALID_CONFIG, msg)
}

fn failed(msg: &str, error: PortError) -> CniError {
    let code = match &error {
        PortError::Taken { .. } => Code::PORT_TAKEN,
        PortError::Busy { .. } => Code::TRY_AGAIN,
        PortError::Kernel(_) => Code::KERNEL,
    };
    CniError::new(code, msg).because(error)
}

fn previous(conf: &NetConf) -> Result<&CniResult, CniError> {
    conf.prev_result.as_ref().ok_or_else(|| {
        invalid("portmap needs \"prevResult\"")
            .because("put it behind a plugin that makes an interface, in a list")
    })
}

fn attachment(request: &Request) -> Result<Attachment, CniError> {
    request.attachment().ok_or_else(|| {
        let msg = "CNI_CONTAINERID and CNI_IFNAME are needed";
        CniError::new(Code::INVALID_ENVIRONMENT, msg)
    })
}

/// The plugin's own fields.
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    masquerade: Masquerade,
}

impl Settings {
    fn read(conf: &NetConf) -> Result<Self, CniError> {
        let flag = |name: &str, default| match conf.raw.get(name) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(invalid(format!("{name:?} has to be true or false"))),
        };
        let unsupported = |name: &str, why: &str| {
            let msg = format!("{name:?} is not supported with this value");
            Err(CniError::new(Code::UNSUPPORTED_FIELD, msg).because(why))
        };
        match conf.raw.get("backend") {
            None | Some(Value::Null) => {}
            Some(Value::String(backend)) if backend == "nftables" => {}
            Some(_) => return unsupported("backend", "\"nftables\" is the only one"),
        }
        for name in ["conditionsV4", "conditionsV6"] {
            match conf.raw.get(name) {
                None | Some(Value::Null) => {}
                Some(Value::Array(conditions)) if conditions.is_empty() => {}
                Some(_) => {
                    return unsupported(
                        name,
                        "conditions of iptables cannot be kept in nftables, and to drop them \
                         would open the ports to everybody",
                    );
                }
            }
        }
        let masquerade = match (flag("masqAll", false)?, flag("snat", true)?) {
            (_, false) => Masquerade::Nothing,
            (true, true) => Masquerade::Everything,
            (false, true) => Masquerade::Local,
        };
        Ok(Self { masquerade })
    }
}

/// The mappings that map something, with the container's port.
fn host_ports(mappings: &[PortMapping]) -> impl Iterator<Item = (HostPort, u16)> {
    mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(|mapping| {
            let host = HostPort {
                protocol: mapping.protocol,
                address: mapping.host_ip.map(|address| address.to_canonical()),
                port: mapping.host_port,
            };
            (host, mapping.container_port)
        })
}

fn wanted(request: &Request, conf: &NetConf, result: &CniResult) -> Result<Wanted, CniError> {
    let settings = Settings::read(conf)?;
    let owner = Owner::new(&conf.name, &attachment(request)?);
    let targets = targets(result);
    let mut mappings = BTreeMap::new();
    for (host, target_port) in host_ports(&conf.runtime.port_mappings) {
        if target_port == 0 {
            let msg = format!("host port {host} is mapped to port 0 of the container");
            return Err(invalid(msg).because("\"containerPort\" has to be 1 to 65535"));
        }
        for target in targets
            .iter()
            .copied()
            .filter(|target| host.serves(*target))
        {
            let host = HostPort {
                address: host.address.filter(|address| !address.is_unspecified()),
                ..host
            };
            let mapping = Mapping {
                host,
                target,
                target_port,
            };
            if let Some(other) = mappings.insert((host, target), mapping)
                && other != mapping
            {
                let msg = format!("\"portMappings\" maps host port {host} twice");
                let (one, two) = (other.target_port, target_port);
                return Err(invalid(msg).because(format!("to ports {one} and {two}")));
            }
        }
    }
    if targets.is_empty() && host_ports(&conf.runtime.port_mappings).next().is_some() {
        return Err(invalid(
            "\"prevResult\" has no address of the container to map ports to",
        ));
    }
    Ok(Wanted {
        owner,
        mappings: mappings.into_values().collect(),
        masquerade: settings.masquerade,
    })
}

/// The first address of each family that is the container's.
fn targets(result: &CniResult) -> Vec<IpAddr> {
    let ours = result.ips.iter().filter(|ip| {
        let link = ip.interface.and_then(|at| result.interfaces.get(at));
        link.is_none_or(|link| !is_host_side(link.sandbox.as_deref()))
    });
    let all: Vec<IpAddr> = ours.map(|ip| ip.address.addr()).collect();
    let first = |v4: bool| all.iter().copied().find(|address| address.is_ipv4() == v4);
    [first(true), first(false)].into_iter().flatten().collect()
}

fn is_host_side(sandbox: Option<&Path>) -> bool {
    sandbox.is_none_or(|path| path.as_os_str().is_empty())
}

/// The links of the node by which its 127.0.0.1 reaches the container, if it shall.
fn local_links(wanted: &Wanted, result: &CniResult) -> Result<Vec<IfName>, CniError> {
    let local = wanted.masquerade != Masquerade::Nothing
        && wanted
            .mappings
            .iter()
            .any(|mapping| mapping.target.is_ipv4());
    result
        .interfaces
        .iter()
        .filter(|link| local && is_host_side(link.sandbox.as_deref()))
        .map(|link| {
            IfName::new(link.name.as_str())
                .map_err(|error| invalid("an interface of \"prevResult\"").because(error))
        })
        .collect()
}

/// Lets what the node sends from 127.0.0.1 leave by a link. An interface of a result need not be
/// one of the kernel.
fn allow_loopback(link: &IfName) -> Result<(), CniError> {
    let path = route_localnet(link);
    match std::fs::write(&path, "1") {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(kernel(format!("cannot write 1 to {}", path.display())).because(error))
        }
        _ => Ok(()),
    }
}

fn route_localnet(link: &IfName) -> PathBuf {
    PathBuf::from(format!("/proc/sys/net/ipv4/conf/{link}/route_localnet"))
}
