use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use watari_model::Protocol;
use watari_tables::{Frontend, Others};

use crate::spec::{Claim, Part};

/// A Service, by its place among the compiler's.
pub(crate) type Id = u32;

/// Who wants which address and port. Nearly always that is one.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    exact: BTreeMap<(IpAddr, u16, Protocol), Wanting>,
    ranges: BTreeMap<(IpAddr, Protocol), Vec<(Claim, Id)>>,
    addresses: BTreeMap<IpAddr, Uses>,
    /// Addresses whose uses changed since they were last asked for.
    touched: BTreeSet<IpAddr>,
}

#[derive(Debug)]
enum Wanting {
    One((Part, Id)),
    Many(Vec<(Part, Id)>),
}

/// How many Services say what of an address.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Uses {
    refused: u32,
    stack: u32,
    told: Option<Others>,
}

impl Uses {
    fn others(self) -> Option<Others> {
        if self.refused > 0 {
            Some(Others::Refused)
        } else {
            (self.stack > 0).then_some(Others::Stack)
        }
    }
}

impl Claims {
    /// Adds a claim; gives whose frontends may change by that beside its own.
    pub fn add(&mut self, claim: &Claim, id: Id) -> Vec<Id> {
        if claim.frontend.range {
            let group = self.ranges.entry(group(claim)).or_default();
            let others = group.iter().map(|(_, id)| *id).collect();
            group.push((*claim, id));
            return others;
        }
        let wanted = (claim.part, id);
        match self.exact.entry(key(claim)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Wanting::One(wanted));
                Vec::new()
            }
            Entry::Occupied(mut held) => match held.get_mut() {
                Wanting::Many(all) => {
                    let others = all.iter().map(|(_, id)| *id).collect();
                    all.push(wanted);
                    others
                }
                Wanting::One(first) => {
                    let first = *first;
                    held.insert(Wanting::Many(vec![first, wanted]));
                    vec![first.1]
                }
            },
        }
    }

    /// Takes a claim back; gives whose frontends may change by that beside its own.
    pub fn remove(&mut self, claim: &Claim, id: Id) -> Vec<Id> {
        if claim.frontend.range {
            let Some(group) = self.ranges.get_mut(&group(claim)) else {
                return Vec::new();
            };
            group.retain(|other| other != &(*claim, id));
            let others = group.iter().map(|(_, id)| *id).collect();
            if group.is_empty() {
                self.ranges.remove(&self::group(claim));
            }
            return others;
        }
        match self.exact.get_mut(&key(claim)) {
            Some(Wanting::Many(all)) => {
                all.retain(|other| other != &(claim.part, id));
                let others = all.iter().map(|(_, id)| *id).collect();
                if let [one] = all[..] {
                    self.exact.insert(key(claim), Wanting::One(one));
                }
                others
            }
            Some(Wanting::One(one)) if *one == (claim.part, id) => {
                self.exact.remove(&key(claim));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// Who has a frontend: the first by `rank` of all that want it, and of a Service its first part.
    pub fn owner<R: Ord>(&self, claim: &Claim, rank: impl Fn(Id) -> R) -> Option<(Part, Id)> {
        if claim.frontend.range {
            let group = self.ranges.get(&group(claim))?;
            let has = holders(group, rank);
            let mut has = has.into_iter();
            let found = has.find(|(held, _)| overlap(&held.frontend, &claim.frontend));
            return found.map(|(held, id)| (held.part, id));
        }
        match self.exact.get(&key(claim))? {
            Wanting::One(one) => Some(*one),
            Wanting::Many(all) => {
                let first = all.iter().min_by_key(|(part, id)| (rank(*id), *part));
                first.copied()
            }
        }
    }

    /// Whether a part of a Service has the frontend that it claims.
    pub fn has<R: Ord>(&self, claim: &Claim, id: Id, rank: impl Fn(Id) -> R) -> bool {
        if !claim.frontend.range {
            return self.owner(claim, rank) == Some((claim.part, id));
        }
        let group = self.ranges.get(&group(claim));
        group.is_some_and(|group| {
            group.iter().all(|(_, other)| *other == id)
                || holders(group, rank).contains(&(*claim, id))
        })
    }

    /// One Service more, or less, that says something of an address.
    pub fn use_address(&mut self, address: IpAddr, others: Others, more: bool) {
        let uses = self.addresses.entry(address).or_default();
        let count = match others {
            Others::Refused => &mut uses.refused,
            Others::Stack => &mut uses.stack,
        };
        *count = if more {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        self.touched.insert(address);
    }

    /// What changed of the other ports of addresses since this was last asked.
    pub fn address_changes(&mut self) -> Vec<(IpAddr, Option<Others>)> {
        let mut changes = Vec::new();
        for address in std::mem::take(&mut self.touched) {
            let Some(uses) = self.addresses.get_mut(&address) else {
                continue;
            };
            let others = uses.others();
            if others != uses.told {
                uses.told = others;
                changes.push((address, others));
            }
            if others.is_none() {
                self.addresses.remove(&address);
            }
        }
        changes
    }

    /// What is told of all addresses.
    pub fn addresses(&self) -> impl Iterator<Item = (IpAddr, Others)> + '_ {
        let all = self.addresses.iter();
        all.filter_map(|(address, uses)| Some((*address, uses.told?)))
    }
}

fn key(claim: &Claim) -> (IpAddr, u16, Protocol) {
    (claim.frontend.address, claim.frontend.first, claim.protocol)
}

fn group(claim: &Claim) -> (IpAddr, Protocol) {
    (claim.frontend.address, claim.protocol)
}

/// Those of a group of ranges that hold beside each other: the first by rank always, then each that
/// overlaps with none before it.
fn holders<R: Ord>(group: &[(Claim, Id)], rank: impl Fn(Id) -> R) -> Vec<(Claim, Id)> {
    let mut sorted: Vec<&(Claim, Id)> = group.iter().collect();
    sorted.sort_by_key(|(claim, id)| (rank(*id), *claim));
    let mut held: Vec<(Claim, Id)> = Vec::with_capacity(sorted.len());
    for candidate in sorted {
        let clashes = |other: &(Claim, Id)| overlap(&other.0.frontend, &candidate.0.frontend);
        if !held.iter().any(clashes) {
            held.push(*candidate);
        }
    }
    held
}

/// Whether two frontends of one protocol cannot be two Services'.
pub(crate) fn overlap(a: &Frontend, b: &Frontend) -> bool {
    a.address == b.address && a.range == b.range && a.first <= b.last && b.first <= a.last
}
