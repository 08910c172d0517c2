use std::path::PathBuf;
use std::time::Duration;

use watari_abi::maps;
use watari_model::IfName;

/// How an agent runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// This node's name in the cluster.
    pub node: String,
    /// The folder with the cluster's manifests.
    pub cluster: PathBuf,
    /// The links by which packets for pods enter the node; found by themselves when none is named.
    pub uplinks: Vec<IfName>,
    /// The directory of the node store.
    pub data_dir: PathBuf,
    /// The directory of the agent's own files: socket, lock.
    pub run_dir: PathBuf,
    /// Where the datapath is pinned.
    pub bpf_root: PathBuf,
    /// Entries of the table of established connections.
    pub established: u32,
    /// Entries of the table of all other connections.
    pub transient: u32,
    /// The programs tell of connections that come and end.
    pub flow_events: bool,
    /// The folders in which runtimes mount the namespaces of sandboxes.
    pub namespaces: Vec<PathBuf>,
    /// How long a sandbox is missed before what it left is taken back.
    pub grace: Duration,
    /// How often everything is looked at.
    pub survey: Duration,
}

impl Options {
    /// Of a node of that name, everything else as usual.
    pub fn new(node: &str) -> Self {
        Self {
            node: node.to_owned(),
            cluster: "/run/watari/cluster".into(),
            uplinks: Vec::new(),
            data_dir: watari_store::DEFAULT_DIR.into(),
            run_dir: "/run/watari".into(),
            bpf_root: watari_bpf::ROOT.into(),
            established: maps::ESTABLISHED_MAX,
            transient: maps::TRANSIENT_MAX,
            flow_events: true,
            namespaces: crate::recover::usual_namespaces(),
            grace: Duration::from_mins(5),
            survey: Duration::from_secs(30),
        }
    }

    /// Where the agent listens.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("agent.sock")
    }

    /// What only one agent of the node has.
    pub fn lock(&self) -> PathBuf {
        self.run_dir.join("agent.lock")
    }
}
