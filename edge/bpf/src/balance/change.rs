use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use watari_abi::{Address, Frontend as Entry, FrontendKey, PortRangeKey, Set, SourceRangeKey};
use watari_tables::{Balancer, BalancerName, FrontendKind, Others, ServicesChange};

use super::Departed;
use super::maglev;
use super::numbers::{self, QUARANTINE};
use super::plan::Plan;
use super::sets::{Class, Edited, Fit, Share, When, assign, classes, edit, fit};
use super::shadow::{Later, Record, Role, Rooms, Shadow};
use super::stretches::Stretch;
use super::words::{self, flags, frontend_key, range_keys, shares, source_key, text};
use crate::error::BpfError;

/// How long what programs may be looking at stays as it is, in ns. A program runs for microseconds.
pub(super) const GRACE: u64 = 1_000_000_000;

/// Makes plans, and the shadow what it is once they are carried out.
pub(super) struct Planner<'a> {
    pub shadow: &'a mut Shadow,
    pub rooms: &'a Rooms,
    pub plan: &'a mut Plan,
    pub now: u64,
}

/// What was taken for a change that is not made yet.
#[derive(Default)]
struct Taken {
    numbers: Vec<u32>,
    sets: Vec<u32>,
    stretches: Vec<Stretch>,
}

/// What becomes of one set.
struct SetChange {
    set: u32,
    when: When,
    edited: Edited,
    /// Where it is from now on; none: it has no slots.
    stretch: Option<Stretch>,
}

/// A change that has all that it needs.
struct Prepared {
    number: u32,
    roles: [u32; 3],
    sets: Vec<SetChange>,
    ring: u32,
    ring_change: Option<(Stretch, Vec<u32>)>,
    frontends: Vec<(FrontendKey, Entry)>,
    ranges: Vec<(PortRangeKey, Entry)>,
    sources: Vec<SourceRangeKey>,
    /// What of it could not be had.
    lacks: Option<BpfError>,
}

