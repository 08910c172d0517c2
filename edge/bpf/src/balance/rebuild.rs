//! What the tables say, made a shadow of again: at start, after a write that failed, and whenever somebody
//! wants to know.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use watari_abi::{
    Address, Backend, Frontend as Entry, FrontendKey, PortRangeKey, ServiceName as Text, Set,
    SourceRangeKey, config_flags, frontend_flags,
};
use watari_tables::{BalancerName, Others};

use super::change::ring_of;
use super::layer::{Array, Layer, Table, Tables};
use super::numbers::{self, Numbers};
use super::observe::wrong;
use super::shadow::{AtAddress, Kept, Later, Record, Role, Rooms, Shadow, Strays};
use super::stretches::{Stretch, Stretches};
use super::words::{self, Members};
use crate::error::BpfError;

/// Unused slots that are rather read than skipped by another system call.
const GAP: u32 = 1024;

/// The entry of an address; none if it needs none.
pub(super) fn address_entry(at: AtAddress) -> Option<Entry> {
    let flags = [
        (
            at.others == Some(Others::Refused),
            frontend_flags::REFUSES_OTHERS,
        ),
        (at.ranges > 0, frontend_flags::HAS_RANGES),
        // It is there for the ranges alone.
        (at.others.is_none(), frontend_flags::NODE_PORT),
    ];
    let flags = flags.iter().filter(|(set, _)| *set).map(|(_, bit)| bit);
    (at.others.is_some() || at.ranges > 0).then(|| Entry {
        flags: flags.fold(0, |flags, bit| flags | bit),
        ..Entry::default()
    })
}

fn others_of(entry: &Entry) -> Option<Others> {
    if entry.flags & frontend_flags::REFUSES_OTHERS != 0 {
        Some(Others::Refused)
    } else if entry.flags & frontend_flags::NODE_PORT != 0 {
        None
    } else {
        Some(Others::Stack)
    }
}

/// The members of a set, by what is in its slots.
pub(super) fn members(shadow: &Shadow, set: u32) -> Members {
    let mut members = BTreeMap::new();
    for number in shadow.slots(set) {
        if let Some(backend) = shadow.numbers.get(*number) {
            let weight = members.entry(numbers::place(backend)).or_insert(0_u8);
            *weight = weight.saturating_add(1);
        }
    }
    Arc::new(members)
}

/// What the tables have of one number.
#[derive(Default)]
struct Group {
    frontends: Vec<(FrontendKey, Entry)>,
    ranges: Vec<(PortRangeKey, Entry)>,
    sources: Vec<SourceRangeKey>,
}

impl Group {
    fn first(&self, cluster: bool) -> Option<&Entry> {
        let frontends = self.frontends.iter().map(|(_, entry)| entry);
        let ranges = self.ranges.iter().map(|(_, entry)| entry);
        let is_cluster = |entry: &&Entry| entry.flags & frontend_flags::CLUSTER_ADDRESS != 0;
        frontends
            .chain(ranges)
            .find(|entry| is_cluster(entry) == cluster)
    }

    /// Address and protocol of some frontend.
    fn place(&self) -> Option<(Address, u8)> {
        let frontend = self
            .frontends
            .first()
            .map(|(key, _)| (key.address, key.protocol));
        let range = self
            .ranges
            .first()
            .map(|(key, _)| (key.address, key.protocol));
        frontend.or(range)
    }

    fn record(&self, number: u32) -> Option<(Record, bool)> {
        let (address, protocol) = self.place()?;
        let (cluster, other) = (self.first(true), self.first(false));
        let inside = cluster.or(other)?;
        let external = other.map_or(inside.inside, |entry| entry.inside);
        let outside = other.map_or(inside.inside, |entry| entry.outside);
        let record = Record {
            number,
            protocol: words::protocol_of(protocol)?,
            roles: [inside.inside, external, outside],
            ring: other.map_or(0, |entry| entry.ring),
            ring_right: false,
            frontends: self.frontends.iter().map(|(key, _)| *key).collect(),
            ranges: self.ranges.iter().map(|(key, _)| *key).collect(),
            sources: self.sources.clone(),
            affinity: inside.affinity,
        };
        Some((record, !address.is_mapped()))
    }
}

