use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::object::{Pinned, info, raw};
use super::{
    ENOTSUPP, address, address_mut, bpf, bpf_fd, command, length, object_name, text_of,
    wrong_length,
};

/// `BPF_F_NO_PREALLOC`.
pub const NO_PREALLOC: u32 = 1;
/// `BPF_NOEXIST`.
const NOEXIST: u64 = 1;

/// Kinds of maps (`enum bpf_map_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Hash.
    Hash = 1,
    /// Array.
    Array = 2,
    /// Hash with a value for each CPU.
    PerCpuHash = 5,
    /// Array with a value for each CPU.
    PerCpuArray = 6,
    /// Hash that evicts what was least recently used.
    LruHash = 9,
    /// The same with a value for each CPU.
    LruPerCpuHash = 10,
    /// Longest prefix.
    LpmTrie = 11,
    /// Ring buffer.
    RingBuf = 27,
}

impl MapKind {
    /// The kind of that number, if this crate knows it.
    pub fn of(number: u32) -> Option<Self> {
        [
            Self::Hash,
            Self::Array,
            Self::PerCpuHash,
            Self::PerCpuArray,
            Self::LruHash,
            Self::LruPerCpuHash,
            Self::LpmTrie,
            Self::RingBuf,
        ]
        .into_iter()
        .find(|kind| *kind as u32 == number)
    }

    /// Whether every CPU has a value of its own.
    pub fn per_cpu(self) -> bool {
        matches!(
            self,
            Self::PerCpuHash | Self::PerCpuArray | Self::LruPerCpuHash
        )
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct RawMapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    value_type: u32,
    namespace: [u64; 2],
}

/// What the kernel says about a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapInfo {
    /// Its number.
    pub id: u32,
    /// Its name, up to fifteen bytes.
    pub name: String,
    /// Its kind, if this crate knows it.
    pub kind: Option<MapKind>,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value, of one CPU.
    pub value_size: u32,
    /// Entries it has room for; bytes of a ring.
    pub max_entries: u32,
    /// `BPF_F_…`.
    pub flags: u32,
}

/// A map, with what is needed to know how long its keys and values are.
#[derive(Debug)]
pub struct MapFd {
    fd: OwnedFd,
    info: MapInfo,
    /// Bytes of a key, as buffers are measured.
    key: usize,
    /// Bytes that one look-up writes: for a per-CPU map those of every CPU.
    value: usize,
}

impl AsFd for MapFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Pinned for MapFd {
    fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let raw: RawMapInfo = info(fd.as_fd())?;
        let info = MapInfo {
            id: raw.id,
            name: text_of(raw.name),
            kind: MapKind::of(raw.kind),
            key_size: raw.key_size,
            value_size: raw.value_size,
            max_entries: raw.max_entries,
            flags: raw.flags,
        };
        let one = info.value_size as usize;
        let value = match info.kind {
            Some(kind) if kind.per_cpu() => one.next_multiple_of(8) * possible_cpus()?,
            Some(_) => one,
            // Nobody knows how much the kernel would write.
            None => return Err(wrong_length("a map of an unknown kind, or no map:")),
        };
        let key = info.key_size as usize;
        Ok(Self {
            fd,
            info,
            key,
            value,
        })
    }
}

#[derive(FromZeros)]
#[repr(C)]
struct CreateAttr {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
}

#[derive(FromZeros)]
#[repr(C)]
struct ElementAttr {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[derive(FromZeros)]
#[repr(C)]
struct BatchAttr {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// How far a dump of a map is.
#[derive(Debug, Clone, Default)]
pub struct Cursor(Option<Vec<u8>>);

/// Whether a dump is at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchEnd {
    /// There may be more.
    More,
    /// That was all.
    End,
}

impl MapFd {
    /// Makes a map, pinned nowhere.
    pub fn create(
        name: &str,
        kind: MapKind,
        (key_size, value_size): (u32, u32),
        max_entries: u32,
        flags: u32,
    ) -> io::Result<Self> {
        let mut attr = CreateAttr::new_zeroed();
        attr.kind = kind as u32;
        attr.key_size = key_size;
        attr.value_size = value_size;
        attr.max_entries = max_entries;
        attr.flags = flags;
        attr.name = object_name(name);
        // SAFETY: the attribute holds no address.
        Self::from_fd(unsafe { bpf_fd(command::MAP_CREATE, &mut attr) }?)
    }

