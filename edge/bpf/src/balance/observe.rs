//! A shadow in the words of `core/tables`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use watari_abi::{Address, Frontend as Entry, FrontendKey, PortRangeKey, frontend_flags};
use watari_tables::{
    Backends, Balancer, BalancerName, Frontend, FrontendKind, Services, ServicesChange,
};

use super::rebuild::members;
use super::shadow::{Record, Role, Shadow};
use super::words::{self, Members, flags, kind_of, ports_of, source_of};
use super::{Compared, Observed};

/// What a shadow says, and what nobody could say.
pub(super) fn observed(shadow: &Shadow) -> Observed {
    let mut observed = Observed {
        strays: strays(shadow),
        ..Observed::default()
    };
    let mut known: HashMap<u32, Members> = HashMap::new();
    for (name, record) in &shadow.records {
        let balancer = balancer(shadow, record, &mut known);
        if lacks_ring(record, &balancer) {
            observed.unfinished.insert((**name).clone());
        }
        observed
            .services
            .balancers
            .insert((**name).clone(), Arc::new(balancer));
    }
    for (address, at) in &shadow.addresses {
        if let Some(others) = at.others {
            observed
                .services
                .addresses
                .insert(IpAddr::from(*address), others);
        }
    }
    observed.services.cidrs.clone_from(&shadow.cidrs);
    observed
}

fn strays(shadow: &Shadow) -> Vec<String> {
    let strays = &shadow.strays;
    let mut words = strays.words.clone();
    let unsaid = strays.frontends.len() + strays.ranges.len() + strays.sources.len();
    if unsaid > 0 && words.is_empty() {
        words.push(format!("{unsaid} entries of no Service"));
    }
    words
}

/// How far a shadow is from what is desired. One balancer after the other is said in words and compared:
/// all of them at once would be as large as what is desired.
pub(super) fn compared(shadow: &Shadow, desired: &Services) -> Compared {
    let mut changes = Vec::new();
    let gone = shadow.records.keys();
    let gone = gone.filter(|name| !desired.balancers.contains_key(&***name));
    changes.extend(gone.map(|name| ServicesChange::Remove((**name).clone())));
    let mut unfinished = Vec::new();
    for (name, wanted) in &desired.balancers {
        let set = || ServicesChange::Set(name.clone(), wanted.clone());
        let Some(record) = shadow.records.get(name) else {
            changes.extend((!wanted.frontends.is_empty()).then(set));
            continue;
        };
        let there = balancer(shadow, record, &mut HashMap::new());
        let is_there = there == **wanted;
        if lacks_ring(record, &there) {
            if is_there {
                unfinished.push(set());
            } else {
                changes.push(set());
            }
        } else if !is_there && !words::same(&there, wanted) {
            changes.push(set());
        }
    }
    for (address, others) in &desired.addresses {
        let at = shadow.addresses.get(&Address::from(*address));
        if at.and_then(|at| at.others) != Some(*others) {
            changes.push(ServicesChange::Address(*address, Some(*others)));
        }
    }
    let there = shadow.addresses.iter();
    let there = there.filter(|(_, at)| at.others.is_some());
    let mut gone: Vec<IpAddr> = there
        .map(|(address, _)| IpAddr::from(*address))
        .filter(|address| !desired.addresses.contains_key(address))
        .collect();
    gone.sort_unstable();
    let gone = gone.into_iter();
    changes.extend(gone.map(|address| ServicesChange::Address(address, None)));
    if !words::same_cidrs(&desired.cidrs, &shadow.cidrs) {
        changes.push(ServicesChange::Cidrs(desired.cidrs.clone()));
    }
    changes.append(&mut unfinished);
    Compared {
        changes,
        strays: strays(shadow),
    }
}

/// Where a record is reached, with an entry of it and all its prefixes.
struct Found {
    at: Frontend,
    kind: FrontendKind,
    entry: Entry,
}

/// Frontends with their entries, by address and port.
fn found(shadow: &Shadow, record: &Record) -> Vec<Found> {
    let exact = record.frontends.iter().filter_map(|key| {
        let entry = *shadow.frontends.get(key)?;
        let port = u16::from_be(key.port);
        Some((key.address, (port, port), false, entry))
    });
    let ranges = record.ranges.iter().filter_map(|key| {
        let entry = *shadow.ranges.get(key)?;
        Some((key.address, ports_of(key)?, true, entry))
    });
    let mut all: Vec<Found> = exact
        .chain(ranges)
        .map(|(address, (first, last), range, entry)| Found {
            at: Frontend {
                address: address.into(),
                first,
                last,
                range,
            },
            kind: kind_of(&entry),
            entry,
        })
        .collect();
    all.sort_unstable_by_key(|found| (found.at.range, found.at));
    all
}

