//! A shadow in the words of `core/tables`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use watari_abi::{Frontend as Entry, frontend_flags};
use watari_tables::{Backends, Balancer, BalancerName, Frontend, FrontendKind};

use super::Observed;
use super::rebuild::members;
use super::shadow::{Record, Role, Shadow};
use super::words::{self, Members, flags, kind_of, ports_of, source_of};

/// What a shadow says, and what nobody could say.
pub(super) fn observed(shadow: &Shadow) -> Observed {
    let mut observed = Observed {
        strays: shadow.strays.words.clone(),
        ..Observed::default()
    };
    let strays = &shadow.strays;
    let unsaid = strays.frontends.len() + strays.ranges.len() + strays.sources.len();
    if unsaid > 0 && observed.strays.is_empty() {
        observed.strays.push(format!("{unsaid} entries of no Service"));
    }
    let mut known: HashMap<u32, Members> = HashMap::new();
    for (name, record) in &shadow.records {
        let (balancer, others) = balancer(shadow, name, record, &mut known);
        if others > 0 {
            let words = format!("{others} frontends of {name}, which are not as its others");
            observed.strays.push(words);
        }
        observed.services.balancers.insert(name.clone(), Arc::new(balancer));
    }
    for (address, at) in &shadow.addresses {
        if let Some(others) = at.others {
            observed.services.addresses.insert(IpAddr::from(*address), others);
        }
    }
    observed.services.cidrs.clone_from(&shadow.cidrs);
    observed
}

/// Frontends with their entries; those of ranges that meet are one.
pub(super) fn frontends(shadow: &Shadow, record: &Record) -> Vec<(Frontend, FrontendKind, Vec<Entry>)> {
    let mut all: Vec<(Frontend, FrontendKind, Vec<Entry>)> = Vec::new();
    for key in &record.frontends {
        let Some(entry) = shadow.frontends.get(key) else {
            continue;
        };
        let port = u16::from_be(key.port);
        let at = Frontend {
            address: key.address.into(),
            first: port,
            last: port,
            range: false,
        };
        all.push((at, kind_of(entry), vec![*entry]));
    }
    let mut prefixes: Vec<_> = record
        .ranges
        .iter()
        .filter_map(|key| {
            let (first, last) = ports_of(key)?;
            let entry = shadow.ranges.get(key)?;
            Some((IpAddr::from(key.address), first, last, *entry))
        })
        .collect();
    prefixes.sort_unstable_by_key(|(address, first, ..)| (*address, *first));
    for (address, first, last, entry) in prefixes {
        if let Some((at, kind, entries)) = all.last_mut()
            && (at.range, at.address, *kind) == (true, address, kind_of(&entry))
            && at.last.checked_add(1) == Some(first)
        {
            at.last = last;
            entries.push(entry);
            continue;
        }
        let range = Frontend { address, first, last, range: true };
        all.push((range, kind_of(&entry), vec![entry]));
    }
    all
}

/// A balancer, with how many of its frontends are not as they should be and so not in it.
fn balancer(
    shadow: &Shadow,
    name: &BalancerName,
    record: &Record,
    known: &mut HashMap<u32, Members>,
) -> (Balancer, usize) {
    let found = frontends(shadow, record);
    let first = |cluster: bool| {
        let is = |kind: &FrontendKind| (*kind == FrontendKind::ClusterIp) == cluster;
        found.iter().find(|(_, kind, _)| is(kind)).map(|(_, _, entries)| entries[0])
    };
    let (cluster, other) = (first(true), first(false));
    let has = |entry: Option<Entry>, flag: u32| entry.is_some_and(|entry| entry.flags & flag != 0);
    let mut backends = |role: Role, drops_when_empty: bool| {
        let set = record.roles[role as usize];
        let members = known.entry(set).or_insert_with(|| members(shadow, set));
        Backends { members: members.clone(), drops_when_empty }
    };
    let drops = |entry: Option<Entry>| has(entry, frontend_flags::INSIDE_DROPS);
    let outside_drops = match other {
        Some(_) => has(other, frontend_flags::OUTSIDE_DROPS),
        None => drops(cluster),
    };
    let limited = found.iter().any(|(_, _, entries)| {
        entries.iter().any(|entry| entry.flags & frontend_flags::SOURCE_RANGES != 0)
    });
    let sources: BTreeSet<IpNet> = record.sources.iter().filter_map(source_of).collect();
    let mut balancer = Balancer {
        protocol: record.protocol,
        frontends: BTreeMap::new(),
        inside: backends(Role::Inside, drops(cluster.or(other))),
        inside_external: backends(Role::InsideExternal, drops(other.or(cluster))),
        outside: backends(Role::Outside, outside_drops),
        keeps_source: has(other, frontend_flags::KEEPS_SOURCE),
        affinity: Some(record.affinity).filter(|seconds| *seconds > 0),
        source_ranges: limited.then_some(sources),
        least_connections: has(cluster.or(other), frontend_flags::LEAST_CONNECTIONS),
        direct_return: has(other, frontend_flags::DIRECT_RETURN),
    };
    let mut wrong = 0;
    for (at, kind, entries) in found {
        let expected = expected(record, &balancer, &at, kind);
        let family = at.address.is_ipv6() == name.v6;
        if family && entries.iter().all(|entry| *entry == expected) {
            balancer.frontends.insert(at, kind);
        } else {
            wrong += 1;
        }
    }
    (balancer, wrong)
}

/// What a frontend's entry should be.
fn expected(record: &Record, balancer: &Balancer, at: &Frontend, kind: FrontendKind) -> Entry {
    let [inside, external, outside] = record.roles;
    let cluster = kind == FrontendKind::ClusterIp;
    let has_ring =
        !balancer.least_connections && words::shares(&balancer.outside.members).count() > 1;
    let ring = match (cluster, has_ring, record.ring) {
        (true, ..) | (_, false, _) => 0,
        // One that should be there, and is not.
        (_, true, 0) => u32::MAX,
        (_, true, ring) => ring,
    };
    Entry {
        service: record.number,
        inside: if cluster { inside } else { external },
        outside: if cluster { inside } else { outside },
        ring,
        affinity: record.affinity,
        flags: flags(balancer, at, kind),
    }
}