impl Planner<'_> {
    /// Plans a change. A change that fails changes nothing, but for one that says so.
    pub fn change(&mut self, change: &ServicesChange) -> Result<(), BpfError> {
        match change {
            ServicesChange::Set(name, balancer) => self.set(name, balancer),
            ServicesChange::Remove(name) => {
                self.remove(name);
                Ok(())
            }
            ServicesChange::Address(address, others) => self.address(*address, *others),
            ServicesChange::Cidrs(cidrs) => {
                let cidrs: BTreeSet<IpNet> = cidrs.iter().map(IpNet::trunc).collect();
                self.room("service_cidrs", &"the ranges of Services", (0, 0), {
                    (self.rooms.cidrs, count(cidrs.len()))
                })?;
                let new = cidrs.difference(&self.shadow.cidrs);
                let new = new.map(|range| (words::prefix_key(*range), 0));
                self.plan.cidrs.extend(new);
                let gone = self.shadow.cidrs.difference(&cidrs);
                self.plan
                    .gone_cidrs
                    .extend(gone.map(|range| words::prefix_key(*range)));
                self.shadow.cidrs = cidrs;
                Ok(())
            }
        }
    }

    fn set(&mut self, name: &BalancerName, balancer: &Balancer) -> Result<(), BpfError> {
        if balancer.frontends.is_empty() {
            // Nobody can ask for it, and nothing in the kernel would tell it from another one.
            self.remove(name);
            return Ok(());
        }
        let old = self.shadow.records.get(name).cloned();
        let mut taken = Taken::default();
        match self.prepare(name, balancer, old.as_ref(), &mut taken) {
            Ok(mut prepared) => {
                let lacks = prepared.lacks.take();
                self.commit(name, balancer, old, prepared);
                lacks.map_or(Ok(()), Err)
            }
            Err(error) => {
                let (numbers, sets) = (taken.numbers, taken.sets);
                numbers
                    .into_iter()
                    .for_each(|number| self.shadow.numbers.give_back(number));
                self.shadow.free_sets.extend(sets);
                let stretches = taken.stretches.into_iter();
                stretches.for_each(|stretch| self.shadow.stretches.give(stretch));
                Err(error)
            }
        }
    }

    fn prepare(
        &mut self,
        name: &BalancerName,
        balancer: &Balancer,
        old: Option<&Record>,
        taken: &mut Taken,
    ) -> Result<Prepared, BpfError> {
        let number = match old {
            Some(record) => record.number,
            None => self.name(name)?,
        };
        let classes = classes(balancer);
        let mut wanted = Vec::with_capacity(classes.len());
        for class in &classes {
            wanted.push(self.resolve(name, class, taken)?);
        }
        let now = old.map_or([0; 3], |record| record.roles);
        let edits = |at: usize, set: u32| edit(self.shadow.slots(set), &wanted[at]);
        let assigned = assign(&classes, now, edits);
        let mut prepared = Prepared {
            number,
            roles: [0; 3],
            sets: Vec::new(),
            ring: 0,
            ring_change: None,
            frontends: Vec::new(),
            ranges: Vec::new(),
            sources: Vec::new(),
            lacks: None,
        };
        for (at, class) in classes.iter().enumerate() {
            let set = self.prepare_set(name, &wanted[at], assigned[at], taken, &mut prepared)?;
            for role in &class.roles {
                prepared.roles[*role as usize] = set;
            }
        }
        let outside = classes
            .iter()
            .find(|class| class.roles.contains(&Role::Outside));
        if let Some(outside) = outside {
            self.prepare_ring(name, balancer, old, (outside, taken), &mut prepared);
        }
        self.prepare_entries(name, balancer, old, &mut prepared)?;
        Ok(prepared)
    }

    fn name(&self, name: &BalancerName) -> Result<u32, BpfError> {
        self.room(
            "service_names",
            name,
            (count(self.shadow.names.len()), 1),
            { (self.rooms.names, 1) },
        )?;
        if text(name).is_none() {
            let why = format!("the name {name} is longer than any that Kubernetes allows");
            return Err(BpfError::Impossible(why));
        }
        Ok(self.shadow.next_name)
    }

    /// Says what is full, if `used` and `needed` of a table's `room` are more than there are.
    fn room(
        &self,
        map: &'static str,
        what: &dyn Display,
        (used, needed): (u32, u32),
        (room, least): (u32, u32),
    ) -> Result<(), BpfError> {
        let needed = needed.max(least);
        if used.saturating_add(needed) <= room {
            return Ok(());
        }
        let what = what.to_string();
        Err(BpfError::Full {
            map,
            what,
            needed,
            used,
            room,
            hint: "",
        })
    }

    /// The numbers of a set's members.
    fn resolve(
        &mut self,
        name: &BalancerName,
        class: &Class,
        taken: &mut Taken,
    ) -> Result<Vec<Share>, BpfError> {
        let mut wanted = Vec::with_capacity(class.members.len());
        for (at, share) in shares(&class.members) {
            let Some((number, is_new)) = self.shadow.numbers.take(at) else {
                let (used, room) = self.shadow.numbers.usage();
                self.room("backends", name, (used, 1), (room, 1))?;
                continue;
            };
            if is_new {
                taken.numbers.push(number);
            }
            wanted.push((number, share));
        }
        Ok(wanted)
    }

    fn take_stretch(&mut self, name: &BalancerName, order: u8) -> Result<Stretch, BpfError> {
        if let Some(stretch) = self.shadow.stretches.take(order) {
            return Ok(stretch);
        }
        let (used, room) = self.shadow.stretches.usage();
        Err(BpfError::Full {
            map: "slots",
            what: name.to_string(),
            needed: 1 << order,
            used,
            room,
            hint: ", and no stretch of that length is free: `watari agent --service-slots` makes it larger",
        })
    }

    fn take_set(&mut self, name: &BalancerName, taken: &mut Taken) -> Result<u32, BpfError> {
        let used = self.shadow.sets_in_use();
        let Some(set) = self.shadow.take_set(self.rooms) else {
            self.room("sets", name, (used, 1), (used, 1))?;
            return Ok(0);
        };
        taken.sets.push(set);
        Ok(set)
    }

    fn prepare_set(
        &mut self,
        name: &BalancerName,
        wanted: &[Share],
        assigned: Option<(u32, When)>,
        taken: &mut Taken,
        prepared: &mut Prepared,
    ) -> Result<u32, BpfError> {
        let (set, when) = match assigned {
            Some(assigned) => assigned,
            None if wanted.is_empty() => return Ok(0),
            None => (self.take_set(name, taken)?, When::Early),
        };
        let kept = self.shadow.sets.get(&set).cloned().unwrap_or_default();
        let mut edited = edit(&kept.slots, wanted);
        let stretch = match fit(kept.stretch, edited.slots.len()) {
            Fit::Stays if !edited.changed => return Ok(set),
            Fit::Stays => kept.stretch,
            Fit::Nothing => None,
            Fit::Moves(order) => {
                let stretch = self.take_stretch(name, order)?;
                taken.stretches.push(stretch);
                edited.writes = (0..).zip(edited.slots.iter().copied()).collect();
                Some(stretch)
            }
        };
        prepared.sets.push(SetChange {
            set,
            when,
            edited,
            stretch,
        });
        Ok(set)
    }

    /// A ring that finds no room is none: any of the members, then.
    fn prepare_ring(
        &mut self,
        name: &BalancerName,
        balancer: &Balancer,
        old: Option<&Record>,
        (outside, taken): (&Class, &mut Taken),
        prepared: &mut Prepared,
    ) {
        let mut kinds = balancer.frontends.values();
        let is_asked_for = kinds.any(|kind| *kind != FrontendKind::ClusterIp);
        let members = shares(&outside.members).count();
        if !is_asked_for || balancer.least_connections || members < 2 {
            return;
        }
        let set = prepared.roles[Role::Outside as usize];
        if let Some(record) = old {
            let is_same = record.roles[Role::Outside as usize] == set
                && !prepared
                    .sets
                    .iter()
                    .any(|change| change.set == set && change.edited.changed);
            if record.ring != 0 && record.ring_right && is_same {
                prepared.ring = record.ring;
                return;
            }
        }
        let order = Stretch::order_for(maglev::size(members));
        let got = self.take_stretch(name, order).and_then(|stretch| {
            taken.stretches.push(stretch);
            match old.map_or(0, |record| record.ring) {
                0 => Ok((self.take_set(name, taken)?, stretch)),
                ring => Ok((ring, stretch)),
            }
        });
        match got {
            Ok((ring, stretch)) => {
                let table = ring_of(self.shadow, &outside.members);
                prepared.ring = ring;
                prepared.ring_change = Some((stretch, table));
            }
            Err(error) => {
                // A stretch was the last that was taken, if the set was what is missing.
                if matches!(error, BpfError::Full { map: "sets", .. })
                    && let Some(stretch) = taken.stretches.pop()
                {
                    self.shadow.stretches.give(stretch);
                }
                prepared.lacks = Some(error);
            }
        }
    }

    fn prepare_entries(
        &self,
        name: &BalancerName,
        balancer: &Balancer,
        old: Option<&Record>,
        prepared: &mut Prepared,
    ) -> Result<(), BpfError> {
        let [inside, external, outside] = prepared.roles;
        for (at, kind) in &balancer.frontends {
            let cluster = *kind == FrontendKind::ClusterIp;
            let entry = Entry {
                service: prepared.number,
                inside: if cluster { inside } else { external },
                outside: if cluster { inside } else { outside },
                ring: if cluster { 0 } else { prepared.ring },
                affinity: balancer.affinity.unwrap_or(0),
                flags: flags(balancer, at, *kind),
            };
            if at.range {
                let keys = range_keys(at, balancer.protocol).into_iter();
                prepared.ranges.extend(keys.map(|key| (key, entry)));
            } else {
                let key = frontend_key(at.address, at.first, balancer.protocol);
                prepared.frontends.push((key, entry));
            }
        }
        let mut kinds = balancer.frontends.values();
        if kinds.any(|kind| *kind == FrontendKind::LoadBalancer) {
            let ranges = balancer.source_ranges.iter().flatten();
            let keys = ranges.map(|range| source_key(prepared.number, *range));
            prepared.sources = keys.collect();
        }
        let new = |keys: usize, old: usize| count(keys.saturating_sub(old));
        let had = |of: fn(&Record) -> usize| old.map_or(0, of);
        // Each may bring the entry of an address with it.
        let frontends = new(
            prepared.frontends.len(),
            had(|record| record.frontends.len()),
        );
        let ranges = new(prepared.ranges.len(), had(|record| record.ranges.len()));
        let sources = new(prepared.sources.len(), had(|record| record.sources.len()));
        let used = count(self.shadow.frontends.len());
        self.room(
            "frontends",
            name,
            (used, frontends),
            (self.rooms.frontends, 0),
        )?;
        let used = count(self.shadow.ranges.len());
        self.room("port_ranges", name, (used, ranges), (self.rooms.ranges, 0))?;
        let used = self.shadow.source_count;
        self.room(
            "source_ranges",
            name,
            (used, sources),
            (self.rooms.sources, 0),
        )
    }

    fn commit(
        &mut self,
        name: &BalancerName,
        balancer: &Balancer,
        old: Option<Record>,
        prepared: Prepared,
    ) {
        let before = old.as_ref().map(|record| self.shadow.members(record.roles));
        if old.is_none() {
            self.shadow.next_name += 1;
            self.shadow.names.insert(prepared.number, name.clone());
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
        self.shadow.records.insert(name.clone(), record);
    }

    fn commit_set(&mut self, change: SetChange) {
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

    fn commit_ring(&mut self, ring: u32, stretch: Stretch, table: &[u32]) {
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

    fn less(&mut self, slots: &[u32]) {
        for number in slots {
            if self.shadow.numbers.uses_less(*number) {
                self.plan.idle.insert(*number);
            }
        }
    }

    fn later(&mut self, what: Later, after: u64) {
        self.shadow.later.push((Some(self.now + after), what));
    }

    /// No frontend asks for a set any more; whoever is about to look at it still finds it.
    fn release_set(&mut self, set: u32) {
        if let Some(kept) = self.shadow.sets.get_mut(&set) {
            let slots = std::mem::take(&mut kept.slots);
            self.less(&slots);
        }
        self.later(Later::Set(set), GRACE);
    }

    fn depart(&mut self, record: &Record, affinity: bool, gone: impl Iterator<Item = u32>) {
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

    fn put_frontends(
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

    fn put_ranges(
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

    fn put_sources(&mut self, old: &[SourceRangeKey], new: &[SourceRangeKey]) {
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

    fn address(&mut self, address: IpAddr, others: Option<Others>) -> Result<(), BpfError> {
        let address = Address::from(address);
        let key = words::address_key(address);
        if others.is_some() && !self.shadow.frontends.contains_key(&key) {
            let used = count(self.shadow.frontends.len());
            let what = IpAddr::from(address);
            self.room("frontends", &what, (used, 1), (self.rooms.frontends, 1))?;
        }
        self.shadow.addresses.entry(address).or_default().others = others;
        self.put_address(address);
        Ok(())
    }

    /// Makes the entry of an address what it should be.
    pub(super) fn put_address(&mut self, address: Address) {
        let at = self
            .shadow
            .addresses
            .get(&address)
            .copied()
            .unwrap_or_default();
        let key = words::address_key(address);
        self.shadow.strays.frontends.remove(&key);
        let entry = super::rebuild::address_entry(at);
        let before = match entry {
            Some(entry) => self.shadow.frontends.insert(key, entry),
            None => {
                self.shadow.addresses.remove(&address);
                self.shadow.frontends.remove(&key)
            }
        };
        if before != entry {
            self.plan.frontends.insert(key);
        }
    }

    fn remove(&mut self, name: &BalancerName) {
        let Some(mut record) = self.shadow.records.remove(name) else {
            return;
        };
        let members = self.shadow.members(record.roles);
        let (frontends, ranges) = (
            std::mem::take(&mut record.frontends),
            std::mem::take(&mut record.ranges),
        );
        self.put_frontends(frontends, &[], record.number);
        self.put_ranges(ranges, &[], record.number);
        self.put_sources(&record.sources, &[]);
        let sets = record.roles.into_iter().chain([record.ring]);
        for set in sets.collect::<BTreeSet<_>>() {
            if set != 0 {
                self.release_set(set);
            }
        }
        self.depart(&record, false, members.into_iter());
        self.plan.touched.insert(name.clone());
        // Connections and remembered clients still have it.
        self.later(Later::Name(record.number), QUARANTINE);
    }

    /// Makes a balancer's ring anew, of what is in its set.
    pub fn mend_ring(&mut self, name: &BalancerName) -> Result<(), BpfError> {
        let Some(record) = self.shadow.records.get(name) else {
            return Ok(());
        };
        let (ring, outside) = (record.ring, record.roles[Role::Outside as usize]);
        let members = super::rebuild::members(self.shadow, outside);
        let size = maglev::size(members.len());
        if ring == 0 || members.len() < 2 {
            return Ok(());
        }
        let stretch = self.take_stretch(name, Stretch::order_for(size))?;
        let table = ring_of(self.shadow, &members);
        self.commit_ring(ring, stretch, &table);
        if let Some(record) = self.shadow.records.get_mut(name) {
            record.ring_right = true;
        }
        Ok(())
    }
}

/// Maglev's table of these members, by their numbers.
pub(super) fn ring_of(shadow: &Shadow, members: &words::Members) -> Vec<u32> {
    let numbers: Vec<u32> = shares(members)
        .map(|(at, _)| shadow.numbers.number(at).unwrap_or(0))
        .collect();
    let table = maglev::ring(members).into_iter();
    table.map(|at| numbers[at as usize]).collect()
}

fn count(all: usize) -> u32 {
    u32::try_from(all).unwrap_or(u32::MAX)
}
