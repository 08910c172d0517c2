//! A host outside the cluster, on the nodes' subnet: whoever calls a node's port or a load balancer's
//! address from there is no pod and no node.

use std::path::Path;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};
use watari_netlink::{Change, Handle, Netns, NewRoute};
use watari_tables::Route;

use crate::cgroup::Cgroup;
use crate::layout::{Lab, OUTSIDE};
use crate::names::Label;
use crate::paths::{self, LabDir};
use crate::spec::FabricKind;
use crate::{fabric, mounts, node, process};

/// The process that keeps its namespaces: makes them, reports, and stays.
pub fn run(lab: &Label) -> Result<()> {
    process::settle(&Cgroup::lab(lab)?.child(OUTSIDE).child(node::HOLDER))?;
    match make(lab) {
        Ok(()) => process::report_ready("")?,
        Err(error) => {
            process::report_failed(&error)?;
            return Err(error);
        }
    }
    process::hold()
}

fn make(name: &Label) -> Result<()> {
    let dir = LabDir::of(name);
    let lab = crate::state::read(&dir)?.context("the lab is being taken down")?;
    let here = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(here).context("make the namespaces of the host outside")?;
    nix::unistd::sethostname(OUTSIDE).context("set the host name")?;
    mounts::detach_from_parent()?;
    mounts::fresh_sys(&dir.path().join("stage"))?;
    mounts::tmpfs(Path::new("/run"))?;
    let keep = Path::new("/run/watari/lab");
    paths::create_dir(keep)?;
    mounts::own_file(keep, Path::new("/etc/hosts"), &node::hosts(&lab))?;
    let mut settings = vec![
        // An answer may come from another node than the one that was asked.
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/default/rp_filter", "0"),
    ];
    if node::has_ipv6() {
        settings.push(("ipv6/conf/default/accept_dad", "0"));
        settings.push(("ipv6/conf/default/accept_ra", "0"));
    }
    node::set_all(&settings)?;
    node::up_loopback()
}

/// On a switch, the ways to the load balancers' addresses: over the first node, as a router that was
/// told so by hand would know them.
pub fn lay_ways(netns: &Netns, lab: &Lab) -> Result<()> {
    let Some(first) = lab.nodes.first().filter(|_| lab.fabric == FabricKind::L2) else {
        return Ok(());
    };
    let mut handle = Handle::open_in(netns)?;
    let eth0 = fabric::index_of(&mut handle, "eth0")?;
    let mut changes = Vec::new();
    for &destination in &lab.load_balancer_pools {
        let via = first.primary_like(destination.addr());
        if via.is_some() {
            let route = Route { destination, via };
            changes.push(Change::AddRoute(NewRoute::unicast(eth0, route)));
        }
    }
    handle
        .batch(&changes)
        .context("lay the ways of the host outside")
}