/// Where a record is reached; ranges that meet are one.
pub(super) fn frontends(shadow: &Shadow, record: &Record) -> BTreeMap<Frontend, FrontendKind> {
    let mut all: Vec<(Frontend, FrontendKind)> = Vec::new();
    for Found { at, kind, .. } in found(shadow, record) {
        match all.last_mut() {
            Some((before, of))
                if at.range
                    && (before.range, before.address, *of) == (true, at.address, kind)
                    && before.last.checked_add(1) == Some(at.first) =>
            {
                before.last = at.last;
            }
            _ => all.push((at, kind)),
        }
    }
    all.into_iter().collect()
}

fn balancer(shadow: &Shadow, record: &Record, known: &mut HashMap<u32, Members>) -> Balancer {
    let found = found(shadow, record);
    let first = |cluster: bool| {
        let is = |found: &&Found| (found.kind == FrontendKind::ClusterIp) == cluster;
        found.iter().find(is).map(|found| found.entry)
    };
    let (cluster, other) = (first(true), first(false));
    let has = |entry: Option<Entry>, flag: u32| entry.is_some_and(|entry| entry.flags & flag != 0);
    let mut backends = |role: Role, drops_when_empty: bool| {
        let set = record.roles[role as usize];
        let members = known.entry(set).or_insert_with(|| members(shadow, set));
        Backends {
            members: members.clone(),
            drops_when_empty,
        }
    };
    let drops = |entry: Option<Entry>| has(entry, frontend_flags::INSIDE_DROPS);
    let outside_drops = match other {
        Some(_) => has(other, frontend_flags::OUTSIDE_DROPS),
        None => drops(cluster),
    };
    let limited = |found: &Found| found.entry.flags & frontend_flags::SOURCE_RANGES != 0;
    let sources: BTreeSet<IpNet> = record.sources.iter().filter_map(source_of).collect();
    Balancer {
        protocol: record.protocol,
        frontends: frontends(shadow, record),
        inside: backends(Role::Inside, drops(cluster.or(other))),
        inside_external: backends(Role::InsideExternal, drops(other.or(cluster))),
        outside: backends(Role::Outside, outside_drops),
        keeps_source: has(other, frontend_flags::KEEPS_SOURCE),
        affinity: Some(record.affinity).filter(|seconds| *seconds > 0),
        source_ranges: found.iter().any(limited).then_some(sources),
        least_connections: has(cluster.or(other), frontend_flags::LEAST_CONNECTIONS),
        direct_return: has(other, frontend_flags::DIRECT_RETURN),
    }
}

/// Whether clients outside should be given to backends by a table of Maglev, and are not.
fn lacks_ring(record: &Record, balancer: &Balancer) -> bool {
    let mut kinds = balancer.frontends.values();
    record.ring == 0
        && kinds.any(|kind| *kind != FrontendKind::ClusterIp)
        && !balancer.least_connections
        && words::shares(&balancer.outside.members).count() > 1
}

/// Frontends of a record that are not as its others: somebody was killed while he wrote them.
pub(super) fn wrong(
    shadow: &Shadow,
    name: &BalancerName,
    record: &Record,
) -> (Vec<FrontendKey>, Vec<PortRangeKey>) {
    let balancer = balancer(shadow, record, &mut HashMap::new());
    let is_wrong = |address: Address, protocol: u8, range: bool, entry: &Entry| {
        let at = Frontend {
            address: address.into(),
            first: 0,
            last: 0,
            range,
        };
        at.address.is_ipv6() != name.v6
            || protocol != record.protocol.number()
            || *entry != expected(record, &balancer, &at, kind_of(entry))
    };
    let frontends = record.frontends.iter().filter(|key| {
        let entry = shadow.frontends.get(key);
        entry.is_some_and(|entry| is_wrong(key.address, key.protocol, false, entry))
    });
    let ranges = record.ranges.iter().filter(|key| {
        let entry = shadow.ranges.get(key);
        entry.is_some_and(|entry| is_wrong(key.address, key.protocol, true, entry))
    });
    (frontends.copied().collect(), ranges.copied().collect())
}

/// What a frontend's entry should be.
fn expected(record: &Record, balancer: &Balancer, at: &Frontend, kind: FrontendKind) -> Entry {
    let [inside, external, outside] = record.roles;
    let cluster = kind == FrontendKind::ClusterIp;
    Entry {
        service: record.number,
        inside: if cluster { inside } else { external },
        outside: if cluster { inside } else { outside },
        ring: if cluster { 0 } else { record.ring },
        affinity: record.affinity,
        flags: flags(balancer, at, kind),
    }
}
