use std::path::Path;

use anyhow::{Context, Error, Result, bail};

use crate::cgroup::Cgroup;
use crate::fabric::FABRIC;
use crate::node::EXEC;
use crate::pod::{self, FoundPod, become_program};
use crate::state::OpenLab;

/// Something of a lab that has namespaces.
#[derive(Debug)]
pub enum Target {
    /// The network around the nodes.
    Fabric,
    /// A node, by its name.
    Node(String),
    /// A pod.
    Pod(Box<FoundPod>),
}

impl Target {
    /// What a person means: `fabric`, the name of a node, or `[NAMESPACE/]NAME` of a pod. A pod
    /// with the name of a node is `NAMESPACE/NAME`.
    pub fn find(lab: &OpenLab, namespace: &str, text: &str) -> Result<Self> {
        if text == FABRIC {
            return Ok(Self::Fabric);
        }
        if lab.lab.node(text).is_some() {
            return Ok(Self::Node(text.to_owned()));
        }
        match pod::find(lab, namespace, text) {
            Ok(found) => Ok(Self::Pod(Box::new(found))),
            Err(error) => {
                let nodes: Vec<&str> = lab.lab.nodes.iter().map(|n| n.name.as_str()).collect();
                Err(error.context(format!(
                    "{text:?} is no node ({}), not `fabric`, and no pod",
                    nodes.join(", ")
                )))
            }
        }
    }

    /// The cgroup of all that runs in it.
    pub fn cgroup(&self, lab: &OpenLab) -> Result<Cgroup> {
        Ok(match self {
            Self::Fabric => lab.cgroup()?.child(FABRIC),
            Self::Node(name) => lab.cgroup()?.child(name),
            Self::Pod(pod) => pod.cgroup.clone(),
        })
    }

    /// How it is spoken of.
    pub fn describe(&self) -> String {
        match self {
            Self::Fabric => FABRIC.to_owned(),
            Self::Node(name) => format!("node {name}"),
            Self::Pod(pod) => format!("pod {}", pod.key),
        }
    }
}

/// Becomes a program inside a node, a pod or the fabric. This process must have one thread only.
/// Comes back only with an error.
pub fn exec(lab: &OpenLab, target: &Target, words: &[String]) -> Error {
    match prepare(lab, target) {
        Ok(()) => become_program(words),
        Err(error) => error,
    }
}

fn prepare(lab: &OpenLab, target: &Target) -> Result<()> {
    let cgroup = target.cgroup(lab)?;
    if let Target::Pod(pod) = target
        && !pod.is_up()
    {
        bail!(
            "{} is not up: see watari lab get pods --lab {}",
            target.describe(),
            lab.lab.name
        );
    }
    let namespaces = lab.namespaces(&cgroup, &target.describe())?;
    // First the cgroup: whatever comes after it ends with the lab.
    cgroup
        .child(EXEC)
        .join()
        .with_context(|| format!("join {}", target.describe()))?;
    namespaces.enter()
}

/// An interactive shell, with where it runs in its prompt.
pub fn shell(lab: &OpenLab, target: &Target) -> Error {
    let place = match target {
        Target::Fabric => FABRIC.to_owned(),
        Target::Node(name) => name.clone(),
        Target::Pod(pod) => pod.key.to_string(),
    };
    let prompt = format!("PS1=[{} {place}] \\w # ", lab.lab.name);
    let words = if Path::new("/bin/bash").exists() {
        vec!["env", &prompt, "/bin/bash", "--norc", "--noprofile", "-i"]
    } else {
        vec!["env", &prompt, "/bin/sh", "-i"]
    };
    let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    exec(lab, target, &words)
}