/// Everything that is read before sense is made of it.
struct Read {
    names: BTreeMap<u32, Text>,
    groups: BTreeMap<u32, Group>,
    headers: BTreeMap<u32, Set>,
    backends: Vec<Backend>,
    /// The largest number of a Service's port that anybody knows.
    last_name: u32,
}

/// Frontends and ranges by the number of their Service's port.
fn group(shadow: &Shadow, groups: &mut BTreeMap<u32, Group>) {
    for (key, entry) in &shadow.frontends {
        if !words::is_address(key) {
            let group = groups.entry(entry.service).or_default();
            group.frontends.push((*key, *entry));
        }
    }
    for (key, entry) in &shadow.ranges {
        let group = groups.entry(entry.service).or_default();
        group.ranges.push((*key, *entry));
    }
}

fn read<L: Layer>(tables: &Tables<L>, shadow: &mut Shadow) -> Result<Read, BpfError> {
    let mut names = BTreeMap::new();
    tables.names.each(&mut |number, text| {
        names.insert(number, text);
    })?;
    let mut groups: BTreeMap<u32, Group> = BTreeMap::new();
    tables.frontends.each(&mut |key, entry| {
        shadow.frontends.insert(key, entry);
    })?;
    tables.ranges.each(&mut |key, entry| {
        shadow.ranges.insert(key, entry);
    })?;
    group(shadow, &mut groups);
    tables
        .sources
        .each(&mut |key, _| groups.entry(key.service).or_default().sources.push(key))?;
    tables
        .cidrs
        .each(&mut |key, _| shadow.cidrs.extend(words::range_of(&key)))?;
    let mut headers = BTreeMap::new();
    tables.sets.each(&mut |number, set| {
        if set != Set::default() {
            headers.insert(number, set);
        }
    })?;
    let mut backends = Vec::new();
    tables.backends.each(&mut |number, backend| {
        if backend != Backend::default() {
            backends.resize(number as usize, Backend::default());
            backends.push(backend);
        }
    })?;
    let mut last_name = 0;
    tables
        .affinities
        .each(&mut |key, _| last_name = last_name.max(key.service))?;
    let known = names.keys().chain(groups.keys()).copied().max();
    last_name = last_name.max(known.unwrap_or(0));
    let config = tables.config.stretch(0, 1)?;
    let flags = config.first().map_or(0, |config| config.flags);
    shadow.told_ranges = flags & config_flags::PORT_RANGES != 0;
    for group in groups.values_mut() {
        group.frontends.sort_unstable_by_key(|(key, _)| *key);
        group.ranges.sort_unstable_by_key(|(key, _)| *key);
        shadow.source_count += u32::try_from(group.sources.len()).unwrap_or(0);
    }
    Ok(Read {
        names,
        groups,
        headers,
        backends,
        last_name,
    })
}

fn empty(rooms: &Rooms) -> Shadow {
    Shadow {
        records: BTreeMap::new(),
        frontends: HashMap::new(),
        ranges: HashMap::new(),
        addresses: HashMap::new(),
        cidrs: BTreeSet::new(),
        sets: HashMap::new(),
        free_sets: BTreeSet::new(),
        next_set: 1,
        stretches: Stretches::new(rooms.slots),
        numbers: Numbers::new(rooms.backends),
        names: HashMap::new(),
        next_name: 1,
        source_count: 0,
        later: Vec::new(),
        strays: Strays::default(),
        told_ranges: false,
    }
}

/// Makes a shadow of what the tables say. What `before` knew of times goes on.
pub(super) fn rebuild<L: Layer>(
    tables: &Tables<L>,
    rooms: &Rooms,
    before: Option<&Shadow>,
) -> Result<Shadow, BpfError> {
    let mut shadow = empty(rooms);
    let mut read = read(tables, &mut shadow)?;
    let before_name = before.map_or(1, |before| before.next_name);
    shadow.next_name = read.last_name.saturating_add(1).max(before_name);
    take_records(&mut shadow, &mut read);
    take_sets(&mut shadow, &read, rooms, before);
    let rings = read_slots(tables, &mut shadow, &read)?;
    let mut uses = HashMap::new();
    for slot in shadow.sets.values().flat_map(|kept| &kept.slots) {
        *uses.entry(*slot).or_insert(0) += 1;
    }
    shadow.numbers = Numbers::found(rooms.backends, &read.backends, &uses);
    if let Some(before) = before {
        shadow.numbers.rest_as(&before.numbers);
        for (time, what) in &mut shadow.later {
            let known = before.later.iter().find(|(_, of)| of == what);
            *time = known.map_or(*time, |(time, _)| *time);
        }
    }
    check_rings(&mut shadow, &rings);
    take_wrong(&mut shadow);
    take_addresses(&mut shadow);
    Ok(shadow)
}

