//! A change that has all that it needs, made in the shadow and put into the plan.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use watari_abi::{Address, Frontend as Entry, FrontendKey, PortRangeKey, Set, SourceRangeKey};
use watari_tables::{Balancer, BalancerName};

use super::Departed;
use super::change::{GRACE, Planner, Prepared, SetChange};
use super::numbers;
use super::shadow::{Later, Record};
use super::stretches::Stretch;
use super::words::text;

impl Planner<'_> {
    pub(super) fn commit(
        &mut self,
        name: &BalancerName,
        balancer: &Balancer,
        old: Option<Record>,
        prepared: Prepared,
    ) {
        let before = old.as_ref().map(|record| self.shadow.members(record.roles));
        if old.is_none() {
            self.shadow.next_name += 1;
            let held = Arc::new(name.clone());
            self.shadow.names.insert(prepared.number, held);
            self.plan
                .names
                .extend(text(name).map(|text| (prepared.number, text)));
        }
        for change in prepared.sets {
            self.commit_set(change);
        }
        if let Some((stretch, table)) = prepared.ring_change {
            self.commit_ring(prepared.ring, stretch, &table);
        }
        let mut record = old.unwrap_or_else(|| Record {
            number: prepared.number,
            protocol: balancer.protocol,
            roles: [0; 3],
            ring: 0,
            ring_right: true,
            frontends: Vec::new(),
            ranges: Vec::new(),
            sources: Vec::new(),
            affinity: 0,
        });
        let had_affinity = record.affinity > 0;
        let sets = record.roles.into_iter().chain([record.ring]);
        for set in sets.collect::<BTreeSet<_>>() {
            if set != 0 && !prepared.roles.contains(&set) && set != prepared.ring {
                self.release_set(set);
            }
        }
        let (old_frontends, old_ranges) = (record.frontends, record.ranges);
        record.frontends = self.put_frontends(old_frontends, &prepared.frontends, record.number);
        record.ranges = self.put_ranges(old_ranges, &prepared.ranges, record.number);
        self.put_sources(&record.sources, &prepared.sources);
        record.sources = prepared.sources;
        (record.protocol, record.ring_right) = (balancer.protocol, true);
        (record.roles, record.ring) = (prepared.roles, prepared.ring);
        record.affinity = balancer.affinity.unwrap_or(0);
        if let Some(before) = before {
            let after = self.shadow.members(record.roles);
            self.depart(&record, had_affinity, before.difference(&after).copied());
        }
        self.plan.touched.insert(name.clone());
        let held = self.shadow.names.get(&record.number).cloned();
        let held = held.unwrap_or_else(|| Arc::new(name.clone()));
        self.shadow.records.insert(held, record);
    }

    pub(super) fn commit_set(&mut self, change: SetChange) {
        let SetChange {
            set,
            when,
            edited,
            stretch,
        } = change;
        let kept = self.shadow.sets.entry(set).or_default();
        let before = std::mem::replace(&mut kept.slots, edited.slots);
        let old = std::mem::replace(&mut kept.stretch, stretch);
        let writes = self.plan.sets(when);
        let base = stretch.map_or(0, |stretch| stretch.base);
        let slots = edited.writes.iter();
        writes
            .slots
            .extend(slots.map(|(at, number)| (base + at, *number)));
        let slots = u32::try_from(kept.slots.len()).unwrap_or(0);
        if old != stretch || before.len() != kept.slots.len() {
            writes.headers.push((set, Set { base, count: slots }));
        }
        for number in &kept.slots {
            let entry = self.shadow.numbers.uses_more(*number);
            self.plan
                .backends
                .extend(entry.map(|entry| (*number, entry)));
        }
        self.less(&before);
        if let Some(old) = old.filter(|old| Some(*old) != stretch) {
            self.later(Later::Stretch(old), GRACE);
        }
    }

    pub(super) fn commit_ring(&mut self, ring: u32, stretch: Stretch, table: &[u32]) {
        let kept = self.shadow.sets.entry(ring).or_default();
        let old = kept.stretch.replace(stretch);
        let slots = (stretch.base..).zip(table.iter().copied());
        self.plan.early.slots.extend(slots);
        let count = u32::try_from(table.len()).unwrap_or(0);
        let header = Set {
            base: stretch.base,
            count,
        };
        self.plan.early.headers.push((ring, header));
        if let Some(old) = old {
            self.later(Later::Stretch(old), GRACE);
        }
    }

    pub(super) fn less(&mut self, slots: &[u32]) {
        for number in slots {
            if self.shadow.numbers.uses_less(*number) {
                self.plan.idle.insert(*number);
            }
        }
    }

    pub(super) fn later(&mut self, what: Later, after: u64) {
        self.shadow.later.push((Some(self.now + after), what));
    }

    /// No frontend asks for a set any more; whoever is about to look at it still finds it.
    pub(super) fn release_set(&mut self, set: u32) {
        if let Some(kept) = self.shadow.sets.get_mut(&set) {
            let slots = std::mem::take(&mut kept.slots);
            self.less(&slots);
        }
        self.later(Later::Set(set), GRACE);
    }

    pub(super) fn depart(
        &mut self,
        record: &Record,
        affinity: bool,
        gone: impl Iterator<Item = u32>,
    ) {
        for backend in gone {
            let at = self.shadow.numbers.get(backend).map(numbers::place);
            self.plan.departed.push(Departed {
                service: record.number,
                backend,
                at: at.unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 0))),
                protocol: record.protocol,
                affinity: affinity || record.affinity > 0,
            });
        }
    }

    pub(super) fn put_frontends(
        &mut self,
        old: Vec<FrontendKey>,
        new: &[(FrontendKey, Entry)],
        number: u32,
    ) -> Vec<FrontendKey> {
        for (key, entry) in new {
            self.shadow.strays.frontends.remove(key);
            if self.shadow.frontends.insert(*key, *entry) != Some(*entry) {
                self.plan.frontends.insert(*key);
            }
        }
        for key in old {
            let is_ours = self
                .shadow
                .frontends
                .get(&key)
                .is_some_and(|at| at.service == number);
            if is_ours && !new.iter().any(|(is, _)| *is == key) {
                self.shadow.frontends.remove(&key);
                self.plan.frontends.insert(key);
            }
        }
        new.iter().map(|(key, _)| *key).collect()
    }

    pub(super) fn put_ranges(
        &mut self,
        old: Vec<PortRangeKey>,
        new: &[(PortRangeKey, Entry)],
        number: u32,
    ) -> Vec<PortRangeKey> {
        for (key, entry) in new {
            self.shadow.strays.ranges.remove(key);
            let before = self.shadow.ranges.insert(*key, *entry);
            if before != Some(*entry) {
                self.plan.ranges.insert(*key);
            }
            if before.is_none() {
                self.count_range(key.address, true);
            }
        }
        for key in old {
            let is_ours = self
                .shadow
                .ranges
                .get(&key)
                .is_some_and(|at| at.service == number);
            if is_ours && !new.iter().any(|(is, _)| *is == key) {
                self.shadow.ranges.remove(&key);
                self.plan.ranges.insert(key);
                self.count_range(key.address, false);
            }
        }
        new.iter().map(|(key, _)| *key).collect()
    }

    pub(super) fn put_sources(&mut self, old: &[SourceRangeKey], new: &[SourceRangeKey]) {
        for key in new.iter().filter(|key| !old.contains(key)) {
            // One that was found without a Service counts already.
            if !self.shadow.strays.sources.remove(key) {
                self.shadow.source_count += 1;
            }
            self.plan.sources.push((*key, 0));
        }
        for key in old.iter().filter(|key| !new.contains(key)) {
            self.shadow.source_count -= 1;
            self.plan.gone_sources.push(*key);
        }
    }

    pub(super) fn count_range(&mut self, address: Address, more: bool) {
        let at = self.shadow.addresses.entry(address).or_default();
        at.ranges = if more {
            at.ranges + 1
        } else {
            at.ranges.saturating_sub(1)
        };
        self.put_address(address);
    }
}
