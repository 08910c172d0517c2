use std::collections::BTreeMap;

use watari_bpf::Datapath;
use watari_reconcile::State;

use crate::daemon::Daemon;
use crate::flows::SCHEMA;
use crate::names::pod_of;
use crate::node::Object;
use crate::protocol::{Count, Kept, Status};

impl<K: Datapath> Daemon<K> {
    /// How the node stands.
    pub fn status(&mut self) -> Status {
        let kept = self.kept();
        let notes = self.worth_knowing();
        let applied = self.node.applied();
        Status {
            schema: SCHEMA,
            node: self.options.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            up_seconds: self.now().as_secs_f64(),
            healthy: self.reconciler.is_settled() && self.troubles.is_empty(),
            datapath: self.described.clone(),
            endpoints: applied.map_or(0, |tables| tables.endpoints.len()),
            remotes: applied.map_or(0, |tables| tables.remotes.len()),
            uplinks: self.uplinks.iter().map(ToString::to_string).collect(),
            nodes: self.folder.cluster().map(|cluster| cluster.nodes.len()),
            kept,
            missed: self.missed.count(),
            reclaimed: self.reclaimed,
            to_promote: self.node.to_promote,
            repairs: self.log.total(),
            last_repairs: self.log.last().cloned().collect(),
            notes,
            missing: self.missing.clone(),
            counters: self.counted(),
        }
    }

    fn kept(&self) -> Vec<Kept> {
        let now = self.now();
        let each = self.reconciler.status().iter().map(|(key, status)| {
            let (state, error) = match &status.state {
                State::Pending => ("pending", None),
                State::Done => ("done", None),
                State::Failed { error, .. } => ("failed", Some(error.clone())),
            };
            let pod = match self.reconciler.desired().get(key) {
                Some(Object::Endpoint(record)) => Some(pod_of(record)),
                _ => None,
            };
            let ago = |looked| now.saturating_sub(looked).as_secs_f64();
            Kept {
                what: key.to_string(),
                pod,
                state: state.to_owned(),
                error,
                looked_seconds_ago: status.looked.map(ago),
                changes: status.changes,
            }
        });
        each.collect()
    }

    fn worth_knowing(&self) -> Vec<String> {
        let mut notes = self.node.notes();
        notes.extend(self.troubles.values().cloned());
        notes.extend(self.folder.errors().iter().cloned());
        if self.folder.cluster().is_none() && self.folder.doubt().is_none() {
            notes.push(format!(
                "no cluster is known: {} cannot be read; the ways to other nodes stay as they are",
                self.folder.path().display()
            ));
        }
        notes
    }

    fn counted(&mut self) -> BTreeMap<String, Count> {
        let counted = self.node.kernel.counters().unwrap_or_default();
        let each = counted.into_iter().map(|(counter, tally)| {
            let count = Count {
                packets: tally.packets,
                bytes: tally.bytes,
            };
            (counter.name().to_owned(), count)
        });
        each.collect()
    }
}
