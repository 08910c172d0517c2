use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use watari_abi::{Address, AffinityKey, Backend, Config, Set, config_flags};
use watari_tables::{BalancerName, Services, ServicesChange};

use super::change::{GRACE, Planner};
use super::confirm::confirms;
use super::describe::{Described, Usage, describe, usage};
use super::layer::{Array, Layer, Table, Tables};
use super::observe::{compared, observed};
use super::plan::Plan;
use super::rebuild::{address_entry, rebuild};
use super::shadow::{Later, Rooms, Shadow};
use super::{Applied, Balancing, Compared, Departed, NodeConfig, Observed};
use crate::error::BpfError;

/// Changes that are written together.
const TOGETHER: usize = 512;
/// Failures of the kernel after which the rest is not tried any more.
const PATIENCE: usize = 8;

/// The tables of Services, of whoever has them.
pub struct Balancer<L: Layer> {
    tables: Tables<L>,
    rooms: Rooms,
    shadow: Shadow,
    /// A write failed, and what the tables hold is not known.
    doubt: bool,
    /// What was found may need mending.
    found: bool,
    /// Something was applied, so what nobody wanted is nobody's.
    applied: bool,
    /// Who left not long ago: a program that was looking may have remembered a client since.
    departed: Vec<(u64, Departed)>,
    loads: HashMap<u32, u64>,
}

impl<L: Layer> Balancer<L> {
    /// Opens the tables, and takes up what they hold.
    pub fn open(layer: &L) -> Result<Self, BpfError> {
        let tables = Tables::open(layer)?;
        let rooms = Rooms {
            frontends: tables.frontends.room(),
            ranges: tables.ranges.room(),
            cidrs: tables.cidrs.room(),
            sources: tables.sources.room(),
            names: tables.names.room(),
            sets: tables.sets.room(),
            slots: tables.slots.room(),
            backends: tables.backends.room().min(tables.loads.room()),
        };
        let shadow = rebuild(&tables, &rooms, None)?;
        Ok(Self {
            tables,
            rooms,
            shadow,
            doubt: false,
            found: true,
            applied: false,
            departed: Vec::new(),
            loads: HashMap::new(),
        })
    }

    fn look(&mut self) -> Result<(), BpfError> {
        self.shadow = rebuild(&self.tables, &self.rooms, Some(&self.shadow))?;
        (self.doubt, self.found) = (false, true);
        Ok(())
    }

    /// The tables say what is known of them.
    #[cfg(test)]
    pub(super) fn is_confirmed(&self) -> bool {
        !self.doubt && confirms(&self.tables, &self.shadow).unwrap()
    }