fn take_records(shadow: &mut Shadow, read: &mut Read) {
    for (number, group) in std::mem::take(&mut read.groups) {
        let named = read.names.get(&number).and_then(|text| {
            let (record, v6) = group.record(number)?;
            Some((words::name_of(text, v6)?, record))
        });
        if let Some((name, record)) = named
            && !shadow.records.contains_key(&name)
        {
            let name = Arc::new(name);
            shadow.names.insert(number, name.clone());
            shadow.records.insert(name, record);
            continue;
        }
        let strays = &mut shadow.strays;
        let entries = group.frontends.len() + group.ranges.len() + group.sources.len();
        strays.words.push(format!(
            "{entries} entries of the Service {number}, which has no name"
        ));
        strays
            .frontends
            .extend(group.frontends.iter().map(|(key, _)| *key));
        strays
            .ranges
            .extend(group.ranges.iter().map(|(key, _)| *key));
        strays.sources.extend(group.sources);
    }
    for (number, text) in &read.names {
        if shadow.names.contains_key(number) {
            continue;
        }
        // Of what is gone; or it was about to come.
        let name = words::name_of(text, false).unwrap_or_else(|| BalancerName {
            service: watari_model::ServiceName {
                namespace: String::new(),
                name: format!("{number}"),
            },
            port: "".into(),
            v6: false,
        });
        shadow.names.insert(*number, Arc::new(name));
        shadow.later.push((None, Later::Name(*number)));
    }
}

/// Where a header says that its set is, if that can be.
fn stretch_of(set: Set, rooms: &Rooms) -> Option<Stretch> {
    let order = Stretch::order_for(set.count);
    let stretch = Stretch {
        base: set.base,
        order,
    };
    let end = u64::from(set.base) + (1 << order);
    let aligned = set.base.trailing_zeros() >= u32::from(order);
    (set.count > 0 && set.base > 0 && aligned && end <= u64::from(rooms.slots)).then_some(stretch)
}

fn take_sets(shadow: &mut Shadow, read: &Read, rooms: &Rooms, before: Option<&Shadow>) {
    let mut claimed = BTreeSet::new();
    for (name, record) in &mut shadow.records {
        let mut own = BTreeSet::new();
        for set in record.roles.iter_mut().chain([&mut record.ring]) {
            if *set >= rooms.sets || *set != 0 && claimed.contains(set) {
                shadow
                    .strays
                    .words
                    .push(format!("the set {set} of {name}, which is another's"));
                *set = 0;
            }
            own.insert(*set);
        }
        claimed.extend(own);
    }
    claimed.remove(&0);
    // Slots that nothing else may have: of sets that are asked for first, then of others.
    let mut taken: BTreeMap<u32, Stretch> = BTreeMap::new();
    let mut take = |stretch: Stretch| {
        let end = stretch.base + stretch.room();
        let overlaps = taken.range(..end).next_back();
        let overlaps = overlaps.is_some_and(|(base, of)| base + of.room() > stretch.base);
        if !overlaps {
            taken.insert(stretch.base, stretch);
        }
        !overlaps
    };
    let is_orphan = |number: &u32| !claimed.contains(number);
    for orphans in [false, true] {
        for (number, set) in &read.headers {
            if is_orphan(number) != orphans || *number == 0 {
                continue;
            }
            let stretch = stretch_of(*set, rooms).filter(|stretch| take(*stretch));
            let kept = Kept {
                stretch,
                slots: Vec::new(),
            };
            shadow.sets.insert(*number, kept);
            if orphans {
                shadow.later.push((None, Later::Set(*number)));
            }
        }
    }
    for number in &claimed {
        shadow.sets.entry(*number).or_default();
    }
    for (time, what) in before.map_or(&[][..], |before| &before.later) {
        if let Later::Stretch(stretch) = what
            && take(*stretch)
        {
            shadow.later.push((*time, *what));
        }
    }
    let last = shadow.sets.keys().max().copied().unwrap_or(0);
    shadow.next_set = last + 1;
    shadow.free_sets = (1..last)
        .filter(|number| !shadow.sets.contains_key(number))
        .collect();
    shadow.stretches = Stretches::except(rooms.slots, taken.into_values().collect());
}

