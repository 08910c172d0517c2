//! Whether the tables still say what the shadow does. Nearly always they do, and then nobody needs a
//! second shadow: nothing is kept of what is read here.

use std::collections::HashSet;

use watari_abi::{Backend, Set, config_flags};

use super::change::ring_of;
use super::layer::{Array, Layer, Table, Tables};
use super::rebuild::members;
use super::shadow::{Record, Role, Shadow};
use super::words;
use crate::error::BpfError;

/// Unused slots that are rather read than skipped by another system call.
const GAP: u32 = 1024;
/// Slots that are read at once, unless one set has more.
const AT_ONCE: u32 = 16384;

/// Whether a shadow made of the tables now would be this one. It is not asked where something was found
/// that makes no sense: that is for a shadow made anew to say.
pub(super) fn confirms<L: Layer>(tables: &Tables<L>, shadow: &Shadow) -> Result<bool, BpfError> {
    Ok(shadow.strays.is_empty()
        && shadow.strays.words.is_empty()
        && same_entries(tables, shadow)?
        && same_names(tables, shadow)?
        && same_backends(tables, shadow)?
        && same_sets(tables, shadow)?)
}

fn same_entries<L: Layer>(tables: &Tables<L>, shadow: &Shadow) -> Result<bool, BpfError> {
    let (mut same, mut frontends, mut ranges) = (true, 0, 0);
    tables.frontends.each(&mut |key, entry| {
        frontends += 1;
        same &= shadow.frontends.get(&key) == Some(&entry);
    })?;
    tables.ranges.each(&mut |key, entry| {
        ranges += 1;
        same &= shadow.ranges.get(&key) == Some(&entry);
    })?;
    let (mut cidrs, mut sources) = (0, 0);
    tables.cidrs.each(&mut |key, _| {
        cidrs += 1;
        same &= words::range_of(&key).is_some_and(|range| shadow.cidrs.contains(&range));
    })?;
    tables.sources.each(&mut |key, _| {
        sources += 1;
        let record = record_of(shadow, key.service);
        same &= record.is_some_and(|record| record.sources.contains(&key));
    })?;
    let config = tables.config.stretch(0, 1)?;
    let flags = config.first().map_or(0, |config| config.flags);
    let told_ranges = flags & config_flags::PORT_RANGES != 0;
    Ok(same
        && told_ranges == shadow.told_ranges
        && sources == shadow.source_count
        && (frontends, ranges) == (shadow.frontends.len(), shadow.ranges.len())
        && cidrs == shadow.cidrs.len())
}

fn record_of(shadow: &Shadow, number: u32) -> Option<&Record> {
    let record = shadow.records.get(shadow.names.get(&number)?)?;
    (record.number == number).then_some(record)
}

fn same_names<L: Layer>(tables: &Tables<L>, shadow: &Shadow) -> Result<bool, BpfError> {
    let (mut same, mut count) = (true, 0);
    tables.names.each(&mut |number, text| {
        count += 1;
        let name = shadow.names.get(&number);
        same &= name.is_some_and(|name| words::is_text(name, &text));
    })?;
    Ok(same && count == shadow.names.len())
}

fn same_backends<L: Layer>(tables: &Tables<L>, shadow: &Shadow) -> Result<bool, BpfError> {
    let known = shadow.numbers.known();
    let nobody = Backend::default();
    each(&tables.backends, known, &mut |number, backend| {
        *backend == *shadow.numbers.get(number).unwrap_or(&nobody)
    })
}

/// Whether the first entries of an array are all as they should be. Those behind them are not read: there
/// are many, and nothing that was found to be right leads to one.
fn each<V>(
    array: &impl Array<V>,
    count: u32,
    is_right: &mut dyn FnMut(u32, &V) -> bool,
) -> Result<bool, BpfError> {
    let mut first = 0;
    while first < count {
        let some = array.stretch(first, AT_ONCE.min(count - first))?;
        if some.is_empty()
            || !(first..)
                .zip(&some)
                .all(|(number, entry)| is_right(number, entry))
        {
            return Ok(false);
        }
        first += u32::try_from(some.len()).unwrap_or(u32::MAX);
    }
    Ok(true)
}

fn same_sets<L: Layer>(tables: &Tables<L>, shadow: &Shadow) -> Result<bool, BpfError> {
    let mut headers = Vec::with_capacity(shadow.next_set as usize);
    let ours = each(&tables.sets, shadow.next_set, &mut |number, set: &Set| {
        headers.push(*set);
        let kept = shadow.sets.get(&number).and_then(|kept| kept.stretch);
        *set == Set::default() || kept.is_some_and(|stretch| stretch.base == set.base)
    })?;
    if !ours {
        return Ok(false);
    }
    let mut used = Vec::new();
    let mut seen = HashSet::new();
    for record in shadow.records.values() {
        for set in record.roles {
            if !seen.insert(set) || set == 0 {
                continue;
            }
            let Some(kept) = shadow.sets.get(&set) else {
                return Ok(false);
            };
            let count = u32::try_from(kept.slots.len()).unwrap_or(u32::MAX);
            let base = kept.stretch.map_or(0, |stretch| stretch.base);
            if headers.get(set as usize) != Some(&Set { base, count }) {
                return Ok(false);
            }
            if count > 0 {
                used.push((base, count, set));
            }
        }
        if record.ring != 0 && !same_ring(tables, shadow, record, &headers)? {
            return Ok(false);
        }
        seen.clear();
    }
    used.sort_unstable();
    same_slots(tables, shadow, &used)
}

/// Slots of sets, each with its base and count, in the order of their bases.
fn same_slots<L: Layer>(
    tables: &Tables<L>,
    shadow: &Shadow,
    used: &[(u32, u32, u32)],
) -> Result<bool, BpfError> {
    let mut rest = used;
    while let [(first, count, _), ..] = rest {
        let mut end = first + count;
        let mut upto = 1;
        while let Some((base, count, _)) = rest.get(upto)
            && *base <= end + GAP
            && base + count <= first + AT_ONCE
        {
            end = base + count;
            upto += 1;
        }
        let slots = tables.slots.stretch(*first, end.saturating_sub(*first))?;
        for (base, count, set) in &rest[..upto] {
            let at = (base - first) as usize;
            let own = slots.get(at..at + *count as usize);
            // A number that is not known may be somebody's: its entry was not read.
            let known = |number: &u32| shadow.numbers.get(*number).is_some();
            if own != Some(shadow.slots(*set)) || !shadow.slots(*set).iter().all(known) {
                return Ok(false);
            }
        }
        rest = &rest[upto..];
    }
    Ok(true)
}

fn same_ring<L: Layer>(
    tables: &Tables<L>,
    shadow: &Shadow,
    record: &Record,
    headers: &[Set],
) -> Result<bool, BpfError> {
    let stretch = shadow.sets.get(&record.ring).and_then(|kept| kept.stretch);
    let (Some(header), Some(stretch)) = (headers.get(record.ring as usize), stretch) else {
        return Ok(false);
    };
    let members = members(shadow, record.roles[Role::Outside as usize]);
    let ring = ring_of(shadow, &members);
    let count = u32::try_from(ring.len()).unwrap_or(u32::MAX);
    let is = Set {
        base: stretch.base,
        count,
    };
    Ok(record.ring_right && *header == is && tables.slots.stretch(stretch.base, count)? == ring)
}
