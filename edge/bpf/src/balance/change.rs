use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use watari_abi::{Address, Frontend as Entry, FrontendKey, PortRangeKey, SourceRangeKey};
use watari_tables::{Balancer, BalancerName, FrontendKind, Others, ServicesChange};

use super::numbers::QUARANTINE;
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
pub(super) struct SetChange {
    pub set: u32,
    pub when: When,
    pub edited: Edited,
    /// Where it is from now on; none: it has no slots.
    pub stretch: Option<Stretch>,
}

/// A change that has all that it needs.
pub(super) struct Prepared {
    pub number: u32,
    pub roles: [u32; 3],
    pub sets: Vec<SetChange>,
    pub ring: u32,
    pub ring_change: Option<(Stretch, Vec<u32>)>,
    pub frontends: Vec<(FrontendKey, Entry)>,
    pub ranges: Vec<(PortRangeKey, Entry)>,
    pub sources: Vec<SourceRangeKey>,
    /// What of it could not be had.
    pub lacks: Option<BpfError>,
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
                Self::room("service_cidrs", &"the ranges of Services", (0, 0), {
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
                for number in numbers {
                    self.shadow.numbers.give_back(number);
                }
                self.shadow.free_sets.extend(sets);
                for stretch in taken.stretches {
                    self.shadow.stretches.give(stretch);
                }
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
        Self::room(
            "service_names",
            name,
            (count(self.shadow.names.len()), 1),
            (self.rooms.names, 1),
        )?;
        if text(name).is_none() {
            let why = format!("the name {name} is longer than any that Kubernetes allows");
            return Err(BpfError::Impossible(why));
        }
        Ok(self.shadow.next_name)
    }

    /// Says what is full, if `used` and `needed` of a table's `room` are more than there are.
    fn room(
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
                Self::room("backends", name, (used, 1), (room, 1))?;
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
            Self::room("sets", name, (used, 1), (used, 1))?;
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
        let order = Stretch::order_for(ring_size(members));
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
        Self::room(
            "frontends",
            name,
            (used, frontends),
            (self.rooms.frontends, 0),
        )?;
        let used = count(self.shadow.ranges.len());
        Self::room("port_ranges", name, (used, ranges), (self.rooms.ranges, 0))?;
        let used = self.shadow.source_count;
        Self::room(
            "source_ranges",
            name,
            (used, sources),
            (self.rooms.sources, 0),
        )
    }

    fn address(&mut self, address: IpAddr, others: Option<Others>) -> Result<(), BpfError> {
        let address = Address::from(address);
        let key = words::address_key(address);
        if others.is_some() && !self.shadow.frontends.contains_key(&key) {
            let used = count(self.shadow.frontends.len());
            let what = IpAddr::from(address);
            Self::room("frontends", &what, (used, 1), (self.rooms.frontends, 1))?;
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
        let before = if let Some(entry) = entry {
            self.shadow.frontends.insert(key, entry)
        } else {
            self.shadow.addresses.remove(&address);
            self.shadow.frontends.remove(&key)
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
        let size = ring_size(members.len());
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
    let members: BTreeMap<_, _> = shares(members).collect();
    let numbers: Vec<u32> = members
        .keys()
        .map(|at| shadow.numbers.number(*at).unwrap_or(0))
        .collect();
    let table = watari_services::ring(&members).into_iter();
    table.map(|at| numbers[at as usize]).collect()
}

/// Entries of their table: a prime below 2^16.
pub(super) fn ring_size(members: usize) -> u32 {
    count(watari_services::ring_size(members))
}

fn count(all: usize) -> u32 {
    u32::try_from(all).unwrap_or(u32::MAX)
}
