use std::fs;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;

use crate::cgroup::Cgroup;
use crate::layout::Lab;
use crate::lock::{DirLock, Mode};
use crate::node::{EXEC, HOLDER};
use crate::paths;
use crate::state::OpenLab;
use crate::{Label, process};

use super::plan::{self, Identity, PodKey, PodPlan};
use super::store::{self, FoundPod, PodDir};
use super::{delete, honoured, supervisor};

/// What became of one pod.
#[derive(Debug)]
pub struct Applied {
    /// Which.
    pub key: PodKey,
    /// What happened.
    pub outcome: Outcome,
    /// Fields of the manifest that have no effect here.
    pub not_honoured: Vec<String>,
}

/// What happened to a pod that was applied.
#[derive(Debug)]
pub enum Outcome {
    /// It runs now, with these addresses.
    Created {
        /// On which node.
        node: String,
        /// Its addresses, separated by blanks.
        addresses: String,
    },
    /// It ran already, the same.
    Unchanged,
    /// It runs already, and differently.
    Differs,
    /// It could not be made; nothing of it stays.
    Failed(anyhow::Error),
}

/// Makes one pod, unless it is there.
pub fn apply(lab: &OpenLab, pod: &Pod) -> Result<Applied> {
    let key = plan::key_of(pod);
    let not_honoured = honoured::not_honoured(pod);
    let outcome = match place(lab, pod, &key)? {
        Placed::New(new) => match bring_up(lab, pod, &key, &new) {
            Ok(addresses) => Outcome::Created {
                node: new.node.to_string(),
                addresses,
            },
            Err(error) => {
                let found = store::get(lab, &key)?;
                let undone = found.map(|found| delete::remove(lab, &found, Some(0)));
                match undone {
                    Some(Err(more)) => {
                        Outcome::Failed(error.context(format!("and on the way back: {more:#}")))
                    }
                    _ => Outcome::Failed(error),
                }
            }
        },
        Placed::There(found) => {
            let spec = serde_json::to_value(&pod.spec).unwrap_or_default();
            if found.plan.is_some_and(|plan| plan.spec == spec) {
                Outcome::Unchanged
            } else {
                Outcome::Differs
            }
        }
    };
    Ok(Applied {
        key,
        outcome,
        not_honoured,
    })
}

enum Placed {
    New(NewPod),
    There(Box<FoundPod>),
}

struct NewPod {
    node: Label,
    dir: PodDir,
    _lock: DirLock,
}

/// Finds the pod, or makes its directory on the node it is for. One `apply` at a time does this,
/// so that two of the same name do not end on two nodes.
fn place(lab: &OpenLab, pod: &Pod, key: &PodKey) -> Result<Placed> {
    let _placing = DirLock::create(&lab.dir.path().join("placing"), Mode::Exclusive)?;
    if let Some(found) = store::get(lab, key)? {
        // Whoever is at work on it is waited for.
        let lock = DirLock::existing(found.dir.path(), Mode::Exclusive)?;
        drop(lock);
        if let Some(found) = store::get(lab, key)? {
            if found.is_up() {
                return Ok(Placed::There(Box::new(found)));
            }
            // Left by an `apply` or `delete` that was killed, or its supervisor was.
            delete::remove(lab, &found, Some(0)).context("clear what was left of it")?;
        }
    }
    let node = choose(lab, pod)?;
    let path = lab.dir.node(&node).pods().join(key.directory());
    let lock = DirLock::create(&path, Mode::Exclusive)?;
    Ok(Placed::New(NewPod {
        node,
        dir: PodDir::at(path),
        _lock: lock,
    }))
}

/// `spec.nodeName`, else the node with the fewest pods.
fn choose(lab: &OpenLab, pod: &Pod) -> Result<Label> {
    let wanted = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    if let Some(name) = wanted.filter(|name| !name.is_empty()) {
        let node = lab.lab.node(name);
        let node = node.with_context(|| format!("spec.nodeName: the lab has no node {name}"))?;
        return Ok(node.name.clone());
    }
    let mut best: Option<(usize, &Label)> = None;
    for node in &lab.lab.nodes {
        let count = paths::names_in(&lab.dir.node(&node.name).pods())?.len();
        if best.is_none_or(|(fewest, _)| count < fewest) {
            best = Some((count, &node.name));
        }
    }
    Ok(best.context("the lab has no node")?.1.clone())
}

fn bring_up(lab: &OpenLab, pod: &Pod, key: &PodKey, new: &NewPod) -> Result<String> {
    let plan = plan::plan(pod, new.node.as_str(), &identity(&lab.lab)?)?;
    new.dir.write_plan(&plan)?;
    make_cgroups(lab, &new.node, &plan)?;
    let (lab, node) = (lab.lab.name.as_str(), new.node.as_str());
    process::start(
        &["pod-init", "--lab", lab, node, &key.namespace, &key.name],
        &new.dir.supervisor_log(),
    )
}

fn make_cgroups(lab: &OpenLab, node: &Label, plan: &PodPlan) -> Result<()> {
    let group = Cgroup::node(&lab.lab.name, node)?.child(&plan.key.cgroup());
    group.child(HOLDER).create()?;
    group.child(EXEC).create()?;
    for container in &plan.containers {
        let name = supervisor::container_group(&container.name);
        group.child(&name).create()?;
    }
    Ok(())
}

fn identity(lab: &Lab) -> Result<Identity> {
    let uuid = || -> Result<String> {
        let path = "/proc/sys/kernel/random/uuid";
        let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
        Ok(text.trim().to_owned())
    };
    Ok(Identity {
        uid: uuid()?,
        // 64 hexadecimal digits, as container runtimes name their sandboxes.
        sandbox: format!("{}{}", uuid()?, uuid()?).replace('-', ""),
        netns: format!("cni-{}", uuid()?),
        now_s: store::now_s(),
        nameserver: lab.nameserver(),
    })
}
