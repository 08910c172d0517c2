//! The network around the nodes.

mod azure;
mod guard;
mod l2;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use watari_model::IfName;
use watari_netlink::{Change, Handle, Netns, Veth};

use crate::cgroup::Cgroup;
use crate::layout::{Lab, Node, SDN_MAC};
use crate::names::Label;
use crate::paths::LabDir;
use crate::spec::FabricKind;
use crate::{mounts, node, process};

/// The fabric's cgroup, beside those of the nodes, whose names all end in a number.
pub const FABRIC: &str = "fabric";

/// Changes in one batch: their acknowledgements must fit into the socket's receive buffer.
const BATCH: usize = 64;

/// How long to wait for a new link to carry packets.
const CARRIER: Duration = Duration::from_secs(10);

/// The fabric's process: makes its namespaces, reports, and serves what the fabric serves.
pub fn run(lab: &Label) -> Result<()> {
    process::settle(&Cgroup::lab(lab)?.child(FABRIC).child(node::HOLDER))?;
    let mut reported = false;
    let served = make(lab).and_then(|lab| {
        let ready = || {
            reported = true;
            process::report_ready("")
        };
        match lab.fabric {
            FabricKind::Azure => azure::serve(&lab, ready),
            FabricKind::L2 => l2::serve(ready),
        }
    });
    match &served {
        Err(error) if !reported => process::report_failed(error)?,
        _ => {}
    }
    served
}

fn make(name: &Label) -> Result<Lab> {
    let dir = LabDir::of(name);
    let lab = crate::state::read(&dir)?.context("the lab is being taken down")?;
    let here = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS;
    unshare(here).context("make the fabric's namespaces")?;
    nix::unistd::sethostname(FABRIC).context("set the host name")?;
    mounts::detach_from_parent()?;
    mounts::fresh_sys(&dir.path().join("stage"))?;
    match lab.fabric {
        FabricKind::Azure => azure::make(&lab)?,
        FabricKind::L2 => l2::make(&lab)?,
    }
    Ok(lab)
}

/// The index of a link that must be there.
pub fn index_of(handle: &mut Handle, name: &str) -> Result<u32> {
    let link = handle.link(&IfName::new(name)?)?;
    Ok(link.with_context(|| format!("no link {name}"))?.index)
}

/// Lays the cable between the fabric and a node, and makes both ends what they are.
pub fn connect(fabric: &Netns, netns: &Netns, lab: &Lab, node: &Node) -> Result<()> {
    let mut there = Handle::open_in(netns)?;
    let mut here = Handle::open_in(fabric)?;
    let (port, eth0) = (IfName::new(node.port.clone())?, node::eth0()?);
    let pair = Change::CreateVeth(
        Veth {
            name: &port,
            mac: (lab.fabric == FabricKind::Azure).then_some(SDN_MAC),
            mtu: lab.mtu,
            netns: None,
        },
        Veth {
            name: &eth0,
            mac: Some(node.mac),
            mtu: lab.mtu,
            netns: Some(netns),
        },
    );
    here.batch(&[pair])?;
    match lab.fabric {
        FabricKind::Azure => azure::own(fabric, &mut here, &port, node)?,
        FabricKind::L2 => l2::join(&mut here, &port)?,
    }
    node::configure(&mut there, lab, node)?;
    let (index, other) = (
        index_of(&mut here, port.as_str())?,
        index_of(&mut there, eth0.as_str())?,
    );
    wait_for_carrier(&mut here, index)?;
    wait_for_carrier(&mut there, other)
}

/// A link sends only when the kernel's link watch has seen its carrier; what is sent before is
/// lost.
fn wait_for_carrier(handle: &mut Handle, index: u32) -> Result<()> {
    let deadline = Instant::now() + CARRIER;
    while let Some(link) = handle.link_by_index(index)? {
        if link.running {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("{} has no carrier after {} s", link.name, CARRIER.as_secs());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    bail!("link {index} is gone")
}
