use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use watari_netlink::Netns;

use crate::agent::{self, AGENT};
use crate::cgroup::Cgroup;
use crate::down;
use crate::fabric::{self, FABRIC};
use crate::layout::{Lab, Node};
use crate::lock::{DirLock, Mode};
use crate::names::Label;
use crate::node::{EXEC, HOLDER};
use crate::paths::{self, LabDir, NodeDir};
use crate::process::{self, Namespaces};
use crate::spec::{FabricKind, Spec};
use crate::state;
use crate::way;

/// The conflist of a real AKS node, byte for byte the one of the reference page.
pub const AKS_CONFLIST: &str = include_str!("10-azure.conflist");

/// The same for pods of both families, for a lab with IPv6.
pub const AKS_DUAL_CONFLIST: &str = include_str!("10-azure-dual.conflist");

/// For nodes on a switch: pods of whatever families the node's Pod CIDRs have.
pub const SWITCH_CONFLIST: &str = include_str!("10-watari.conflist");

/// The names under which the one plugin binary is installed.
pub const PLUGIN_NAMES: [&str; 6] = [
    "watari-cni",
    "azure-vnet",
    "azure-vnet-ipam",
    "azure-vnet-ipamv6",
    "portmap",
    "loopback",
];

/// What `up` is told beside the specification.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The nodes' conflist; when absent [`AKS_CONFLIST`], or [`AKS_DUAL_CONFLIST`] with IPv6, or
    /// [`SWITCH_CONFLIST`].
    pub conflist: Option<String>,
    /// The plugin binary, or the directory it is in; beside the running binary when absent.
    pub cni_bin: Option<PathBuf>,
}

/// Brings up a lab. Whatever fails, nothing of it stays.
pub fn up(name: &Label, spec: &Spec, options: &Options) -> Result<Lab> {
    let lab = Lab::new(name.clone(), spec)?;
    let plugin = find_plugin(options.cni_bin.as_deref())?;
    let dir = LabDir::of(name);
    let _lock = DirLock::create(dir.path(), Mode::Exclusive)?;
    if fs::exists(dir.ready()).unwrap_or(false) {
        bail!("lab {name} is up already: watari lab down --lab {name}");
    }
    // What an `up` or `down` that was killed left behind; nothing in the usual case.
    down::clear(name, &dir).context("clear what an interrupted command left behind")?;
    let built = build(&lab, &dir, &plugin, options);
    if let Err(error) = built {
        let mut error = error.context(format!("lab {name} cannot be brought up"));
        for left in down::remove(name, &dir) {
            error = error.context(format!("and on the way back: {left:#}"));
        }
        return Err(error);
    }
    Ok(lab)
}

fn build(lab: &Lab, dir: &LabDir, plugin: &Path, options: &Options) -> Result<()> {
    prepare(lab, dir, plugin, options)?;
    let name = lab.name.as_str();
    process::start(&["fabric-init", "--lab", name], &dir.fabric_log())?;
    for node in &lab.nodes {
        let log = dir.node(&node.name).log();
        process::start(&["node-init", "--lab", name, node.name.as_str()], &log)
            .with_context(|| format!("start node {}", node.name))?;
    }
    let group = Cgroup::lab(&lab.name)?;
    let fabric = netns(&group.child(FABRIC))?;
    for node in &lab.nodes {
        let netns = netns(&group.child(node.name.as_str()))?;
        fabric::connect(&fabric, &netns, lab, node)
            .with_context(|| format!("connect node {}", node.name))?;
        if lab.fabric == FabricKind::L2 && !lab.agent {
            way::lay(&netns, lab, node)
                .with_context(|| format!("lay the ways of node {}", node.name))?;
        }
    }
    if lab.agent {
        agent::start(lab, dir, lab.nodes.iter().map(|node| &node.name))?;
    }
    paths::write(&dir.ready(), "")
}

