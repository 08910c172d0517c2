use std::collections::{BTreeSet, HashSet};

use watari_abi::{
    Backend, Config, FrontendKey, PortRangeKey, PrefixKey, ServiceName as Text, Set,
    SourceRangeKey, config_flags,
};
use watari_tables::BalancerName;

use super::Departed;
use super::layer::{Array, Layer, Table, Tables};
use super::sets::When;
use super::shadow::Shadow;
use super::words::is_address;
use crate::error::BpfError;

/// Writes to sets: slots, and then the headers that say where they are.
#[derive(Debug, Default)]
pub(super) struct SetWrites {
    pub slots: Vec<(u32, u32)>,
    pub headers: Vec<(u32, Set)>,
}

/// What is to be written, for one change or for many: in an order in which a program that runs at any
/// time finds the old choice or the new one. Backends are before slots, slots before the set's header,
/// that before frontends; what goes, goes the other way round.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub names: Vec<(u32, Text)>,
    pub backends: Vec<(u32, Backend)>,
    pub sources: Vec<(SourceRangeKey, u32)>,
    pub early: SetWrites,
    /// Frontends and addresses that are another than before, or gone: as the shadow has them.
    pub frontends: BTreeSet<FrontendKey>,
    pub ranges: BTreeSet<PortRangeKey>,
    pub cidrs: Vec<(PrefixKey, u32)>,
    pub gone_cidrs: Vec<PrefixKey>,
    pub late: SetWrites,
    /// Backends that some slot has no more.
    pub idle: BTreeSet<u32>,
    pub gone_sources: Vec<SourceRangeKey>,
    /// Balancers that it changes. Each at most once: of two changes of a set, the later writes of the
    /// first would come after the earlier ones of the second.
    pub touched: HashSet<BalancerName>,
    pub departed: Vec<Departed>,
}

impl Plan {
    pub fn sets(&mut self, when: When) -> &mut SetWrites {
        match when {
            When::Early => &mut self.early,
            When::Late => &mut self.late,
        }
    }

    /// Writes everything; gives how many entries.
    pub fn write<L: Layer>(
        &self,
        tables: &Tables<L>,
        shadow: &mut Shadow,
        now: u64,
    ) -> Result<u64, BpfError> {
        let mut writer = Writer { writes: 0 };
        writer.set(&tables.names, &self.names)?;
        writer.set(&tables.backends, &self.backends)?;
        writer.set(&tables.sources, &self.sources)?;
        writer.sets(tables, &self.early)?;
        self.write_frontends(tables, shadow, &mut writer)?;
        writer.sets(tables, &self.late)?;
        let idle = self.idle.iter();
        let idle: Vec<_> = idle
            .filter_map(|number| Some((*number, shadow.numbers.rest(*number, now)?)))
            .collect();
        writer.set(&tables.backends, &idle)?;
        writer.remove(&tables.sources, &self.gone_sources)?;
        writer.remove(&tables.cidrs, &self.gone_cidrs)?;
        Ok(writer.writes)
    }

    fn write_frontends<L: Layer>(
        &self,
        tables: &Tables<L>,
        shadow: &mut Shadow,
        writer: &mut Writer,
    ) -> Result<(), BpfError> {
        let has_ranges = !shadow.ranges.is_empty();
        if has_ranges && !shadow.told_ranges {
            writer.tell_ranges(tables, shadow, true)?;
        }
        let there = |key: &&FrontendKey| shadow.frontends.contains_key(key);
        let set = |addresses: bool| {
            let keys = self
                .frontends
                .iter()
                .filter(move |key| is_address(key) == addresses);
            let entries = keys.filter_map(|key| Some((*key, *shadow.frontends.get(key)?)));
            entries.collect::<Vec<_>>()
        };
        let gone = |addresses: bool| {
            let keys = self
                .frontends
                .iter()
                .filter(move |key| is_address(key) == addresses);
            keys.filter(|key| !there(key)).copied().collect::<Vec<_>>()
        };
        let ranges = self.ranges.iter();
        let ranges: Vec<_> = ranges
            .filter_map(|key| Some((*key, *shadow.ranges.get(key)?)))
            .collect();
        let gone_ranges = self
            .ranges
            .iter()
            .filter(|key| !shadow.ranges.contains_key(key));
        let gone_ranges: Vec<_> = gone_ranges.copied().collect();
        writer.set(&tables.frontends, &set(false))?;
        writer.set(&tables.ranges, &ranges)?;
        writer.set(&tables.frontends, &set(true))?;
        writer.set(&tables.cidrs, &self.cidrs)?;
        writer.remove(&tables.ranges, &gone_ranges)?;
        writer.remove(&tables.frontends, &gone(false))?;
        writer.remove(&tables.frontends, &gone(true))?;
        if !has_ranges && shadow.told_ranges {
            writer.tell_ranges(tables, shadow, false)?;
        }
        Ok(())
    }
}

struct Writer {
    writes: u64,
}

impl Writer {
    fn set<K, V>(&mut self, table: &impl Table<K, V>, entries: &[(K, V)]) -> Result<(), BpfError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.writes += entries.len() as u64;
        table.set(entries)
    }

    fn remove<K, V>(&mut self, table: &impl Table<K, V>, keys: &[K]) -> Result<(), BpfError> {
        if keys.is_empty() {
            return Ok(());
        }
        self.writes += keys.len() as u64;
        table.remove(keys)
    }

    fn sets<L: Layer>(&mut self, tables: &Tables<L>, sets: &SetWrites) -> Result<(), BpfError> {
        self.set(&tables.slots, &sets.slots)?;
        self.set(&tables.sets, &sets.headers)
    }

    fn tell_ranges<L: Layer>(
        &mut self,
        tables: &Tables<L>,
        shadow: &mut Shadow,
        there: bool,
    ) -> Result<(), BpfError> {
        let bits = config_flags::PORT_RANGES;
        let flags = if there { bits } else { 0 };
        self.writes += 1;
        set_flags(&tables.config, bits, flags)?;
        shadow.told_ranges = there;
        Ok(())
    }
}

/// Changes these bits of the node's flags, and leaves the others as they are.
pub(super) fn set_flags(
    config: &impl Array<Config>,
    bits: u32,
    flags: u32,
) -> Result<(), BpfError> {
    let mut entry = config.stretch(0, 1)?.first().copied().unwrap_or_default();
    entry.flags = entry.flags & !bits | flags;
    config.set(&[(0, entry)])
}
