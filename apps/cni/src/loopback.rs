//! `loopback`: `lo` of a container, up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use watari_cni_spec::{CniError, CniResult, Code, Command, Interface, IpConfig, NetConf, Request};
use watari_model::{IfName, MacAddr};
use watari_netlink::{Change, Handle, Link, NetlinkError, Netns};

use crate::node::kernel_error;

/// Runs a command. DEL takes `lo` down if the namespace is still there, as the reference does.
pub fn run(
    command: Command,
    request: &Request,
    conf: &NetConf,
) -> Result<Option<CniResult>, CniError> {
    match command {
        Command::Add => {
            let netns = open(request)?;
            let mut handle = handle_in(&netns)?;
            let index = lo(&mut handle)?.index;
            handle
                .batch(&[Change::Up(index)])
                .map_err(|error| kernel_error(&error))?;
            // As one plugin of a chain it adds nothing to what the others say.
            Ok(Some(match &conf.prev_result {
                Some(previous) => previous.clone(),
                None => result(&mut handle, &netns)?,
            }))
        }
        Command::Del => {
            del(request).map_err(|error| kernel_error(&error))?;
            Ok(None)
        }
        Command::Check => {
            let link = lo(&mut handle_in(&open(request)?)?)?;
            if link.up {
                return Ok(None);
            }
            Err(CniError::new(
                Code::CHECK_FAILED,
                "interface lo is down, should be up",
            ))
        }
        Command::Gc | Command::Status | Command::Version => Ok(None),
    }
}

fn open(request: &Request) -> Result<Netns, CniError> {
    let path = request
        .netns
        .as_deref()
        .ok_or_else(|| CniError::new(Code::INVALID_ENVIRONMENT, "CNI_NETNS is required"))?;
    Netns::open(path).map_err(|error| CniError::new(Code::UNKNOWN_CONTAINER, error.to_string()))
}

fn handle_in(netns: &Netns) -> Result<Handle, CniError> {
    Handle::open_in(netns).map_err(|error| kernel_error(&error))
}

fn lo_name() -> Option<IfName> {
    IfName::new("lo").ok()
}

fn find(handle: &mut Handle) -> Result<Option<Link>, NetlinkError> {
    lo_name().map_or(Ok(None), |name| handle.link(&name))
}

fn lo(handle: &mut Handle) -> Result<Link, CniError> {
    let found = find(handle).map_err(|error| kernel_error(&error))?;
    found.ok_or_else(|| CniError::new(Code::KERNEL, "the namespace has no interface lo"))
}

fn del(request: &Request) -> Result<(), NetlinkError> {
    let Some(path) = &request.netns else {
        return Ok(());
    };
    let Ok(netns) = Netns::open(path) else {
        return Ok(());
    };
    let mut handle = Handle::open_in(&netns)?;
    match find(&mut handle)? {
        Some(link) => handle.batch(&[Change::Down(link.index)]),
        None => Ok(()),
    }
}

/// The addresses that came up with the link; a kernel without IPv6 has one.
fn result(handle: &mut Handle, netns: &Netns) -> Result<CniResult, CniError> {
    let link = lo(handle)?;
    let held = handle
        .addresses(link.index)
        .map_err(|error| kernel_error(&error))?;
    let usual: [IpNet; 2] = [
        IpNet::new_assert(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
        IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    ];
    let ips = usual.into_iter().filter(|net| held.contains(net));
    Ok(CniResult {
        interfaces: vec![Interface {
            name: link.name.to_string(),
            mac: Some(MacAddr([0; 6])),
            sandbox: Some(netns.path().to_owned()),
            ..Interface::default()
        }],
        ips: ips
            .map(|address| IpConfig {
                address,
                gateway: None,
                interface: Some(0),
            })
            .collect(),
        ..CniResult::default()
    })
}
