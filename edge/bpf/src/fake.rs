use std::collections::{BTreeSet, VecDeque};

use watari_abi::{Counter, Tally};
use watari_model::IfName;
use watari_tables::Datapath as Tables;

use crate::datapath::{
    Applied, Change, Datapath, Drops, Event, Flow, Observed, Stray, Swept, difference,
};
use crate::error::BpfError;

/// A datapath in memory, for tests of who drives one.
#[derive(Debug, Default)]
pub struct FakeDatapath {
    /// What it holds; a test may break it.
    pub observed: Observed,
    /// The links that the node has; changes about others fail.
    pub links: BTreeSet<IfName>,
    /// Its connections.
    pub flows: Vec<Flow>,
    /// What it says was dropped.
    pub drops: Drops,
    /// What it says was counted.
    pub counters: Vec<(Counter, Tally)>,
    /// Events to come.
    pub events: VecDeque<Event>,
    /// How often it was observed.
    pub looks: u64,
    /// Every change that was made.
    pub changes: Vec<Change>,
}

impl FakeDatapath {
    fn has(&self, link: &IfName) -> Result<(), BpfError> {
        if self.links.contains(link) {
            Ok(())
        } else {
            Err(BpfError::NoLink(link.clone()))
        }
    }

    fn make(&mut self, change: &Change) -> Result<(), BpfError> {
        match change {
            Change::SetEndpoint(_, endpoint) => self.has(&endpoint.link)?,
            Change::Attach(at) => self.has(&at.link)?,
            _ => {}
        }
        let Tables {
            endpoints,
            remotes,
            hooks,
        } = &mut self.observed.tables;
        match change.clone() {
            Change::Detach(at) => drop(hooks.remove(&at)),
            Change::SetEndpoint(address, endpoint) => drop(endpoints.insert(address, endpoint)),
            Change::SetRemote(range, node) => drop(remotes.insert(range, node)),
            Change::Attach(at) => drop(hooks.insert(at)),
            Change::RemoveRemote(range) => drop(remotes.remove(&range)),
            Change::RemoveEndpoint(address) => drop(endpoints.remove(&address)),
            Change::RemoveStray(_) => {}
        }
        Ok(())
    }
}

impl Datapath for FakeDatapath {
    fn observe(&mut self) -> Result<Observed, BpfError> {
        self.looks += 1;
        Ok(self.observed.clone())
    }

    fn apply(&mut self, observed: &Observed, desired: &Tables) -> Applied {
        let mut applied = Applied::default();
        for change in difference(observed, desired) {
            match self.make(&change) {
                Ok(()) => applied.done.push(change),
                Err(error) => applied.failed.push((change, error)),
            }
        }
        // Put right, or removed; but for those of a change that failed.
        let failed: Vec<&Stray> = applied
            .failed
            .iter()
            .filter_map(|(change, _)| match change {
                Change::RemoveStray(stray) => Some(stray),
                _ => None,
            })
            .collect();
        self.observed.strays.retain(|stray| failed.contains(&stray));
        self.changes.extend(applied.done.iter().cloned());
        applied
    }

    fn promote(&mut self, limit: usize) -> Result<usize, BpfError> {
        let done = self.observed.to_promote.min(limit);
        self.observed.to_promote -= done;
        Ok(done)
    }

    fn flows(&mut self, take: &mut dyn FnMut(Flow)) -> Result<(), BpfError> {
        self.flows.iter().copied().for_each(take);
        Ok(())
    }

    fn drops(&mut self) -> Result<Drops, BpfError> {
        Ok(self.drops.clone())
    }

    fn counters(&mut self) -> Result<Vec<(Counter, Tally)>, BpfError> {
        Ok(self.counters.clone())
    }

    fn sweep(&mut self, now: u64, _limit: usize) -> Result<Swept, BpfError> {
        let looked_at = self.flows.len();
        self.flows.retain(|flow| flow.connection.expires > now);
        Ok(Swept {
            looked_at,
            removed: looked_at - self.flows.len(),
            at_end: true,
        })
    }

    fn events(&mut self, limit: usize) -> Result<Vec<Event>, BpfError> {
        let count = limit.min(self.events.len());
        Ok(self.events.drain(..count).collect())
    }
}
