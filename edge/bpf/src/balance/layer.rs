//! Where the tables of Services are: in the kernel, or in memory for tests.

use watari_abi::{
    Affinity, AffinityKey, Backend, Config, Frontend, FrontendKey, PortRangeKey, PrefixKey,
    ServiceName, Set, SourceRangeKey, maps,
};

use crate::error::BpfError;
use crate::map::{Map, Plain};
use crate::pins::PinDir;

/// A table of the kernel, or one that stands in for it.
pub trait Table<K, V> {
    /// Sets entries, in this order.
    fn set(&self, entries: &[(K, V)]) -> Result<(), BpfError>;
    /// Removes entries, in this order; those that are not there are none of its business.
    fn remove(&self, keys: &[K]) -> Result<(), BpfError>;
    /// Every entry.
    fn each(&self, take: &mut dyn FnMut(K, V)) -> Result<(), BpfError>;
    /// How many entries it has room for.
    fn room(&self) -> u32;
}

/// One that is an array.
pub trait Array<V>: Table<u32, V> {
    /// A stretch of it.
    fn stretch(&self, first: u32, count: u32) -> Result<Vec<V>, BpfError>;
}

/// Whoever has the tables.
pub trait Layer {
    /// A table of his.
    type Table<K: Plain, V: Plain>: Table<K, V>;
    /// An array of his.
    type Array<V: Plain>: Array<V>;
    /// Opens a table by its name.
    fn table<K: Plain, V: Plain>(&self, name: &'static str) -> Result<Self::Table<K, V>, BpfError>;
    /// Opens an array by its name.
    fn array<V: Plain>(&self, name: &'static str) -> Result<Self::Array<V>, BpfError>;
}

impl<K: Plain, V: Plain> Table<K, V> for Map<K, V> {
    fn set(&self, entries: &[(K, V)]) -> Result<(), BpfError> {
        match entries {
            [(key, value)] => self.insert(key, value),
            entries => self.insert_all(entries),
        }
    }

    fn remove(&self, keys: &[K]) -> Result<(), BpfError> {
        match keys {
            [key] => self.remove(key).map(drop),
            keys => self.remove_all(keys),
        }
    }

    fn each(&self, take: &mut dyn FnMut(K, V)) -> Result<(), BpfError> {
        self.for_each(take)
    }

    fn room(&self) -> u32 {
        self.info().max_entries
    }
}

impl<V: Plain> Array<V> for Map<u32, V> {
    fn stretch(&self, first: u32, count: u32) -> Result<Vec<V>, BpfError> {
        Map::stretch(self, first, count)
    }
}

/// The kernel, by the pins of a generation.
impl Layer for PinDir {
    type Table<K: Plain, V: Plain> = Map<K, V>;
    type Array<V: Plain> = Map<u32, V>;

    fn table<K: Plain, V: Plain>(&self, name: &'static str) -> Result<Map<K, V>, BpfError> {
        Map::open(&self.map(name))
    }

    fn array<V: Plain>(&self, name: &'static str) -> Result<Map<u32, V>, BpfError> {
        Map::open(&self.map(name))
    }
}

/// The tables that this room writes.
pub(super) struct Tables<L: Layer> {
    pub frontends: L::Table<FrontendKey, Frontend>,
    pub ranges: L::Table<PortRangeKey, Frontend>,
    pub cidrs: L::Table<PrefixKey, u32>,
    pub sources: L::Table<SourceRangeKey, u32>,
    pub names: L::Table<u32, ServiceName>,
    pub affinities: L::Table<AffinityKey, Affinity>,
    pub sets: L::Array<Set>,
    pub slots: L::Array<u32>,
    pub backends: L::Array<Backend>,
    pub loads: L::Array<u64>,
    pub config: L::Array<Config>,
}

impl<L: Layer> Tables<L> {
    pub fn open(layer: &L) -> Result<Self, BpfError> {
        Ok(Self {
            frontends: layer.table(maps::FRONTENDS)?,
            ranges: layer.table(maps::PORT_RANGES)?,
            cidrs: layer.table(maps::SERVICE_CIDRS)?,
            sources: layer.table(maps::SOURCE_RANGES)?,
            names: layer.table(maps::SERVICE_NAMES)?,
            affinities: layer.table(maps::AFFINITIES)?,
            sets: layer.array(maps::SETS)?,
            slots: layer.array(maps::SLOTS)?,
            backends: layer.array(maps::BACKENDS)?,
            loads: layer.array(maps::BACKEND_LOADS)?,
            config: layer.array(maps::CONFIG)?,
        })
    }
}
