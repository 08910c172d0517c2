use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;

use hashbrown::HashTable;
use watari_abi::{Address, Backend, backend_flags};

/// How long a number stays nobody's after its last use, in ns: packets, connections and affinities
/// that still have it have ended or been ended by then.
pub const QUARANTINE: u64 = 60_000_000_000;

/// Who a backend is: address and port, network order. The table does not say the protocol, so a pod's
/// TCP and UDP at one port are one backend.
type Key = (Address, u16);

#[derive(Debug, Clone, Copy)]
struct Known {
    backend: Backend,
    /// Slots of sets that have the number; those of Maglev's tables are not counted.
    uses: u32,
}

/// Numbers by the backends that have them. What these are stands in [`Numbers::known`] alone: there are many.
#[derive(Debug, Clone, Default)]
struct ByKey {
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl ByKey {
    fn get(&self, known: &[Known], wanted: Key) -> Option<u32> {
        let is = |number: &u32| is_at(known, *number, wanted);
        let hash = self.hasher.hash_one(wanted);
        self.numbers.find(hash, is).copied()
    }

    /// Unless the backend has another number.
    fn insert_new(&mut self, known: &[Known], number: u32) {
        let Some(at) = known.get(number as usize) else {
            return;
        };
        let wanted = key(&at.backend);
        let hasher = &self.hasher;
        let hash = |number: &u32| {
            let at = known.get(*number as usize);
            hasher.hash_one(at.map_or((Address::UNSPECIFIED, 0), |at| key(&at.backend)))
        };
        let is = |number: &u32| is_at(known, *number, wanted);
        let entry = self.numbers.entry(hasher.hash_one(wanted), is, hash);
        entry.or_insert(number);
    }

    /// Unless the backend has another number. It is still known.
    fn remove(&mut self, known: &[Known], number: u32) {
        let Some(at) = known.get(number as usize) else {
            return;
        };
        let hash = self.hasher.hash_one(key(&at.backend));
        if let Ok(found) = self.numbers.find_entry(hash, |of| *of == number) {
            found.remove();
        }
    }
}

fn is_at(known: &[Known], number: u32, wanted: Key) -> bool {
    let at = known.get(number as usize);
    at.is_some_and(|at| key(&at.backend) == wanted)
}

/// Numbers of backends.
#[derive(Debug, Clone)]
pub(super) struct Numbers {
    /// By number, as far as any was ever used. Default for those that nobody has.
    known: Vec<Known>,
    by_key: ByKey,
    /// Numbers that nobody uses, with the time from which on they may be another's; none: it was
    /// found like that, and the time begins when somebody says what time it is.
    resting: BTreeMap<u32, Option<u64>>,
    /// Numbers that may be used, the one that was used the longest ago first.
    free: VecDeque<u32>,
    most: u32,
}

/// The backend of an address and a port.
pub(super) fn entry(at: SocketAddr, ready: bool) -> Backend {
    Backend {
        address: Address::from(at.ip()),
        port: at.port().to_be(),
        flags: if ready { backend_flags::READY } else { 0 },
    }
}

/// Where a backend is reached.
pub(super) fn place(backend: &Backend) -> SocketAddr {
    SocketAddr::new(backend.address.into(), u16::from_be(backend.port))
}

fn key(backend: &Backend) -> Key {
    (backend.address, backend.port)
}

const NOBODY: Known = Known {
    backend: Backend {
        address: Address::UNSPECIFIED,
        port: 0,
        flags: 0,
    },
    uses: 0,
};

impl Numbers {
    /// Nobody has a number; there are `most`, the first of which stands for none.
    pub fn new(most: u32) -> Self {
        Self {
            known: vec![NOBODY],
            by_key: ByKey::default(),
            resting: BTreeMap::new(),
            free: VecDeque::new(),
            most,
        }
    }