    fn plan(
        &mut self,
        plan: &mut Plan,
        now: u64,
        make: impl FnOnce(&mut Planner<'_>) -> Result<(), BpfError>,
    ) -> Result<(), BpfError> {
        make(&mut Planner {
            shadow: &mut self.shadow,
            rooms: &self.rooms,
            plan,
            now,
        })
    }

    /// Writes a plan. Afterwards it is known what the tables hold, or there is doubt.
    fn write(&mut self, plan: Plan, now: u64, applied: &mut Applied) -> Result<(), BpfError> {
        match plan.write(&self.tables, &mut self.shadow, now) {
            Ok(writes) => {
                applied.writes += writes;
                applied.departed.extend(plan.departed);
                Ok(())
            }
            Err(error) => {
                self.doubt = true;
                // It may have got that far; who did not leave is taken out of it later.
                applied.departed.extend(plan.departed);
                Err(error)
            }
        }
    }

    /// Makes changes together; gives those that are not made because of the kernel.
    fn together<'a>(
        &mut self,
        changes: &'a [ServicesChange],
        now: u64,
        applied: &mut Applied,
    ) -> &'a [ServicesChange] {
        let mut plan = Plan::default();
        let mut failed = Vec::new();
        for change in changes {
            if let Err(error) = self.plan(&mut plan, now, |planner| planner.change(change)) {
                failed.push((change.clone(), error));
            }
        }
        if self.write(plan, now, applied).is_err() {
            return changes;
        }
        applied.done += changes.len() - failed.len();
        applied.failed.extend(failed);
        &[]
    }

    fn singly(
        &mut self,
        change: &ServicesChange,
        now: u64,
        applied: &mut Applied,
    ) -> Result<(), BpfError> {
        if self.doubt {
            self.look()?;
        }
        let mut plan = Plan::default();
        let planned = self.plan(&mut plan, now, |planner| planner.change(change));
        self.write(plan, now, applied)?;
        match planned {
            Ok(()) => applied.done += 1,
            Err(error) => applied.failed.push((change.clone(), error)),
        }
        Ok(())
    }

    /// Puts right what was found half done.
    fn mend(&mut self, now: u64, applied: &mut Applied) -> Result<(), BpfError> {
        let mut plan = Plan::default();
        let records = self.shadow.records.iter();
        let rings: Vec<Arc<BalancerName>> = records
            .filter(|(_, record)| record.ring != 0 && !record.ring_right)
            .map(|(name, _)| name.clone())
            .collect();
        let addresses = self.shadow.addresses.iter();
        let mut addresses: Vec<Address> = addresses.map(|(address, _)| *address).collect();
        addresses.retain(|address| {
            let at = self
                .shadow
                .addresses
                .get(address)
                .copied()
                .unwrap_or_default();
            let key = super::words::address_key(*address);
            self.shadow.frontends.get(&key).copied() != address_entry(at)
        });
        for number in self.shadow.numbers.wrongly_idle() {
            let entry = self.shadow.numbers.uses_more(number);
            self.shadow.numbers.uses_less(number);
            plan.backends.extend(entry.map(|entry| (number, entry)));
        }
        plan.idle.extend(self.shadow.numbers.wrongly_ready());
        self.plan(&mut plan, now, |planner| {
            for address in addresses {
                planner.put_address(address);
            }
            for name in &rings {
                planner.mend_ring(name)?;
            }
            Ok(())
        })?;
        self.write(plan, now, applied)?;
        self.found = false;
        Ok(())
    }

    /// Takes away what makes no sense.
    fn clear_strays(&mut self, now: u64) -> Result<(), BpfError> {
        let strays = std::mem::take(&mut self.shadow.strays);
        let mut plan = Plan::default();
        let count = u32::try_from(strays.sources.len()).unwrap_or(0);
        self.shadow.source_count = self.shadow.source_count.saturating_sub(count);
        plan.gone_sources = strays.sources.into_iter().collect();
        for key in strays.frontends {
            self.shadow.frontends.remove(&key);
            plan.frontends.insert(key);
        }
        for key in strays.ranges {
            self.shadow.ranges.remove(&key);
            plan.ranges.insert(key);
            self.plan(&mut plan, now, |planner| {
                planner.count_range(key.address, false);
                Ok(())
            })?;
        }
        self.write(plan, now, &mut Applied::default())
    }

    /// Forgets clients that are remembered to be somebody's who left.
    fn forget_clients(&self, departed: &[Departed]) -> Result<(), BpfError> {
        let gone: HashSet<(u32, u32)> = departed
            .iter()
            .filter(|departed| departed.affinity)
            .map(|departed| (departed.service, departed.backend))
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let mut keys: Vec<AffinityKey> = Vec::new();
        self.tables.affinities.each(&mut |key, affinity| {
            if gone.contains(&(key.service, affinity.backend)) {
                keys.push(key);
            }
        })?;
        self.tables.affinities.remove(&keys)
    }

    /// Frees what waited long enough.
    fn free(&mut self, now: u64) -> Result<(), BpfError> {
        for (time, what) in &mut self.shadow.later {
            let wait = if matches!(what, Later::Name(_)) {
                super::numbers::QUARANTINE
            } else {
                GRACE
            };
            time.get_or_insert(now + wait);
        }
        self.shadow.numbers.start_resting(now);
        let is_due = |(time, _): &(Option<u64>, Later)| time.is_some_and(|time| time <= now);
        let (due, rest) = std::mem::take(&mut self.shadow.later)
            .into_iter()
            .partition(is_due);
        self.shadow.later = rest;
        let due: Vec<(Option<u64>, Later)> = due;
        let sets = due.iter().filter_map(|(_, what)| match what {
            Later::Set(set) => Some((*set, Set::default())),
            _ => None,
        });
        let sets: Vec<_> = sets.collect();
        let names = due.iter().filter_map(|(_, what)| match what {
            Later::Name(number) => Some(*number),
            _ => None,
        });
        let names: Vec<u32> = names.collect();
        let rested = self.shadow.numbers.rested(now);
        let backends: Vec<_> = rested
            .iter()
            .map(|number| (*number, Backend::default()))
            .collect();
        let written = write_all(&self.tables, &sets, &names, &backends);
        if let Err(error) = written {
            self.doubt = true;
            self.shadow.later.extend(due);
            return Err(error);
        }
        for (_, what) in due {
            match what {
                Later::Stretch(stretch) => self.shadow.stretches.give(stretch),
                Later::Set(set) => {
                    let kept = self.shadow.sets.remove(&set).unwrap_or_default();
                    if let Some(stretch) = kept.stretch {
                        self.shadow.stretches.give(stretch);
                    }
                    self.shadow.free_sets.insert(set);
                }
                Later::Name(number) => drop(self.shadow.names.remove(&number)),
            }
        }
        for number in rested {
            self.shadow.numbers.free(number);
        }
        Ok(())
    }
}