/// Reads what is in the slots of sets that are asked for; gives that of rings apart.
fn read_slots<L: Layer>(
    tables: &Tables<L>,
    shadow: &mut Shadow,
    read: &Read,
) -> Result<HashMap<u32, Vec<u32>>, BpfError> {
    let roles = shadow.records.values().flat_map(|record| record.roles);
    let roles: BTreeSet<u32> = roles.collect();
    let rings: BTreeSet<u32> = shadow.records.values().map(|record| record.ring).collect();
    let mut wanted: Vec<(u32, u32, u32)> = roles
        .union(&rings)
        .filter_map(|number| {
            let stretch = shadow.sets.get(number)?.stretch?;
            let count = read.headers.get(number)?.count;
            Some((stretch.base, count, *number))
        })
        .collect();
    wanted.sort_unstable();
    let mut found = HashMap::new();
    let mut rest = &wanted[..];
    while let [(first, count, _), ..] = rest {
        let mut end = first + count;
        let mut upto = 1;
        while let Some((base, count, _)) = rest.get(upto)
            && *base <= end + GAP
        {
            end = base + count;
            upto += 1;
        }
        let slots = tables.slots.stretch(*first, end - first)?;
        for (base, count, number) in &rest[..upto] {
            let at = (base - first) as usize;
            let own = slots.get(at..at + *count as usize).unwrap_or_default();
            if rings.contains(number) {
                found.insert(*number, own.to_vec());
            } else if let Some(kept) = shadow.sets.get_mut(number) {
                kept.slots = own.to_vec();
            }
        }
        rest = &rest[upto..];
    }
    Ok(found)
}

fn check_rings(shadow: &mut Shadow, rings: &HashMap<u32, Vec<u32>>) {
    let mut right = Vec::new();
    for (name, record) in &shadow.records {
        let is_right = record.ring == 0 || {
            let members = members(shadow, record.roles[Role::Outside as usize]);
            rings
                .get(&record.ring)
                .is_some_and(|ring| *ring == ring_of(shadow, &members))
        };
        if is_right {
            right.push(name.clone());
        } else {
            let words = format!("the table of Maglev of {name}, which is of other members");
            shadow.strays.words.push(words);
        }
    }
    for name in right {
        if let Some(record) = shadow.records.get_mut(&name) {
            record.ring_right = true;
        }
    }
}

/// A frontend that is not as the others of its balancer is either wanted, and then written again, or is
/// nobody's.
fn take_wrong(shadow: &mut Shadow) {
    let found: Vec<_> = shadow
        .records
        .iter()
        .map(|(name, record)| (name.clone(), wrong(shadow, name, record)))
        .filter(|(_, (frontends, ranges))| !frontends.is_empty() || !ranges.is_empty())
        .collect();
    for (name, (frontends, ranges)) in found {
        let count = frontends.len() + ranges.len();
        let words = format!("{count} frontends of {name}, which are not as its others");
        shadow.strays.words.push(words);
        if let Some(record) = shadow.records.get_mut(&name) {
            record.frontends.retain(|key| !frontends.contains(key));
            record.ranges.retain(|key| !ranges.contains(key));
        }
        shadow.strays.frontends.extend(frontends);
        shadow.strays.ranges.extend(ranges);
    }
}

fn take_addresses(shadow: &mut Shadow) {
    for (key, entry) in &shadow.frontends {
        if words::is_address(key) {
            let at = shadow.addresses.entry(key.address).or_default();
            at.others = others_of(entry);
        }
    }
    for key in shadow.ranges.keys() {
        shadow.addresses.entry(key.address).or_default().ranges += 1;
    }
}
