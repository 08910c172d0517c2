//! The agents of a lab's nodes: each in its node's namespaces and in a cgroup of its own.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::cluster::CLUSTER;
use crate::layout::Lab;
use crate::names::Label;
use crate::node::HOLDER;
use crate::paths::{self, LabDir};
use crate::process::{self, Namespaces, SELF, Starting};
use crate::state::OpenLab;

/// The cgroup of a node's agent, below the node's.
pub const AGENT: &str = "agent";
/// How long an agent may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// How an agent is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Told to (`SIGTERM`).
    Stop,
    /// Without a word (`SIGKILL`).
    Kill,
}

/// Starts the agents of these nodes, side by side, and waits until each is ready. It is this very
/// program that runs, so the agents of a lab can be exchanged for those of another build.
pub fn start<'a>(lab: &Lab, dir: &LabDir, nodes: impl Iterator<Item = &'a Label>) -> Result<()> {
    let mut starting: Vec<(&Label, Starting)> = Vec::new();
    for node in nodes {
        if !processes(&lab.name, node)?.is_empty() {
            bail!("the agent of {node} runs already: watari lab agent stop {node}");
        }
        let words = ["agent-init", "--lab", lab.name.as_str(), node.as_str()];
        starting.push((node, process::spawn(&words, &dir.node(node).agent_log())?));
    }
    for (node, starting) in starting {
        starting
            .ready()
            .with_context(|| format!("start the agent of {node}"))?;
    }
    Ok(())
}

/// The agents of a lab that is up.
pub fn start_in(lab: &OpenLab, nodes: &[Label]) -> Result<()> {
    start(&lab.lab, &lab.dir, nodes.iter())
}

/// The started side: becomes the agent of a node. Comes back only with an error.
pub fn run(lab: &Label, node: &Label) -> Error {
    match prepare(lab, node) {
        Ok(()) => {
            let mut agent = Command::new(SELF);
            agent
                .arg0("watari")
                .args(["agent", "--node", node.as_str()]);
            agent.args(["--cluster", CLUSTER, "--uplink", "eth0"]);
            anyhow!(agent.exec()).context("become the agent")
        }
        Err(error) => error,
    }
}

fn prepare(lab: &Label, node: &Label) -> Result<()> {
    let group = Cgroup::node(lab, node)?;
    process::settle(&group.child(AGENT))?;
    Namespaces::of(&group.child(HOLDER))?
        .with_context(|| format!("node {node} has no namespaces"))?
        .enter()
}

/// Ends a node's agent and waits until it is gone; false when none runs.
pub fn end(lab: &OpenLab, node: &Label, how: End) -> Result<bool> {
    let signal = match how {
        End::Stop => Signal::SIGTERM,
        End::Kill => Signal::SIGKILL,
    };
    let deadline = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    loop {
        let left = processes(&lab.lab.name, node)?;
        if left.is_empty() {
            return Ok(!told.is_empty());
        }
        for pid in left.iter().filter(|pid| !told.contains(*pid)) {
            match kill(Pid::from_raw(*pid), signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(errno) => bail!("send {signal} to the agent of {node}: {errno}"),
            }
        }
        told = left;
        if Instant::now() >= deadline {
            let seconds = PATIENCE.as_secs();
            bail!("the agent of {node} is still there {seconds} s after {signal}: {told:?}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a node's agent runs.
pub fn is_running(lab: &OpenLab, node: &Label) -> Result<bool> {
    Ok(!processes(&lab.lab.name, node)?.is_empty())
}

/// What a node's agents wrote, the earlier ones' too.
pub fn log(lab: &OpenLab, node: &Label) -> Result<String> {
    let text = paths::read_if_there(&lab.dir.node(node).agent_log())?;
    Ok(text.unwrap_or_default())
}

fn processes(lab: &Label, node: &Label) -> Result<Vec<i32>> {
    Cgroup::node(lab, node)?.child(AGENT).processes()
}
