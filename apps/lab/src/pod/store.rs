use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::node::HOLDER;
use crate::paths;
use crate::state::OpenLab;
use crate::{Label, Node};

use super::plan::{PodKey, PodPlan};
use super::status::{ContainerState, Phase, PodStatus};

/// The files of one pod.
#[derive(Debug)]
pub struct PodDir {
    path: PathBuf,
    // Keeps `path` good where another `/run` hides the lab's directory.
    _open: Option<File>,
}

impl PodDir {
    /// By its path.
    pub fn at(path: PathBuf) -> Self {
        Self { path, _open: None }
    }

    /// Opened, so that it is reached from any mount namespace of this process.
    pub fn open(path: &Path) -> Result<Self> {
        let open = File::open(path).with_context(|| format!("open {}", path.display()))?;
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd())),
            _open: Some(open),
        })
    }

    /// Itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log of a container.
    pub fn log(&self, container: &str) -> PathBuf {
        self.path.join(format!("{container}.log"))
    }

    /// What the supervisor writes for people.
    pub fn supervisor_log(&self) -> PathBuf {
        self.path.join("supervisor.err")
    }

    /// A grace period that is to be used instead of the pod's own, in seconds.
    pub fn grace(&self) -> PathBuf {
        self.path.join("grace")
    }

    /// Reads the plan; none when `apply` did not come so far.
    pub fn plan(&self) -> Result<Option<PodPlan>> {
        self.read("pod.json")
    }

    /// Writes the plan.
    pub fn write_plan(&self, plan: &PodPlan) -> Result<()> {
        self.write("pod.json", plan)
    }

    /// Reads the status; none when the pod never came up.
    pub fn status(&self) -> Result<Option<PodStatus>> {
        self.read("status.json")
    }

    /// Writes the status.
    pub fn write_status(&self, status: &PodStatus) -> Result<()> {
        self.write("status.json", status)
    }

    fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        let path = self.path.join(name);
        let Some(text) = paths::read_if_there(&path)? else {
            return Ok(None);
        };
        let value = serde_json::from_str(&text);
        value.with_context(|| format!("read {}", path.display()))
    }

    fn write<T: serde::Serialize>(&self, name: &str, value: &T) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("write {name}"))?;
        paths::write_whole(&self.path.join(name), &text)
    }
}

/// A pod that has a directory.
#[derive(Debug)]
pub struct FoundPod {
    /// Its namespace and name.
    pub key: PodKey,
    /// Its node.
    pub node: Label,
    /// Its files.
    pub dir: PodDir,
    /// Its plan; none when `apply` was cut short.
    pub plan: Option<PodPlan>,
    /// How it is; none when it never came up.
    pub status: Option<PodStatus>,
    /// Its cgroup.
    pub cgroup: Cgroup,
}

impl FoundPod {
    fn at(lab: &OpenLab, node: &Node, key: PodKey) -> Result<Self> {
        let dir = PodDir::at(lab.dir.node(&node.name).pods().join(key.directory()));
        let cgroup = Cgroup::node(&lab.lab.name, &node.name)?.child(&key.cgroup());
        let (plan, mut status) = (dir.plan()?, dir.status()?);
        if let Some(status) = &mut status {
            let over = matches!(status.phase, Phase::Succeeded | Phase::Failed);
            if !over && cgroup.child(HOLDER).processes()?.is_empty() {
                status.phase = Phase::Lost;
                for container in &mut status.containers {
                    if let ContainerState::Running { .. } = container.state {
                        let reason = "Lost".to_owned();
                        container.state = ContainerState::Waiting {
                            reason,
                            last_exit: None,
                        };
                    }
                }
            }
        }
        Ok(Self {
            key,
            node: node.name.clone(),
            dir,
            plan,
            status,
            cgroup,
        })
    }

    /// True when it came up and its supervisor is there.
    pub fn is_up(&self) -> bool {
        let status = self.status.as_ref();
        self.plan.is_some() && status.is_some_and(|status| status.phase != Phase::Lost)
    }
}

/// All pods of a lab, by node and name.
pub fn list(lab: &OpenLab) -> Result<Vec<FoundPod>> {
    let mut found = Vec::new();
    for node in &lab.lab.nodes {
        for name in paths::names_in(&lab.dir.node(&node.name).pods())? {
            if let Some(key) = PodKey::from_directory(&name) {
                found.push(FoundPod::at(lab, node, key)?);
            }
        }
    }
    Ok(found)
}

/// The pod of that key.
pub fn get(lab: &OpenLab, key: &PodKey) -> Result<Option<FoundPod>> {
    for node in &lab.lab.nodes {
        let path = lab.dir.node(&node.name).pods().join(key.directory());
        if path.is_dir() {
            return Ok(Some(FoundPod::at(lab, node, key.clone())?));
        }
    }
    Ok(None)
}

/// The pod that a person means by `NAME` or `NAMESPACE/NAME`.
pub fn find(lab: &OpenLab, namespace: &str, text: &str) -> Result<FoundPod> {
    let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
    let key = PodKey {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    // The names of directories: what is no name is no path either.
    let safe = |part: &str| !part.is_empty() && !part.contains(['/', '_']) && part != "..";
    if safe(namespace)
        && safe(name)
        && let Some(found) = get(lab, &key)?
    {
        return Ok(found);
    }
    bail!(
        "lab {0} has no pod {key}: see watari lab get pods --lab {0}",
        lab.lab.name
    )
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| since.as_secs())
}
