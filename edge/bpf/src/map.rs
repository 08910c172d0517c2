use std::io;
use std::marker::PhantomData;
use std::path::Path;

use watari_abi::{Counter, Reason, Tally};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::error::{BpfError, Doing};
use crate::sys::{BatchEnd, Cursor, MapFd, MapInfo, MapKind, Pinned, lacks_batches};

/// Entries that one system call reads or writes.
const BATCH: usize = 4096;

/// What keys and values are: plain bytes.
pub trait Plain: FromBytes + IntoBytes + Immutable + KnownLayout + Copy {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// A map with keys `K` and values `V`.
#[derive(Debug)]
pub struct Map<K, V> {
    fd: MapFd,
    name: String,
    types: PhantomData<(K, V)>,
}

impl<K: Plain, V: Plain> Map<K, V> {
    /// Opens a pinned map, if its keys and values have the sizes of `K` and `V`.
    pub fn open(path: &Path) -> Result<Self, BpfError> {
        let fd = MapFd::open(path).doing(|| format!("open the map {}", path.display()))?;
        Self::from_fd(fd)
    }

    /// Takes an open map, if its keys and values have the sizes of `K` and `V`.
    pub fn from_fd(fd: MapFd) -> Result<Self, BpfError> {
        let MapInfo { name, .. } = fd.info().clone();
        if fd.key_bytes() != size_of::<K>() || fd.value_bytes() != size_of::<V>() {
            let found = (fd.key_bytes(), fd.value_bytes());
            let wanted = (size_of::<K>(), size_of::<V>());
            return Err(BpfError::Layout {
                map: name,
                found,
                wanted,
            });
        }
        let types = PhantomData;
        Ok(Self { fd, name, types })
    }

    /// What the kernel says about it.
    pub fn info(&self) -> &MapInfo {
        self.fd.info()
    }

    #[cfg(feature = "load")]
    pub(crate) fn fd(&self) -> &MapFd {
        &self.fd
    }

    /// The value of `key`.
    pub fn get(&self, key: &K) -> Result<Option<V>, BpfError> {
        let mut value = V::new_zeroed();
        let found = self.fd.lookup(key.as_bytes(), value.as_mut_bytes());
        let found = found.doing(|| format!("read an entry of the map {}", self.name))?;
        Ok(found.then_some(value))
    }

    /// Sets the value of `key`.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), BpfError> {
        let done = self.fd.update(key.as_bytes(), value.as_bytes());
        done.doing(|| format!("set an entry of the map {}", self.name))
    }

    /// Sets the value of `key` if it has none; false if it has one.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, BpfError> {
        let done = self.fd.insert_new(key.as_bytes(), value.as_bytes());
        done.doing(|| format!("add an entry to the map {}", self.name))
    }

    /// Removes `key`; false if it was not there.
    pub fn remove(&self, key: &K) -> Result<bool, BpfError> {
        let done = self.fd.delete(key.as_bytes());
        done.doing(|| format!("remove an entry of the map {}", self.name))
    }

    /// Sets many values, by as few system calls as the kernel allows.
    pub fn insert_all(&self, entries: &[(K, V)]) -> Result<(), BpfError> {
        for chunk in entries.chunks(BATCH) {
            let keys = bytes_of(chunk.iter().map(|(key, _)| key));
            let values = bytes_of(chunk.iter().map(|(_, value)| value));
            put_all(&self.fd, &keys, &values)
                .doing(|| format!("set entries of the map {}", self.name))?;
        }
        Ok(())
    }

    /// Removes many keys; those that are not there are none of its business.
    pub fn remove_all(&self, keys: &[K]) -> Result<(), BpfError> {
        for chunk in keys.chunks(BATCH) {
            delete_all(&self.fd, &bytes_of(chunk.iter()))
                .doing(|| format!("remove entries of the map {}", self.name))?;
        }
        Ok(())
    }

    /// Hands every entry to `take`, some thousands a system call. What comes or goes meanwhile
    /// may be missed.
    pub fn for_each(&self, mut take: impl FnMut(K, V)) -> Result<(), BpfError> {
        let mut walk = Walk::new(&self.fd);
        let what = || format!("read the map {}", self.name);
        while let Some(chunk) = walk.next_chunk().doing(what)? {
            for (key, value) in chunk {
                if let (Ok(key), Ok(value)) = (K::read_from_bytes(key), V::read_from_bytes(value)) {
                    take(key, value);
                }
            }
        }
        Ok(())
    }

    /// Every entry.
    pub fn entries(&self) -> Result<Vec<(K, V)>, BpfError> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }
}

/// A map with a value for each CPU.
#[derive(Debug)]
pub struct PerCpuMap<K> {
    fd: MapFd,
    name: String,
    key: PhantomData<K>,
}

/// What all CPUs have counted together.
fn sum(values: &[u8]) -> Tally {
    let mut sum = Tally::default();
    for value in values.chunks_exact(size_of::<Tally>()) {
        if let Ok(tally) = Tally::read_from_bytes(value) {
            sum.packets = sum.packets.wrapping_add(tally.packets);
            sum.bytes = sum.bytes.wrapping_add(tally.bytes);
        }
    }
    sum
}

impl<K: Plain> PerCpuMap<K> {
    /// Opens a pinned map of tallies by CPU.
    pub fn open(path: &Path) -> Result<Self, BpfError> {
        let fd = MapFd::open(path).doing(|| format!("open the map {}", path.display()))?;
        let info = fd.info();
        let per_cpu = info.kind.is_some_and(MapKind::per_cpu);
        let found = (info.key_size as usize, info.value_size as usize);
        let wanted = (size_of::<K>(), size_of::<Tally>());
        let name = info.name.clone();
        if found != wanted || !per_cpu {
            return Err(BpfError::Layout {
                map: name,
                found,
                wanted,
            });
        }
        Ok(Self {
            fd,
            name,
            key: PhantomData,
        })
    }

