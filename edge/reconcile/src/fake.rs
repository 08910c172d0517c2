use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::Target;

/// A target that is a map: for tests of what drives one.
#[derive(Debug, Clone, Default)]
pub struct Fake<K, O> {
    /// What is there.
    pub held: BTreeMap<K, O>,
    /// What refuses to be changed.
    pub stubborn: BTreeSet<K>,
    /// Every call, in order.
    pub calls: Vec<Deed<K>>,
}

/// What was asked of a [`Fake`], or done by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed<K> {
    /// To bring an object there.
    Update(K),
    /// To take one away.
    Delete(K),
    /// To take away what is not desired; these went.
    Prune(BTreeSet<K>),
}

/// The [`Fake`] was told to refuse this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the fake was told to refuse it")
    }
}

impl<K: Ord + Clone, O: PartialEq + Clone> Target for Fake<K, O> {
    type Key = K;
    type Object = O;
    type Change = K;
    type Error = Refused;

    fn update(&mut self, key: &K, object: &O) -> Result<Vec<K>, Refused> {
        self.calls.push(Deed::Update(key.clone()));
        if self.held.get(key) == Some(object) {
            return Ok(Vec::new());
        }
        if self.stubborn.contains(key) {
            return Err(Refused);
        }
        self.held.insert(key.clone(), object.clone());
        Ok(vec![key.clone()])
    }

    fn delete(&mut self, key: &K) -> Result<Vec<K>, Refused> {
        self.calls.push(Deed::Delete(key.clone()));
        if self.stubborn.contains(key) {
            return Err(Refused);
        }
        let removed = self.held.remove(key);
        Ok(removed.map(|_| key.clone()).into_iter().collect())
    }

    fn prune(&mut self, desired: &BTreeMap<K, O>) -> Result<Vec<K>, Refused> {
        let undesired: BTreeSet<K> = self
            .held
            .keys()
            .filter(|key| !desired.contains_key(*key))
            .cloned()
            .collect();
        self.calls.push(Deed::Prune(undesired.clone()));
        if undesired.iter().any(|key| self.stubborn.contains(key)) {
            return Err(Refused);
        }
        self.held.retain(|key, _| desired.contains_key(key));
        Ok(undesired.into_iter().collect())
    }
}