fn write_all<L: Layer>(
    tables: &Tables<L>,
    sets: &[(u32, Set)],
    names: &[u32],
    backends: &[(u32, Backend)],
) -> Result<(), BpfError> {
    if !sets.is_empty() {
        tables.sets.set(sets)?;
    }
    if !names.is_empty() {
        tables.names.remove(names)?;
    }
    if !backends.is_empty() {
        tables.backends.set(backends)?;
    }
    Ok(())
}

/// The balancer of a change.
fn name_of(change: &ServicesChange) -> Option<&BalancerName> {
    match change {
        ServicesChange::Set(name, _) | ServicesChange::Remove(name) => Some(name),
        ServicesChange::Address(..) | ServicesChange::Cidrs(_) => None,
    }
}

/// The first changes that can be written together: none of them of the same balancer as another.
fn first_together(changes: &[ServicesChange]) -> usize {
    let mut names = HashSet::new();
    let mut count = 0;
    for change in changes.iter().take(TOGETHER) {
        if name_of(change).is_some_and(|name| !names.insert(name)) {
            break;
        }
        count += 1;
    }
    count
}

impl<L: Layer> Balancing for Balancer<L>
where
    Self: Send,
{
    fn observe(&mut self) -> Result<Observed, BpfError> {
        self.look()?;
        Ok(observed(&self.shadow))
    }

    fn compare(&mut self, desired: &Services) -> Result<Compared, BpfError> {
        if self.doubt || !confirms(&self.tables, &self.shadow)? {
            self.look()?;
        }
        Ok(compared(&self.shadow, desired))
    }

    fn apply(&mut self, changes: &[ServicesChange], now: u64) -> Applied {
        let mut applied = Applied::default();
        let (mut rest, mut failures) = (changes, 0);
        while !rest.is_empty() {
            let (some, others) = rest.split_at(first_together(rest));
            rest = others;
            let again = if self.doubt {
                some
            } else {
                self.together(some, now, &mut applied)
            };
            for change in again {
                let outcome = if failures < PATIENCE {
                    self.singly(change, now, &mut applied)
                } else {
                    let why = format!("{PATIENCE} changes before this one failed in the kernel");
                    Err(BpfError::Impossible(why))
                };
                if let Err(error) = outcome {
                    failures += 1;
                    applied.failed.push((change.clone(), error));
                }
            }
        }
        if (self.doubt && self.look().is_err())
            || (self.found && self.mend(now, &mut applied).is_err())
        {
            self.doubt = true;
        }
        self.applied = true;
        self.keep_departed(&mut applied, now);
        applied
    }

    fn tidy(&mut self, now: u64) -> Result<bool, BpfError> {
        if self.doubt {
            self.look()?;
        }
        if self.found && self.applied {
            self.mend(now, &mut Applied::default())?;
        }
        if self.applied && !self.shadow.strays.is_empty() {
            self.clear_strays(now)?;
        }
        if !self.departed.is_empty() {
            let (due, rest): (Vec<_>, Vec<_>) =
                self.departed.iter().partition(|(time, _)| *time <= now);
            let departed: Vec<Departed> = due.into_iter().map(|(_, departed)| departed).collect();
            self.forget_clients(&departed)?;
            self.departed = rest;
        }
        self.free(now)?;
        let waits = !self.shadow.later.is_empty() || !self.departed.is_empty();
        Ok(waits || self.shadow.numbers.rests())
    }

    fn names(&self) -> HashMap<u32, BalancerName> {
        let names = self.shadow.names.iter();
        let names = names.map(|(number, name)| (*number, (**name).clone()));
        names.collect()
    }

    fn describe(&self, name: &BalancerName) -> Option<Described> {
        describe(&self.shadow, name)
    }

    fn usage(&self) -> Vec<Usage> {
        usage(&self.shadow, &self.rooms)
    }

    fn recount(&mut self, counts: &HashMap<(u32, u32), u64>, now: u64) -> Result<(), BpfError> {
        let mut loads: HashMap<u32, u64> = HashMap::new();
        for ((service, backend), count) in counts {
            *loads.entry(*backend).or_default() += count;
            self.shadow.numbers.rest_longer(*backend, now);
            for (time, what) in &mut self.shadow.later {
                if *what == Later::Name(*service) {
                    *time = Some(now + super::numbers::QUARANTINE);
                }
            }
        }
        let mut entries: Vec<(u32, u64)> = loads
            .iter()
            .map(|(number, load)| (*number, *load))
            .collect();
        let gone = self
            .loads
            .keys()
            .filter(|number| !loads.contains_key(number));
        entries.extend(gone.map(|number| (*number, 0)));
        entries.retain(|(number, _)| (1..self.rooms.backends).contains(number));
        entries.sort_unstable();
        if !entries.is_empty() {
            self.tables.loads.set(&entries)?;
        }
        self.loads = loads;
        Ok(())
    }

    fn configure(&mut self, node: &NodeConfig) -> Result<(), BpfError> {
        let there = self
            .tables
            .config
            .stretch(0, 1)?
            .first()
            .copied()
            .unwrap_or_default();
        let address =
            |address: Option<std::net::IpAddr>| address.map_or(Address::UNSPECIFIED, Address::from);
        let services = if node.services {
            config_flags::SERVICES
        } else {
            0
        };
        let config = Config {
            flags: there.flags & !config_flags::SERVICES | services,
            v4: address(node.v4),
            v6: address(node.v6),
            first_port: node.ports.0,
            last_port: node.ports.1,
            ..there
        };
        if config != there {
            self.tables.config.set(&[(0, config)])?;
        }
        Ok(())
    }
}

impl<L: Layer> Balancer<L> {
    /// Of those who may have left, those who did; and no client is remembered to be theirs.
    fn keep_departed(&mut self, applied: &mut Applied, now: u64) {
        applied.departed.sort_unstable();
        applied.departed.dedup();
        let shadow = &self.shadow;
        applied.departed.retain(|departed| {
            let record = shadow.names.get(&departed.service).and_then(|name| {
                let record = shadow.records.get(name);
                record.filter(|record| record.number == departed.service)
            });
            !record.is_some_and(|record| {
                record
                    .roles
                    .iter()
                    .any(|set| shadow.slots(*set).contains(&departed.backend))
            })
        });
        let remembered = applied.departed.iter().filter(|departed| departed.affinity);
        let again: Vec<_> = remembered
            .map(|departed| (now + GRACE, *departed))
            .collect();
        self.departed.extend(again);
        // If it cannot be done now, it is done later.
        let _ = self.forget_clients(&applied.departed);
    }
}
