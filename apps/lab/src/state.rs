use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::cgroup::Cgroup;
use crate::layout::{Lab, SCHEMA};
use crate::lock::{DirLock, Mode};
use crate::names::Label;
use crate::node::HOLDER;
use crate::paths::{self, LabDir};
use crate::process::Namespaces;

/// Reads a lab's description; none when there is none.
pub fn read(dir: &LabDir) -> Result<Option<Lab>> {
    let path = dir.description();
    let Some(text) = paths::read_if_there(&path)? else {
        return Ok(None);
    };
    let what = || format!("read {}", path.display());
    let lab: Lab = serde_json::from_str(&text).with_context(what)?;
    if lab.schema != SCHEMA {
        bail!(
            "{} has schema {}, this binary knows {SCHEMA}: take the lab down with the one that made it",
            path.display(),
            lab.schema
        );
    }
    Ok(Some(lab))
}

/// The lab that is meant: the one named, else the only one, else `default`.
pub fn which(name: Option<&Label>) -> Result<Label> {
    if let Some(name) = name {
        return Ok(name.clone());
    }
    let labs = paths::labs()?;
    match labs.as_slice() {
        [only] => Ok(only.clone()),
        _ => Ok(Label::new("default")?),
    }
}

/// A lab that is up, kept from being taken down.
#[derive(Debug)]
pub struct OpenLab {
    /// What it is.
    pub lab: Lab,
    /// Where its state is.
    pub dir: LabDir,
    _lock: Option<DirLock>,
}

impl OpenLab {
    /// Opens a lab and keeps others from taking it down.
    pub fn locked(name: Option<&Label>) -> Result<Self> {
        let name = which(name)?;
        let dir = LabDir::of(&name);
        let lock = DirLock::existing(dir.path(), Mode::Shared)?;
        let lab = Self::check(&dir, &name)?;
        Ok(Self {
            lab,
            dir,
            _lock: lock,
        })
    }

    /// Opens a lab to look at it, whatever else goes on.
    pub fn look(name: Option<&Label>) -> Result<Self> {
        let name = which(name)?;
        let dir = LabDir::of(&name);
        let lab = Self::check(&dir, &name)?;
        Ok(Self {
            lab,
            dir,
            _lock: None,
        })
    }

    fn check(dir: &LabDir, name: &Label) -> Result<Lab> {
        let Some(lab) = read(dir)? else {
            let others: Vec<String> = paths::labs()?.iter().map(ToString::to_string).collect();
            if others.is_empty() {
                bail!("there is no lab {name}: watari lab up --lab {name}");
            }
            bail!(
                "there is no lab {name} (there are: {}): name one with --lab",
                others.join(", ")
            );
        };
        if !fs::exists(dir.ready()).unwrap_or(false) {
            bail!(
                "lab {name} is not up (`up` or `down` was cut short, or is at work): watari lab down --lab {name}"
            );
        }
        Ok(lab)
    }

    /// The lab's cgroup.
    pub fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::lab(&self.lab.name)
    }

    /// The namespaces that the holder below `owner` (the fabric's, a node's or a pod's cgroup)
    /// keeps.
    pub fn namespaces(&self, owner: &Cgroup, what: &str) -> Result<Namespaces> {
        Namespaces::of(&owner.child(HOLDER))?.with_context(|| {
            format!(
                "{what} has no namespaces (the process that keeps them is gone): watari lab down --lab {}",
                self.lab.name
            )
        })
    }
}

/// The directory of the binary that runs, where `watari-cni` is looked for.
pub fn beside_me() -> Result<PathBuf> {
    let me = std::env::current_exe().context("find the running binary")?;
    Ok(me
        .parent()
        .context("the running binary has no directory")?
        .to_owned())
}