    /// Takes up what a table of backends says, by number, and how many slots have each.
    pub fn found(most: u32, table: &[Backend], uses: &HashMap<u32, u32>) -> Self {
        let mut numbers = Self::new(most);
        let last = table.iter().rposition(|found| *found != Backend::default());
        let table = &table[..last.map_or(0, |last| last + 1)];
        numbers.known.resize(table.len().max(1), NOBODY);
        // Those in use first: of two numbers of one backend theirs is the one that goes on.
        for (number, backend) in (0_u32..).zip(table).skip(1) {
            let uses = uses.get(&number).copied().unwrap_or(0);
            numbers.known[number as usize] = Known {
                backend: *backend,
                uses,
            };
            if uses > 0 && *backend != NOBODY.backend {
                numbers.by_key.insert_new(&numbers.known, number);
            }
        }
        for (number, backend) in (0_u32..).zip(table).skip(1) {
            // What no slot should have is nobody's as long as one has it.
            if numbers.known[number as usize].uses > 0 {
                continue;
            }
            if *backend == NOBODY.backend {
                numbers.free.push_back(number);
            } else {
                numbers.resting.insert(number, None);
                numbers.by_key.insert_new(&numbers.known, number);
            }
        }
        numbers
    }

    /// The backend of a number, be it in use or at rest.
    pub fn get(&self, number: u32) -> Option<&Backend> {
        let known = self.known.get(number as usize)?;
        (number != 0 && known.backend != NOBODY.backend).then_some(&known.backend)
    }

    /// The number of a backend, be it in use or at rest.
    pub fn number(&self, at: SocketAddr) -> Option<u32> {
        self.by_key.get(&self.known, key(&entry(at, true)))
    }

    /// From this number on none was ever used.
    pub fn known(&self) -> u32 {
        u32::try_from(self.known.len()).unwrap_or(u32::MAX)
    }

    /// Numbers that are in use or at rest, and those that there are.
    pub fn usage(&self) -> (u32, u32) {
        let free = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        let known = u32::try_from(self.known.len()).unwrap_or(u32::MAX);
        (known - 1 - free, self.most - 1)
    }

    /// The number of a backend, a new one if it has none. Nothing if all are taken.
    pub fn take(&mut self, at: SocketAddr) -> Option<(u32, bool)> {
        let backend = entry(at, false);
        if let Some(number) = self.by_key.get(&self.known, key(&backend)) {
            return Some((number, false));
        }
        let number = match self.free.pop_front() {
            Some(number) => number,
            None => u32::try_from(self.known.len())
                .ok()
                .filter(|next| *next < self.most)?,
        };
        if number as usize == self.known.len() {
            self.known.push(NOBODY);
        }
        self.known[number as usize] = Known { backend, uses: 0 };
        self.by_key.insert_new(&self.known, number);
        Some((number, true))
    }

    /// Takes a number back that [`Self::take`] has just made and nobody has seen.
    pub fn give_back(&mut self, number: u32) {
        self.by_key.remove(&self.known, number);
        let Some(known) = self.known.get_mut(number as usize) else {
            return;
        };
        *known = NOBODY;
        self.free.push_front(number);
    }

    /// A slot has the number now; gives the entry to write if that is another than before.
    pub fn uses_more(&mut self, number: u32) -> Option<Backend> {
        let known = self.known.get_mut(number as usize)?;
        known.uses += 1;
        self.resting.remove(&number);
        let ready = known.backend.flags | backend_flags::READY;
        (known.backend.flags != ready).then(|| {
            known.backend.flags = ready;
            known.backend
        })
    }

    /// A slot has it no more; gives true when none has.
    pub fn uses_less(&mut self, number: u32) -> bool {
        let Some(known) = self.known.get_mut(number as usize) else {
            return false;
        };
        known.uses = known.uses.saturating_sub(1);
        known.uses == 0
    }

    /// If no slot has the number, it rests from now on; gives the entry to write.
    pub fn rest(&mut self, number: u32, now: u64) -> Option<Backend> {
        let known = self.known.get_mut(number as usize)?;
        if known.uses > 0 || known.backend == NOBODY.backend {
            return None;
        }
        self.resting.insert(number, Some(now + QUARANTINE));
        known.backend.flags &= !backend_flags::READY;
        Some(known.backend)
    }

