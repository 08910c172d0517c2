//! What is said over the agent's socket: a line of JSON asks, lines of JSON answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::flows::{Filter, SCHEMA};
use crate::log::Repair;

/// The agent's socket on a node.
pub const SOCKET: &str = "/run/watari/agent.sock";

/// The longest question, in bytes.
pub const MAX_QUESTION: u64 = 64 << 10;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The version that the asker speaks.
    pub schema: u32,
    /// What is asked.
    #[serde(flatten)]
    pub ask: Ask,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub enum Ask {
    /// One [`Status`].
    Status,
    /// A [`Row`](crate::flows::Row) for each connection that passes, then, if it is followed, for
    /// each that comes, ends or is refused.
    Flows {
        /// Which.
        #[serde(default)]
        filter: Filter,
        /// Go on with what happens.
        #[serde(default)]
        follow: bool,
    },
    /// One [`Drops`](crate::drops::Drops).
    Drops,
}

impl Question {
    /// In our version.
    pub fn new(ask: Ask) -> Self {
        let schema = SCHEMA;
        Self { schema, ask }
    }
}

/// Instead of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Why.
    pub error: String,
}

/// How a thing that the agent keeps stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// What it is: `datapath`, `routes`, `endpoint CONTAINER/IFNAME`.
    pub what: String,
    /// The pod, of an endpoint.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pod: Option<String>,
    /// `pending`, `done` or `failed`.
    pub state: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    /// Seconds since it was looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub looked_seconds_ago: Option<f64>,
    /// How often something of it had to be changed.
    pub changes: u64,
}

/// A kernel feature that is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Missing {
    /// Which.
    pub feature: String,
    /// What follows.
    pub consequence: String,
}

/// What was counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// How a node stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The node.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it started.
    pub up_seconds: f64,
    /// All that is desired was there at the last look.
    pub healthy: bool,
    /// What the datapath is.
    pub datapath: BTreeMap<String, String>,
    /// Pods of this node.
    pub endpoints: usize,
    /// Ranges of other nodes' pods.
    pub remotes: usize,
    /// Links by which packets for pods enter the node.
    pub uplinks: Vec<String>,
    /// Nodes of the cluster; absent until the folder could be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub nodes: Option<usize>,
    /// Everything that is kept.
    pub kept: Vec<Kept>,
    /// How many sandboxes are missed, and wait to be taken back.
    pub missed: usize,
    /// How many were taken back.
    pub reclaimed: u64,
    /// Programs that the plugin attached by the quick kind, and that wait to be attached by the
    /// better one.
    #[serde(default)]
    pub to_promote: usize,
    /// How often something was repaired.
    pub repairs: u64,
    /// The last repairs, the newest at the end.
    pub last_repairs: Vec<Repair>,
    /// What could not be planned or read, and is worth knowing.
    pub notes: Vec<String>,
    /// Kernel features that are missing.
    pub missing: Vec<Missing>,
    /// What the programs counted.
    pub counters: BTreeMap<String, Count>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_one_flat_line() {
        let line = r#"{"schema":1,"ask":"flows","filter":{"port":80},"follow":true}"#;
        let question: Question = serde_json::from_str(line).unwrap();
        let filter = Filter {
            port: Some(80),
            ..Filter::default()
        };
        let follow = true;
        assert_eq!(question, Question::new(Ask::Flows { filter, follow }));
        let status = serde_json::to_string(&Question::new(Ask::Status)).unwrap();
        assert_eq!(status, r#"{"schema":1,"ask":"status"}"#);
        assert!(serde_json::from_str::<Question>(r#"{"schema":1,"ask":"burn"}"#).is_err());
    }
}
