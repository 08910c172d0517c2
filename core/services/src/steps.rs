use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use watari_model::Protocol;
use watari_tables::{Balancer, BalancerName, Frontend, ServicesChange};

use crate::claims::overlap;

/// Changes of balancers, to be brought into an order in which no frontend is two balancers' at any
/// time.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    removed: Vec<BalancerName>,
    set: Vec<Set>,
}

#[derive(Debug)]
struct Set {
    name: BalancerName,
    before: Option<Arc<Balancer>>,
    now: Arc<Balancer>,
}

/// Frontends that a balancer loses or gets, by address.
type Moving = BTreeMap<(Protocol, IpAddr), Vec<(usize, Frontend)>>;

impl Steps {
    pub fn remove(&mut self, name: BalancerName) {
        self.removed.push(name);
    }

    pub fn set(&mut self, name: BalancerName, before: Option<Arc<Balancer>>, now: Arc<Balancer>) {
        self.set.push(Set { name, before, now });
    }

    pub fn ordered(self) -> Vec<ServicesChange> {
        let mut lost = Moving::new();
        for (at, set) in self.set.iter().enumerate() {
            for frontend in set.lost() {
                let key = (set.protocol_before(), frontend.address);
                lost.entry(key).or_default().push((at, frontend));
            }
        }
        // Whoever gets what another loses comes after all others; and who also loses what another
        // gets loses it beforehand.
        let mut gets = vec![false; self.set.len()];
        let mut gives = vec![false; self.set.len()];
        if !lost.is_empty() {
            for (at, set) in self.set.iter().enumerate() {
                for frontend in set.got() {
                    let key = (set.now.protocol, frontend.address);
                    for (from, other) in lost.get(&key).into_iter().flatten() {
                        if *from != at && overlap(other, &frontend) {
                            gets[at] = true;
                            gives[*from] = true;
                        }
                    }
                }
            }
        }
        let mut changes: Vec<_> = self
            .removed
            .into_iter()
            .map(ServicesChange::Remove)
            .collect();
        let mut late = Vec::new();
        for (at, set) in self.set.into_iter().enumerate() {
            if gets[at] && gives[at] {
                changes.extend(set.reduced());
            }
            let change = ServicesChange::Set(set.name, set.now);
            if gets[at] {
                late.push(change);
            } else {
                changes.push(change);
            }
        }
        changes.extend(late);
        changes
    }
}

impl Set {
    fn protocol_before(&self) -> Protocol {
        let before = self.before.as_ref();
        before.map_or(self.now.protocol, |before| before.protocol)
    }

    /// Whether a frontend of one is the other's too.
    fn kept(frontend: &Frontend, of: &Balancer, other: &Balancer) -> bool {
        of.protocol == other.protocol && other.frontends.contains_key(frontend)
    }

    fn lost(&self) -> Vec<Frontend> {
        let Some(before) = &self.before else {
            return Vec::new();
        };
        let all = before.frontends.keys();
        all.filter(|frontend| !Self::kept(frontend, before, &self.now))
            .copied()
            .collect()
    }

    fn got(&self) -> Vec<Frontend> {
        let all = self.now.frontends.keys().copied();
        let Some(before) = &self.before else {
            return all.collect();
        };
        all.filter(|frontend| !Self::kept(frontend, &self.now, before))
            .collect()
    }

    /// As it is now, without what it gets.
    fn reduced(&self) -> Option<ServicesChange> {
        let before = self.before.as_ref()?;
        let mut reduced = (*self.now).clone();
        reduced
            .frontends
            .retain(|frontend, _| Self::kept(frontend, &self.now, before));
        Some(ServicesChange::Set(self.name.clone(), Arc::new(reduced)))
    }
}
