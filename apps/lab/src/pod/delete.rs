use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::lock::{DirLock, Mode};
use crate::node::{EXEC, HOLDER};
use crate::paths::LabDir;
use crate::process::{self, Namespaces};
use crate::state::{self, OpenLab};
use crate::{Label, paths};

use super::network::Sandbox;
use super::plan::PodKey;
use super::store::{FoundPod, PodDir};

/// How much longer than its grace period a pod may take to end.
const SLACK: Duration = Duration::from_secs(10);

/// Ends a pod and removes all of it, in whatever state it is. `grace_s` goes before the pod's
/// own grace period.
pub fn delete(lab: &OpenLab, pod: &FoundPod, grace_s: Option<u64>) -> Result<()> {
    let Some(_lock) = DirLock::existing(pod.dir.path(), Mode::Exclusive)? else {
        return Ok(());
    };
    remove(lab, pod, grace_s)
}

/// As [`delete`]; the caller holds the pod's lock, or that of placing.
pub fn remove(lab: &OpenLab, pod: &FoundPod, grace_s: Option<u64>) -> Result<()> {
    end(pod, grace_s)?;
    // Containers first, then the network, as every runtime does.
    pod.cgroup.destroy()?;
    let has_network = pod.plan.as_ref().is_some_and(|plan| !plan.host_network);
    if has_network {
        detach(lab, pod)?;
    }
    match fs::remove_dir_all(pod.dir.path()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", pod.dir.path().display()))
        }
        _ => Ok(()),
    }
}

/// Tells the supervisor to end the pod, and waits for it.
fn end(pod: &FoundPod, grace_s: Option<u64>) -> Result<()> {
    let holder = pod.cgroup.child(HOLDER);
    if let Some(grace) = grace_s {
        paths::write_whole(&pod.dir.grace(), grace.to_string().as_bytes())?;
    }
    let own = pod.plan.as_ref().map_or(0, |plan| plan.grace_s);
    let grace = Duration::from_secs(grace_s.unwrap_or(own).min(86_400));
    // One that has not come up knows no signal: it is killed with its cgroup.
    if pod.status.is_none() {
        return Ok(());
    }
    for pid in holder.processes()? {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    let deadline = Instant::now() + grace + SLACK;
    while !holder.processes()?.is_empty() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// Has the plugins detach the pod, from inside its node. When the node is gone, so is all that
/// they could remove.
fn detach(lab: &OpenLab, pod: &FoundPod) -> Result<()> {
    let node = Cgroup::node(&lab.lab.name, &pod.node)?;
    if Namespaces::of(&node.child(HOLDER))?.is_none() {
        return Ok(());
    }
    let (name, key) = (lab.lab.name.as_str(), &pod.key);
    process::start(
        &[
            "pod-detach",
            "--lab",
            name,
            pod.node.as_str(),
            &key.namespace,
            &key.name,
        ],
        &pod.dir.supervisor_log(),
    )
    .with_context(|| format!("detach pod {key} from its network"))?;
    Ok(())
}

/// The process that does so.
pub fn run_detach(lab: &Label, node: &Label, key: &PodKey) -> Result<()> {
    let group = Cgroup::node(lab, node)?;
    process::settle(&group.child(EXEC))?;
    let done = detach_inside(lab, node, key, &group);
    match &done {
        Ok(()) => process::report_ready("")?,
        Err(error) => process::report_failed(error)?,
    }
    done
}

fn detach_inside(lab: &Label, node: &Label, key: &PodKey, group: &Cgroup) -> Result<()> {
    let lab_dir = LabDir::of(lab);
    let lab = state::read(&lab_dir)?.context("the lab is being taken down")?;
    let dir = PodDir::at(lab_dir.node(node).pods().join(key.directory()));
    let Some(plan) = dir.plan()? else {
        bail!("the pod is gone");
    };
    let Some(namespaces) = Namespaces::of(&group.child(HOLDER))? else {
        return Ok(());
    };
    namespaces.enter()?;
    let sandbox = Sandbox::new(&lab, &plan)?;
    sandbox.del()?;
    sandbox.unpin()
}
