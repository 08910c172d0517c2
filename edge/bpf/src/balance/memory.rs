use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use watari_abi::maps;

use super::layer::{Array, Layer, Table};
use crate::error::BpfError;
use crate::map::Plain;

/// One write: the table, the key's bytes, and the value's; none: it was removed.
pub type Write = (&'static str, Vec<u8>, Option<Vec<u8>>);

/// Entries by table and key, as bytes.
pub type Entries = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

#[derive(Debug, Default)]
struct State {
    entries: Entries,
    journal: Vec<Write>,
    calls: usize,
    /// Writes that still succeed; none: all.
    left: Option<usize>,
    rooms: BTreeMap<&'static str, u32>,
}

/// Tables in memory, for tests: they count what is written, and fail when told to. Whoever clones
/// it has the same tables.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<State>>);

impl Memory {
    /// With these entries.
    pub fn with(entries: Entries) -> Self {
        let memory = Self::default();
        memory.state().entries = entries;
        memory
    }

    /// Gives a table another size than it has by default.
    pub fn resize(&self, table: &'static str, room: u32) {
        self.state().rooms.insert(table, room);
    }

    /// After so many writes, all fail; none: none does.
    pub fn fail_after(&self, writes: Option<usize>) {
        self.state().left = writes;
    }

    /// Every write since the last time that this was asked, in order.
    pub fn take_journal(&self) -> Vec<Write> {
        std::mem::take(&mut self.state().journal)
    }

    /// System calls that the kernel would have had, since the last time that this was asked.
    pub fn take_calls(&self) -> usize {
        std::mem::take(&mut self.state().calls)
    }

    /// What the tables hold.
    pub fn entries(&self) -> Entries {
        self.state().entries.clone()
    }

    /// Writes as somebody else would: nobody counts it.
    pub fn tamper(&self, with: &Write) {
        write(&mut self.state().entries, with);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of its tables.
#[derive(Debug)]
pub struct MemoryTable<K, V> {
    memory: Memory,
    name: &'static str,
    types: PhantomData<(K, V)>,
}

/// Does a write to entries.
pub fn write(entries: &mut Entries, (name, key, value): &Write) {
    // An entry of an array that is zero is one that nobody wrote.
    match value {
        Some(value) if !is_array(name) || value.iter().any(|byte| *byte != 0) => {
            entries.insert((name, key.clone()), value.clone());
        }
        _ => drop(entries.remove(&(*name, key.clone()))),
    }
}

fn is_array(name: &str) -> bool {
    [
        maps::SETS,
        maps::SLOTS,
        maps::BACKENDS,
        maps::BACKEND_LOADS,
        maps::CONFIG,
    ]
    .contains(&name)
}

fn room(name: &str) -> u32 {
    match name {
        maps::FRONTENDS => maps::FRONTENDS_MAX,
        maps::PORT_RANGES => maps::PORT_RANGES_MAX,
        maps::SERVICE_CIDRS => maps::SERVICE_CIDRS_MAX,
        maps::SOURCE_RANGES => maps::SOURCE_RANGES_MAX,
        maps::SERVICE_NAMES => maps::SERVICE_NAMES_MAX,
        maps::AFFINITIES => maps::AFFINITIES_MAX,
        maps::SETS => maps::SETS_MAX,
        maps::SLOTS => maps::SLOTS_MAX,
        maps::BACKENDS | maps::BACKEND_LOADS => maps::BACKENDS_MAX,
        _ => 1,
    }
}

impl<K: Plain, V: Plain> MemoryTable<K, V> {
    fn put(&self, key: &K, value: Option<&V>) -> Result<(), BpfError> {
        let mut state = self.memory.state();
        if let Some(left) = &mut state.left {
            *left = left.checked_sub(1).ok_or_else(|| BpfError::Kernel {
                what: format!("set an entry of the map {}", self.name),
                source: io::Error::from_raw_os_error(libc::ENOMEM),
            })?;
        }
        let key = key.as_bytes().to_vec();
        let write = (self.name, key, value.map(|value| value.as_bytes().to_vec()));
        self::write(&mut state.entries, &write);
        state.journal.push(write);
        Ok(())
    }
}

impl<K: Plain, V: Plain> Table<K, V> for MemoryTable<K, V> {
    fn set(&self, entries: &[(K, V)]) -> Result<(), BpfError> {
        self.memory.state().calls += entries.len().div_ceil(4096);
        entries
            .iter()
            .try_for_each(|(key, value)| self.put(key, Some(value)))
    }

    fn remove(&self, keys: &[K]) -> Result<(), BpfError> {
        self.memory.state().calls += keys.len().div_ceil(4096);
        keys.iter().try_for_each(|key| self.put(key, None))
    }

    fn each(&self, take: &mut dyn FnMut(K, V)) -> Result<(), BpfError> {
        let entries: Vec<_> = {
            let state = self.memory.state();
            let mine = state
                .entries
                .iter()
                .filter(|((name, _), _)| *name == self.name);
            mine.map(|((_, key), value)| (key.clone(), value.clone()))
                .collect()
        };
        for (key, value) in entries {
            if let (Ok(key), Ok(value)) = (K::read_from_bytes(&key), V::read_from_bytes(&value)) {
                take(key, value);
            }
        }
        Ok(())
    }

    fn room(&self) -> u32 {
        let rooms = &self.memory.state().rooms;
        rooms
            .get(self.name)
            .copied()
            .unwrap_or_else(|| room(self.name))
    }
}

impl<V: Plain> Array<V> for MemoryTable<u32, V> {
    fn stretch(&self, first: u32, count: u32) -> Result<Vec<V>, BpfError> {
        let end = first.saturating_add(count).min(self.room());
        let state = self.memory.state();
        let value = |number: u32| {
            let key = (self.name, number.to_ne_bytes().to_vec());
            let value = state.entries.get(&key);
            value
                .and_then(|value| V::read_from_bytes(value).ok())
                .unwrap_or_else(V::new_zeroed)
        };
        Ok((first..end).map(value).collect())
    }
}

impl Layer for Memory {
    type Table<K: Plain, V: Plain> = MemoryTable<K, V>;
    type Array<V: Plain> = MemoryTable<u32, V>;

    fn table<K: Plain, V: Plain>(&self, name: &'static str) -> Result<MemoryTable<K, V>, BpfError> {
        Ok(MemoryTable {
            memory: self.clone(),
            name,
            types: PhantomData,
        })
    }

    fn array<V: Plain>(&self, name: &'static str) -> Result<MemoryTable<u32, V>, BpfError> {
        self.table(name)
    }
}