    /// The sum over all CPUs.
    pub fn sum(&self, key: &K) -> Result<Tally, BpfError> {
        let mut values = vec![0; self.fd.value_bytes()];
        let found = self.fd.lookup(key.as_bytes(), &mut values);
        found.doing(|| format!("read an entry of the map {}", self.name))?;
        Ok(sum(&values))
    }

    /// Every entry, with its sum over all CPUs.
    pub fn sums(&self) -> Result<Vec<(K, Tally)>, BpfError> {
        let mut walk = Walk::new(&self.fd);
        let mut all = Vec::new();
        let what = || format!("read the map {}", self.name);
        while let Some(chunk) = walk.next_chunk().doing(what)? {
            for (key, values) in chunk {
                if let Ok(key) = K::read_from_bytes(key) {
                    all.push((key, sum(values)));
                }
            }
        }
        Ok(all)
    }
}

impl PerCpuMap<u32> {
    /// What was counted.
    pub fn counters(&self) -> Result<Vec<(Counter, Tally)>, BpfError> {
        let each = Counter::ALL.iter();
        each.map(|counter| Ok((*counter, self.sum(&(*counter as u32))?)))
            .collect()
    }

    /// What was dropped, by reason.
    pub fn drops(&self) -> Result<Vec<(Reason, Tally)>, BpfError> {
        let each = Reason::ALL.iter();
        each.map(|reason| Ok((*reason, self.sum(&u32::from(*reason as u16))?)))
            .collect()
    }
}

fn bytes_of<'a, T: Plain + 'a>(items: impl Iterator<Item = &'a T>) -> Vec<u8> {
    items
        .flat_map(|item| item.as_bytes().iter().copied())
        .collect()
}

/// Sets entries, all at once or, where the map knows no batches, one by one.
pub(crate) fn put_all(map: &MapFd, keys: &[u8], values: &[u8]) -> io::Result<()> {
    match map.update_batch(keys, values) {
        Ok(()) => Ok(()),
        Err((_, error)) if lacks_batches(&error) => {
            let keys = keys.chunks_exact(map.key_bytes());
            let values = values.chunks_exact(map.value_bytes());
            keys.zip(values)
                .try_for_each(|(key, value)| map.update(key, value))
        }
        Err((_, error)) => Err(error),
    }
}

/// Removes keys that may be there.
pub(crate) fn delete_all(map: &MapFd, keys: &[u8]) -> io::Result<()> {
    let size = map.key_bytes();
    let mut rest = keys;
    while !rest.is_empty() {
        match map.delete_batch(rest) {
            Ok(()) => return Ok(()),
            // It stops at what is not there; that one is skipped.
            Err((done, error)) if error.raw_os_error() == Some(libc::ENOENT) => {
                rest = rest.get((done + 1) * size..).unwrap_or_default();
            }
            Err((_, error)) if lacks_batches(&error) => {
                return rest
                    .chunks_exact(size)
                    .try_for_each(|key| map.delete(key).map(drop));
            }
            Err((_, error)) => return Err(error),
        }
    }
    Ok(())
}

/// A walk over all entries of a map, by batches or, where it knows none, key by key.
pub(crate) struct Walk<'a> {
    map: &'a MapFd,
    keys: Vec<u8>,
    values: Vec<u8>,
    cursor: Cursor,
    singly: bool,
    /// Key by key, the last one seen.
    last: Option<Vec<u8>>,
    /// Entries it may still see: a map that is written meanwhile could be walked forever.
    left: usize,
    end: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(map: &'a MapFd) -> Self {
        let left = (map.info().max_entries as usize).saturating_mul(2) + BATCH;
        Self {
            map,
            keys: Vec::new(),
            values: Vec::new(),
            cursor: Cursor::default(),
            singly: false,
            last: None,
            left,
            end: false,
        }
    }

    /// The next entries as bytes; none at the end.
    pub(crate) fn next_chunk(
        &mut self,
    ) -> io::Result<Option<impl Iterator<Item = (&[u8], &[u8])> + use<'_>>> {
        if self.end || self.left == 0 {
            return Ok(None);
        }
        self.keys.clear();
        self.values.clear();
        if !self.singly {
            let read = self
                .map
                .dump(&mut self.cursor, BATCH, &mut self.keys, &mut self.values);
            match read {
                Ok(end) => self.end = end == BatchEnd::End,
                Err(error) if lacks_batches(&error) => self.singly = true,
                Err(error) => return Err(error),
            }
        }
        if self.singly {
            self.read_singly()?;
        }
        let (key, value) = (self.map.key_bytes(), self.map.value_bytes());
        self.left = self.left.saturating_sub(self.keys.len() / key.max(1));
        Ok(Some(
            self.keys
                .chunks_exact(key)
                .zip(self.values.chunks_exact(value)),
        ))
    }

    fn read_singly(&mut self) -> io::Result<()> {
        let mut last = self.last.take();
        let mut next = vec![0; self.map.key_bytes()];
        let mut value = vec![0; self.map.value_bytes()];
        for _ in 0..BATCH {
            if !self.map.next_key(last.as_deref(), &mut next)? {
                self.end = true;
                break;
            }
            if self.map.lookup(&next, &mut value)? {
                self.keys.extend_from_slice(&next);
                self.values.extend_from_slice(&value);
            }
            last = Some(next.clone());
        }
        self.last = last;
        Ok(())
    }
}