fn netns(owner: &Cgroup) -> Result<Netns> {
    let namespaces = Namespaces::of(&owner.child(HOLDER))?.with_context(|| {
        format!(
            "no process keeps the namespaces of {}",
            owner.path().display()
        )
    })?;
    Ok(Netns::open(Path::new(&namespaces.net_path()))?)
}

/// Files and cgroups; the description first, since every process that is started reads it.
fn prepare(lab: &Lab, dir: &LabDir, plugin: &Path, options: &Options) -> Result<()> {
    let text = serde_json::to_vec_pretty(lab).context("describe the lab")?;
    paths::write_whole(&dir.description(), &text)?;
    paths::create_dir(&dir.path().join("stage"))?;
    paths::create_dir(&dir.bin())?;
    let copy = dir.bin().join(PLUGIN_NAMES[0]);
    link_or_copy(plugin, &copy)?;
    let group = Cgroup::lab(&lab.name)?;
    for part in [HOLDER, EXEC] {
        group.child(FABRIC).child(part).create()?;
    }
    for node in &lab.nodes {
        let (file, usual) = usual_conflist(lab);
        let conflist = options.conflist.as_deref().unwrap_or(usual);
        prepare_node(&dir.node(&node.name), &copy, (file, conflist))?;
        for part in [HOLDER, EXEC, AGENT] {
            group.child(node.name.as_str()).child(part).create()?;
        }
    }
    Ok(())
}

/// The conflist of a lab that names none, and what its file is called.
fn usual_conflist(lab: &Lab) -> (&'static str, &'static str) {
    match (lab.fabric, lab.ipv6_prefix) {
        (FabricKind::Azure, None) => ("10-azure.conflist", AKS_CONFLIST),
        (FabricKind::Azure, Some(_)) => ("10-azure.conflist", AKS_DUAL_CONFLIST),
        (FabricKind::L2, _) => ("10-watari.conflist", SWITCH_CONFLIST),
    }
}

fn prepare_node(node: &NodeDir, plugin: &Path, (file, conflist): (&str, &str)) -> Result<()> {
    let (configurations, programs) = (node.etc_cni().join("net.d"), node.opt_cni().join("bin"));
    for directory in [
        &configurations,
        &programs,
        &node.var_lib_cni(),
        &node.stage(),
        &node.pods(),
    ] {
        paths::create_dir(directory)?;
    }
    fs::write(configurations.join(file), conflist)
        .with_context(|| format!("write a conflist to {}", configurations.display()))?;
    for name in PLUGIN_NAMES {
        link_or_copy(plugin, &programs.join(name))?;
    }
    Ok(())
}

/// One file under two names where that is possible: its pages are in memory once.
fn link_or_copy(source: &Path, target: &Path) -> Result<()> {
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    fs::copy(source, target)
        .map(drop)
        .with_context(|| format!("copy {} to {}", source.display(), target.display()))
}

/// The plugin binary: the one named (or in the directory named), else beside the running one.
fn find_plugin(given: Option<&Path>) -> Result<PathBuf> {
    let place = match given {
        Some(path) => path.to_owned(),
        None => state::beside_me()?,
    };
    let path = if place.is_dir() {
        place.join(PLUGIN_NAMES[0])
    } else {
        place
    };
    match fs::metadata(&path) {
        Ok(found) if found.is_file() => Ok(path),
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("look at {}", path.display()))
        }
        _ => bail!(
            "no plugin at {}: build it (cargo build -p watari-cni), or name it with --cni-bin",
            path.display()
        ),
    }
}

/// How a node is spoken of.
pub fn describe(node: &Node) -> String {
    let list = |all: Vec<String>| all.join(" ");
    let addresses = list(node.primaries().iter().map(ToString::to_string).collect());
    let cidrs = list(node.pod_cidrs.iter().map(ToString::to_string).collect());
    let (name, owned) = (&node.name, node.secondaries().len());
    match owned {
        0 => format!("{name} {addresses} (pods: {cidrs})"),
        _ => format!("{name} {addresses} ({owned} addresses for pods)"),
    }
}
