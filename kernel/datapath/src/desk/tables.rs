//! Tables of the desk.

use core::cell::Cell;
use core::ops::Deref;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::vec::Vec;

use watari_abi::{Address, Connection, Flow, PrefixKey, Remote, Tally, Translation};

use crate::Entry;

/// A value that was read from a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Value<T>(pub T);

impl<T> Deref for Value<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A value that is changed where it is kept.
#[derive(Debug)]
pub struct Shared<T: Copy>(Rc<Cell<T>>);

impl<T: Copy> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: Copy> Shared<T> {
    /// Keeps a value.
    pub fn new(value: T) -> Self {
        Self(Rc::new(Cell::new(value)))
    }

    /// As it is now.
    pub fn get(&self) -> T {
        self.0.get()
    }

    fn change(&self, change: impl FnOnce(&mut T)) {
        let mut value = self.0.get();
        change(&mut value);
        self.0.set(value);
    }
}

/// A connection in its table.
#[derive(Clone, Debug)]
pub struct Kept(pub Shared<Connection>);

impl Entry for Kept {
    fn expires(&self) -> u64 {
        self.0.get().expires
    }

    fn set_expires(&self, time: u64) {
        self.0.change(|connection| connection.expires = time);
    }

    fn flags(&self) -> u16 {
        self.0.get().flags
    }

    fn set_flags(&self, flags: u16) {
        self.0.change(|connection| connection.flags = flags);
    }

    fn state(&self) -> u8 {
        self.0.get().state
    }

    fn set_state(&self, state: u8) {
        self.0.change(|connection| connection.state = state);
    }

    fn closed(&self) -> u8 {
        self.0.get().closed
    }

    fn set_closed(&self, closed: u8) {
        self.0.change(|connection| connection.closed = closed);
    }

    fn has(&self, flow: Flow) -> bool {
        let [original, reply] = self.0.get().directions;
        match flow {
            Flow::Original => original.first != 0,
            Flow::Reply => reply.first != 0,
        }
    }

    fn translation_kind(&self) -> u8 {
        self.0.get().translation.kind
    }

    fn translation(&self) -> Translation {
        self.0.get().translation
    }

    fn add(&self, flow: Flow, bytes: u32, now: u64, tcp_flags: u8) {
        self.0.change(|connection| {
            let [original, reply] = &mut connection.directions;
            let direction = match flow {
                Flow::Original => original,
                Flow::Reply => reply,
            };
            direction.packets += 1;
            direction.bytes += u64::from(bytes);
            direction.last = now;
            if direction.first == 0 {
                direction.first = now;
            }
            direction.tcp_flags |= tcp_flags;
        });
    }
}

/// A table of limited size.
#[derive(Debug)]
pub struct Lru<K, V> {
    entries: BTreeMap<K, (Cell<u64>, V)>,
    clock: Cell<u64>,
    capacity: usize,
    evicts: bool,
}

impl<K: Ord + Copy, V: Clone> Lru<K, V> {
    /// One that refuses what it has no room for.
    pub fn keeping(capacity: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            clock: Cell::new(0),
            capacity,
            evicts: false,
        }
    }

    /// One that makes room by forgetting what was not used for longest.
    pub fn evicting(capacity: usize) -> Self {
        Self {
            evicts: true,
            ..Self::keeping(capacity)
        }
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }

    /// What is kept there; it counts as used.
    pub fn get(&self, key: &K) -> Option<V> {
        let (used, value) = self.entries.get(key)?;
        used.set(self.tick());
        Some(value.clone())
    }

    /// Keeps a value in the place of what is there. False: there is no room.
    pub fn insert(&mut self, key: K, value: V) -> bool {
        if !self.entries.contains_key(&key) && self.entries.len() >= self.capacity {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| used.get());
            let Some(oldest) = oldest.map(|(key, _)| *key).filter(|_| self.evicts) else {
                return false;
            };
            self.entries.remove(&oldest);
        }
        let now = self.tick();
        self.entries.insert(key, (Cell::new(now), value));
        true
    }

    /// Forgets it.
    pub fn remove(&mut self, key: &K) {
        self.entries.remove(key);
    }

    /// All that is kept.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, (_, value))| (key, value))
    }

    /// How much is kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nothing is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The nodes by the prefixes they own.
#[derive(Clone, Debug, Default)]
pub struct Prefixes(Vec<(PrefixKey, Remote)>);

impl Prefixes {
    /// Adds one, in the place of what is known of the same prefix.
    pub fn insert(&mut self, key: PrefixKey, remote: Remote) {
        self.0.retain(|(known, _)| *known != key);
        self.0.push((key, remote));
    }

    /// The one with the longest prefix of that address.
    pub fn find(&self, address: &Address) -> Option<Remote> {
        let wanted = u128::from_be_bytes(address.octets());
        self.0
            .iter()
            .filter(|(key, _)| {
                let differs = wanted ^ u128::from_be_bytes(key.address.octets());
                differs.leading_zeros() >= key.length
            })
            .max_by_key(|(key, _)| key.length)
            .map(|(_, remote)| *remote)
    }
}

/// Packets and bytes by what they are counted for.
#[derive(Clone, Debug)]
pub struct Tallies<K>(BTreeMap<K, Tally>);

impl<K> Default for Tallies<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Tallies<K> {
    /// Counts a packet.
    pub fn add(&mut self, key: K, bytes: u32) {
        let tally = self.0.entry(key).or_default();
        tally.packets += 1;
        tally.bytes += u64::from(bytes);
    }

    /// What was counted.
    pub fn get(&self, key: &K) -> Tally {
        self.0.get(key).copied().unwrap_or_default()
    }
}