    /// What it is.
    pub fn info(&self) -> &MapInfo {
        &self.info
    }

    /// Bytes of a key.
    pub fn key_bytes(&self) -> usize {
        self.key
    }

    /// Bytes of what a look-up gives: of a per-CPU map the values of every CPU, each on a
    /// multiple of eight.
    pub fn value_bytes(&self) -> usize {
        self.value
    }

    fn element(&self, key: &[u8]) -> io::Result<ElementAttr> {
        if key.len() != self.key {
            return Err(wrong_length("a key"));
        }
        let mut attr = ElementAttr::new_zeroed();
        attr.map = raw(self.as_fd());
        attr.key = address(key);
        Ok(attr)
    }

    /// The value of `key`; false if there is none.
    pub fn lookup(&self, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
        let mut attr = self.element(key)?;
        if value.len() != self.value {
            return Err(wrong_length("a value"));
        }
        attr.value = address_mut(value);
        // SAFETY: key and value have the lengths of this map.
        found(unsafe { bpf(command::MAP_LOOKUP_ELEM, &mut attr) })
    }

    /// Sets the value of `key`.
    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.put(key, value, 0)
    }

    /// Sets the value of `key` if it has none; false if it has one.
    pub fn insert_new(&self, key: &[u8], value: &[u8]) -> io::Result<bool> {
        match self.put(key, value, NOEXIST) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn put(&self, key: &[u8], value: &[u8], flags: u64) -> io::Result<()> {
        let mut attr = self.element(key)?;
        if value.len() != self.value {
            return Err(wrong_length("a value"));
        }
        attr.value = address(value);
        attr.flags = flags;
        // SAFETY: key and value have the lengths of this map.
        unsafe { bpf(command::MAP_UPDATE_ELEM, &mut attr) }.map(drop)
    }

    /// Removes `key`; false if it was not there.
    pub fn delete(&self, key: &[u8]) -> io::Result<bool> {
        let mut attr = self.element(key)?;
        // SAFETY: the key has the length of this map's.
        found(unsafe { bpf(command::MAP_DELETE_ELEM, &mut attr) })
    }

    /// The key after `key`, or the first one; false if there is none.
    pub fn next_key(&self, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
        let mut attr = match key {
            Some(key) => self.element(key)?,
            None => ElementAttr::new_zeroed(),
        };
        if next.len() != self.key {
            return Err(wrong_length("a key"));
        }
        attr.map = raw(self.as_fd());
        attr.value = address_mut(next);
        // SAFETY: both keys have the length of this map's.
        found(unsafe { bpf(command::MAP_GET_NEXT_KEY, &mut attr) })
    }

    /// Appends up to `count` entries to `keys` and `values`, from where `cursor` is. Entries that
    /// come or go meanwhile may be missed; a map that is being emptied may show one twice.
    pub fn dump(
        &self,
        cursor: &mut Cursor,
        count: usize,
        keys: &mut Vec<u8>,
        values: &mut Vec<u8>,
    ) -> io::Result<BatchEnd> {
        let mut count = count.max(1);
        // More entries may share a hash than were asked for.
        for _ in 0..8 {
            match self.dump_batch(cursor, count, keys, values) {
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => count *= 4,
                other => return other,
            }
        }
        Err(io::Error::from_raw_os_error(libc::ENOSPC))
    }

    fn dump_batch(
        &self,
        cursor: &mut Cursor,
        count: usize,
        keys: &mut Vec<u8>,
        values: &mut Vec<u8>,
    ) -> io::Result<BatchEnd> {
        let (keys_at, values_at) = (keys.len(), values.len());
        keys.resize(keys_at + count * self.key, 0);
        values.resize(values_at + count * self.value, 0);
        // The kernel keeps a key there, or the number of a bucket.
        let mut to = vec![0; self.key.max(4)];
        let mut attr = BatchAttr::new_zeroed();
        attr.from = cursor.0.as_deref().map_or(0, address);
        attr.to = address_mut(&mut to);
        attr.keys = address_mut(&mut keys[keys_at..]);
        attr.values = address_mut(&mut values[values_at..]);
        attr.count = length(count)?;
        attr.map = raw(self.as_fd());
        // SAFETY: there is room for `count` keys and values, and for a cursor.
        let result = unsafe { bpf(command::MAP_LOOKUP_BATCH, &mut attr) };
        let end = match &result {
            Ok(_) => BatchEnd::More,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => BatchEnd::End,
            Err(_) => {
                keys.truncate(keys_at);
                values.truncate(values_at);
                result?;
                BatchEnd::End
            }
        };
        let filled = attr.count as usize;
        keys.truncate(keys_at + filled * self.key);
        values.truncate(values_at + filled * self.value);
        *cursor = Cursor(Some(to));
        Ok(end)
    }

    /// Sets many values at once; gives how many were set before the first failure.
    pub fn update_batch(&self, keys: &[u8], values: &[u8]) -> Result<(), (usize, io::Error)> {
        let count = self.count(keys).map_err(|error| (0, error))?;
        if values.len() != count * self.value {
            return Err((0, wrong_length("values")));
        }
        self.batch(command::MAP_UPDATE_BATCH, count, keys, Some(values))
    }

    /// Removes many keys at once; gives how many were looked at before the first failure.
    pub fn delete_batch(&self, keys: &[u8]) -> Result<(), (usize, io::Error)> {
        let count = self.count(keys).map_err(|error| (0, error))?;
        self.batch(command::MAP_DELETE_BATCH, count, keys, None)
    }

    fn count(&self, keys: &[u8]) -> io::Result<usize> {
        if self.key == 0 || !keys.len().is_multiple_of(self.key) {
            return Err(wrong_length("keys"));
        }
        Ok(keys.len() / self.key)
    }

    /// `keys` and `values` hold `count` of each.
    fn batch(
        &self,
        command: u32,
        count: usize,
        keys: &[u8],
        values: Option<&[u8]>,
    ) -> Result<(), (usize, io::Error)> {
        if count == 0 {
            return Ok(());
        }
        let mut attr = BatchAttr::new_zeroed();
        attr.keys = address(keys);
        attr.values = values.map_or(0, address);
        attr.count = length(count).map_err(|error| (0, error))?;
        attr.map = raw(self.as_fd());
        // SAFETY: both callers have compared the lengths of the slices with `count`; the kernel
        // only reads them.
        match unsafe { bpf(command, &mut attr) } {
            Ok(_) => Ok(()),
            // The count is only written where the command got as far as the map.
            Err(error) if lacks_batches(&error) => Err((0, error)),
            Err(error) => Err(((attr.count as usize).min(count), error)),
        }
    }
}

/// True if a kind of map knows no batches (or this kernel none for it).
pub(crate) fn lacks_batches(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(ENOTSUPP | libc::EINVAL | libc::EOPNOTSUPP)
    )
}

fn found(result: io::Result<i32>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// CPUs that this machine may have: so many values an entry of a per-CPU map has.
pub fn possible_cpus() -> io::Result<usize> {
    static COUNT: OnceLock<usize> = OnceLock::new();
    if let Some(count) = COUNT.get() {
        return Ok(*count);
    }
    let text = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let count = count_cpus(text.trim())
        .ok_or_else(|| io::Error::other(format!("the kernel says its CPUs are {text:?}")))?;
    Ok(*COUNT.get_or_init(|| count))
}

/// How many numbers a list as `0-3,8` has.
fn count_cpus(ranges: &str) -> Option<usize> {
    ranges.split(',').try_fold(0, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(count + last.checked_sub(first)? + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_counted() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3"), Some(4));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus("3-1"), None);
        assert_eq!(count_cpus(""), None);
    }
}
