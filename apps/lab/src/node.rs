use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sched::{CloneFlags, unshare};
use watari_model::IfName;
use watari_netlink::{Change, Handle, NewRoute, RouteProtocol, write_setting};
use watari_tables::Route;

use crate::cgroup::Cgroup;
use crate::layout::{GATEWAY6, Lab, METADATA, Node, WIRE_SERVER};
use crate::names::Label;
use crate::paths::{self, LabDir};
use crate::spec::FabricKind;
use crate::state::OpenLab;
use crate::{cluster, fabric, mounts, process};

/// The cgroup of the process that keeps a node's, a pod's or the fabric's namespaces.
pub const HOLDER: &str = "holder";
/// The cgroup of what `exec` and `shell` run.
pub const EXEC: &str = "exec";

/// A primary interface.
pub fn eth0() -> Result<IfName> {
    Ok(IfName::new("eth0")?)
}

/// The process that keeps a node's namespaces: makes them, reports, and stays.
pub fn run_holder(lab: &Label, name: &Label) -> Result<()> {
    process::settle(&Cgroup::node(lab, name)?.child(HOLDER))?;
    match make(lab, name) {
        Ok(()) => process::report_ready("")?,
        Err(error) => {
            process::report_failed(&error)?;
            return Err(error);
        }
    }
    process::hold()
}

/// True when the node's namespaces are there.
pub fn is_up(lab: &OpenLab, node: &Node) -> Result<bool> {
    let holder = lab.cgroup()?.child(node.name.as_str()).child(HOLDER);
    Ok(!holder.processes()?.is_empty())
}

fn make(lab: &Label, name: &Label) -> Result<()> {
    let dir = LabDir::of(lab);
    let lab = crate::state::read(&dir)?.context("the lab is being taken down")?;
    let here = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(here).context("make the node's namespaces")?;
    nix::unistd::sethostname(name.as_str()).context("set the host name")?;
    mounts::detach_from_parent()?;
    let node = dir.node(name);
    mounts::fresh_sys(&node.stage())?;
    mounts::bpffs(Path::new("/sys/fs/bpf"))?;
    for (source, target) in [
        (node.etc_cni(), "/etc/cni"),
        (node.opt_cni(), "/opt/cni"),
        (node.var_lib_cni(), "/var/lib/cni"),
    ] {
        // The only trace on the machine: an empty directory to mount on, where there was none.
        paths::create_dir(Path::new(target))?;
        mounts::bind(&source, Path::new(target))?;
    }
    own_run(&lab, name)?;
    settings(&lab)
}

/// A `/run` of the node's own, and the files that name it. `/run` hides the lab's directory.
fn own_run(lab: &Lab, name: &Label) -> Result<()> {
    mounts::tmpfs(Path::new("/run"))?;
    let keep = Path::new("/run/watari/lab");
    paths::create_dir(keep)?;
    for directory in ["/run/netns", "/run/lock"] {
        paths::create_dir(Path::new(directory))?;
    }
    let cidrs = lab.node(name.as_str()).map(|node| &node.pod_cidrs);
    let known = serde_json::json!({ "podCIDRs": cidrs }).to_string();
    paths::write(Path::new("/run/watari/node.json"), &known)?;
    cluster::write(lab)?;
    let resolver = format!("nameserver {}\n", lab.nameserver());
    mounts::own_file(keep, Path::new("/etc/resolv.conf"), &resolver)?;
    mounts::own_file(keep, Path::new("/etc/hostname"), &format!("{name}\n"))?;
    mounts::own_file(keep, Path::new("/etc/hosts"), &hosts(lab))
}

/// Every node by name, as the cloud's own DNS would tell.
fn hosts(lab: &Lab) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
    for node in &lab.nodes {
        for address in node.primaries() {
            let _ = writeln!(text, "{address} {}", node.name);
        }
    }
    text
}

/// What a node's kernel is set to before it has an interface; new ones inherit `default`.
fn settings(lab: &Lab) -> Result<()> {
    let mut settings = vec![("ipv4/ip_forward", "1")];
    if has_ipv6() {
        settings.push(("ipv6/conf/default/accept_dad", "0"));
        settings.push(("ipv6/conf/default/accept_ra", "0"));
        if lab.ipv6_prefix.is_some() {
            settings.push(("ipv6/conf/all/forwarding", "1"));
        }
    }
    set_all(&settings)?;
    up_loopback()
}

/// Writes settings below `/proc/sys/net` of this namespace.
pub fn set_all(settings: &[(&str, &str)]) -> Result<()> {
    for (name, value) in settings {
        write_setting(&Path::new("/proc/sys/net").join(name), value)?;
    }
    Ok(())
}

/// False on a kernel without IPv6.
pub fn has_ipv6() -> bool {
    fs::exists("/proc/sys/net/ipv6").unwrap_or(false)
}

/// Brings up `lo` of this namespace.
pub fn up_loopback() -> Result<()> {
    let mut handle = Handle::open()?;
    let lo = fabric::index_of(&mut handle, "lo")?;
    Ok(handle.batch(&[Change::Up(lo)])?)
}

/// Gives a node's `eth0` its addresses and routes. `handle` is the node's.
pub fn configure(handle: &mut Handle, lab: &Lab, node: &Node) -> Result<()> {
    let eth0 = fabric::index_of(handle, "eth0")?;
    let mut changes = vec![Change::Up(eth0)];
    if let Some(primary) = node.primary {
        let primary = IpNet::V4(Ipv4Net::new(primary, lab.subnet.prefix_len())?);
        changes.push(Change::AddAddressWithRoute(eth0, primary));
        let gateway = IpAddr::V4(lab.gateway);
        changes.push(Change::AddRoute(dhcp(eth0, default4(), gateway)));
        if lab.fabric == FabricKind::Azure {
            for service in [WIRE_SERVER, METADATA] {
                let destination = IpNet::V4(Ipv4Net::from(service));
                changes.push(Change::AddRoute(dhcp(eth0, destination, gateway)));
            }
        }
    }
    if let (Some(primary6), Some(prefix)) = (node.primary6, lab.ipv6_prefix) {
        changes.push(match lab.fabric {
            FabricKind::Azure => Change::AddAddress(eth0, Ipv6Net::from(primary6).into()),
            FabricKind::L2 => {
                let own = Ipv6Net::new(primary6, prefix.prefix_len())?;
                Change::AddAddressWithRoute(eth0, own.into())
            }
        });
        // The kernel makes the local route later; until then the node refuses what is sent to it.
        let local = NewRoute::local(eth0, IpAddr::V6(primary6));
        changes.push(Change::AddRoute(local));
        let gateway = IpAddr::V6(GATEWAY6);
        changes.push(Change::AddRoute(dhcp(eth0, default6(), gateway)));
    }
    handle
        .batch(&changes)
        .with_context(|| format!("set up eth0 of {}", node.name))
}

fn dhcp(index: u32, destination: IpNet, via: IpAddr) -> NewRoute {
    let via = Some(via);
    NewRoute {
        protocol: RouteProtocol::Dhcp,
        ..NewRoute::unicast(index, Route { destination, via })
    }
}

fn default4() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
}

fn default6() -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))
}
