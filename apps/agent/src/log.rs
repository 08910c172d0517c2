//! What was repaired, and how often.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Repairs that are remembered one by one.
const LAST: usize = 64;

/// Something that somebody else changed, and that was changed back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Repair {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Whose it is: a pod, or `datapath`, `routes`, ….
    pub of: String,
    /// What was wrong.
    pub what: String,
}

/// The last repairs, and how many there were.
#[derive(Debug, Default)]
pub struct Log {
    last: VecDeque<Repair>,
    total: u64,
}

impl Log {
    /// Notes a repair, and tells of it.
    pub fn note(&mut self, of: &str, what: String) {
        tracing::warn!(of, what, "repaired");
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        if self.last.len() == LAST {
            self.last.pop_front();
        }
        self.total += 1;
        self.last.push_back(Repair {
            at: since.map_or(0, |since| since.as_secs()),
            of: of.to_owned(),
            what,
        });
    }

    /// How many since the agent started.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// The last ones, the newest at the end.
    pub fn last(&self) -> impl Iterator<Item = &Repair> {
        self.last.iter()
    }
}