    /// Numbers that no slot has but that are said to be ready.
    pub fn wrongly_ready(&self) -> Vec<u32> {
        let resting = self.resting.keys();
        resting
            .filter(|number| {
                self.known[**number as usize].backend.flags & backend_flags::READY != 0
            })
            .copied()
            .collect()
    }

    /// Numbers in use whose backend is not said to be ready, or is none.
    pub fn wrongly_idle(&self) -> Vec<u32> {
        let known = (0_u32..).zip(&self.known);
        known
            .filter(|(_, known)| known.uses > 0 && known.backend.flags & backend_flags::READY == 0)
            .map(|(number, _)| number)
            .collect()
    }

    /// Whether any number rests.
    pub fn rests(&self) -> bool {
        !self.resting.is_empty()
    }

    /// Starts the time of those that were found at rest.
    pub fn start_resting(&mut self, now: u64) {
        for until in self.resting.values_mut() {
            until.get_or_insert(now + QUARANTINE);
        }
    }

    /// The times at which numbers may be used again are those that another one knows.
    pub fn rest_as(&mut self, other: &Self) {
        for (number, until) in &mut self.resting {
            if let Some(known) = other.resting.get(number) {
                *until = *known;
            }
        }
    }

    /// These numbers still have connections: nobody else gets them soon.
    pub fn rest_longer(&mut self, number: u32, now: u64) {
        if let Some(until) = self.resting.get_mut(&number) {
            *until = Some(now + QUARANTINE);
        }
    }

    /// Numbers that have rested long enough.
    pub fn rested(&self, now: u64) -> Vec<u32> {
        let resting = self.resting.iter();
        resting
            .filter(|(_, until)| until.is_some_and(|until| until <= now))
            .map(|(number, _)| *number)
            .collect()
    }

    /// The entry of a number is zero again.
    pub fn free(&mut self, number: u32) {
        self.by_key.remove(&self.known, number);
        let Some(known) = self.known.get_mut(number as usize) else {
            return;
        };
        *known = NOBODY;
        self.resting.remove(&number);
        self.free.push_back(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 80))
    }

    #[test]
    fn a_number_is_another_s_only_after_a_minute() {
        let mut numbers = Numbers::new(3);
        let (one, new) = numbers.take(at(1)).unwrap();
        assert!(new);
        assert_eq!(numbers.uses_more(one), Some(entry(at(1), true)));
        assert!(numbers.uses_less(one));
        assert_eq!(numbers.rest(one, 5), Some(entry(at(1), false)));
        let (two, _) = numbers.take(at(2)).unwrap();
        numbers.uses_more(two);
        assert_eq!(numbers.take(at(3)), None, "one rests");
        assert_eq!(numbers.rested(QUARANTINE + 4), []);
        assert_eq!(numbers.rested(QUARANTINE + 5), [one]);
        numbers.free(one);
        assert_eq!(numbers.take(at(3)), Some((one, true)));
        // Who comes back gets his own.
        assert!(numbers.uses_less(two));
        numbers.rest(two, 10);
        assert_eq!(numbers.take(at(2)), Some((two, false)));
        assert_eq!(numbers.uses_more(two), Some(entry(at(2), true)));
        assert_eq!(numbers.rested(u64::MAX), []);
    }

    #[test]
    fn what_is_found_goes_on() {
        let table = [
            Backend::default(),
            entry(at(1), true),
            entry(at(2), true),
            Backend::default(),
            entry(at(1), true),
        ];
        let uses = HashMap::from([(4, 1)]);
        let mut numbers = Numbers::found(100, &table, &uses);
        assert_eq!(numbers.number(at(1)), Some(4), "the one in use");
        assert_eq!(numbers.wrongly_ready(), [1, 2]);
        assert_eq!(numbers.rested(u64::MAX), [0; 0]);
        numbers.start_resting(7);
        assert_eq!(numbers.rested(QUARANTINE + 7), [1, 2]);
        numbers.free(1);
        assert_eq!(numbers.number(at(1)), Some(4));
        assert_eq!(numbers.take(at(9)), Some((3, true)));
    }
}
