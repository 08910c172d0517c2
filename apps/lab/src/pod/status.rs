use serde::{Deserialize, Serialize};

/// Where a pod is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// It has no network yet.
    Pending,
    /// At least one container runs, or will again.
    Running,
    /// All containers ended well, for good.
    Succeeded,
    /// All ended for good, one of them not well.
    Failed,
    /// The process that looks after it is gone.
    Lost,
}

/// What a pod's supervisor writes: the contents of `status.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStatus {
    /// Where it is.
    pub phase: Phase,
    /// Its addresses.
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<String>,
    /// Its node's.
    #[serde(rename = "hostIPs")]
    pub host_ips: Vec<String>,
    /// Its containers, in the order of the manifest.
    pub containers: Vec<ContainerStatus>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub state: ContainerState,
    /// How often it was started again.
    pub restarts: u32,
}

/// What a container does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ContainerState {
    /// It will be started.
    #[serde(rename_all = "camelCase")]
    Waiting {
        /// Why not yet.
        reason: String,
        /// How its last run ended.
        last_exit: Option<i32>,
    },
    /// It runs.
    #[serde(rename_all = "camelCase")]
    Running {
        /// Its process.
        pid: i32,
        /// Seconds since 1970.
        started_s: u64,
    },
    /// It ended for good.
    #[serde(rename_all = "camelCase")]
    Terminated {
        /// The exit status; 128 and the signal's number for one that a signal ended.
        exit_code: i32,
        /// Seconds since 1970.
        finished_s: u64,
    },
}

impl PodStatus {
    /// How many containers run, and how many there are.
    pub fn ready(&self) -> (usize, usize) {
        let running = |container: &&ContainerStatus| {
            matches!(container.state, ContainerState::Running { .. })
        };
        let count = self.containers.iter().filter(running).count();
        (count, self.containers.len())
    }

    /// What `get pods` shows: the phase, or why a container does not run.
    pub fn headline(&self) -> String {
        let waiting = self
            .containers
            .iter()
            .find_map(|container| match &container.state {
                ContainerState::Waiting { reason, .. } => Some(reason.clone()),
                _ => None,
            });
        match (self.phase, waiting) {
            (Phase::Running, Some(reason)) => reason,
            (Phase::Succeeded, _) => "Completed".to_owned(),
            (Phase::Failed, _) => "Error".to_owned(),
            (phase, _) => format!("{phase:?}"),
        }
    }

    /// The phase that follows from the containers' states.
    pub fn settle(&mut self) {
        let mut codes = self
            .containers
            .iter()
            .map(|container| match container.state {
                ContainerState::Terminated { exit_code, .. } => Some(exit_code),
                _ => None,
            });
        self.phase = if codes.clone().any(|code| code.is_none()) {
            Phase::Running
        } else if codes.all(|code| code == Some(0)) {
            Phase::Succeeded
        } else {
            Phase::Failed
        };
    }
}
