use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use crate::Backoff;

/// What is brought to the desired state.
pub trait Target {
    /// What an object is known by.
    type Key: Ord + Clone;
    /// What is desired of it.
    type Object: PartialEq;
    /// One thing that was changed, as it is told.
    type Change;
    /// Why something could not be done.
    type Error: Display;

    /// Brings an object to what is desired; says what had to be changed, nothing if it was so
    /// already.
    fn update(
        &mut self,
        key: &Self::Key,
        object: &Self::Object,
    ) -> Result<Vec<Self::Change>, Self::Error>;

    /// Takes an object away; one that is not there is no failure, and no change.
    fn delete(&mut self, key: &Self::Key) -> Result<Vec<Self::Change>, Self::Error>;

    /// Takes away all of ours that is not desired.
    fn prune(
        &mut self,
        desired: &BTreeMap<Self::Key, Self::Object>,
    ) -> Result<Vec<Self::Change>, Self::Error>;
}

/// How an object stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It waits to be looked at for the first time since it was desired so.
    Pending,
    /// It was as desired when it was last looked at.
    Done,
    /// It could not be brought there.
    Failed {
        /// How often in a row.
        attempts: u32,
        /// Why, the last time.
        error: String,
    },
}

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// How it stands.
    pub state: State,
    /// When it was last looked at.
    pub looked: Option<Duration>,
    /// How often something of it had to be changed.
    pub changes: u64,
    /// How often in a row it had to be changed.
    streak: u32,
    /// It is not looked at before.
    rests: Duration,
}

impl Status {
    fn new() -> Self {
        Self {
            state: State::Pending,
            looked: None,
            changes: 0,
            streak: 0,
            rests: Duration::ZERO,
        }
    }

    /// How often in a row it could not be brought there.
    pub fn attempts(&self) -> u32 {
        match self.state {
            State::Failed { attempts, .. } => attempts,
            _ => 0,
        }
    }
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work<K> {
    /// An object was looked at.
    Update(K),
    /// An object was taken away.
    Delete(K),
    /// What nobody desires was taken away.
    Prune,
}

/// What was done, and what came of it.
#[derive(Debug)]
pub struct Report<K, C, E> {
    /// What was done.
    pub work: Work<K>,
    /// What had to be changed.
    pub outcome: Result<Vec<C>, E>,
}

/// The report of a target's reconciler.
type ReportOf<T> = Report<<T as Target>::Key, <T as Target>::Change, <T as Target>::Error>;

/// Desired objects, a queue of what is to be looked at, and a status for each.
#[derive(Debug)]
pub struct Reconciler<K, O> {
    desired: BTreeMap<K, O>,
    status: BTreeMap<K, Status>,
    /// When each object is looked at; one that is not here is not waited for.
    due: BTreeMap<K, Duration>,
    listed: bool,
    prune: Option<Duration>,
    prune_failures: u32,
    backoff: Backoff,
}

impl<K: Ord + Clone, O: PartialEq> Reconciler<K, O> {
    /// Nothing is desired, nothing is pruned.
    pub fn new(backoff: Backoff) -> Self {
        Self {
            desired: BTreeMap::new(),
            status: BTreeMap::new(),
            due: BTreeMap::new(),
            listed: false,
            prune: None,
            prune_failures: 0,
            backoff,
        }
    }

    /// Desires exactly these. What was desired and is no longer is taken away; from the first such
    /// list on, so is whatever else is found.
    pub fn replace(&mut self, objects: BTreeMap<K, O>, now: Duration) {
        let gone: Vec<K> = self
            .desired
            .keys()
            .filter(|key| !objects.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.remove(&key, now);
        }
        for (key, object) in objects {
            self.set(key, object, now);
        }
        if !self.listed {
            self.listed = true;
            self.prune = Some(now);
        }
    }

    /// Desires this of one object.
    pub fn set(&mut self, key: K, object: O, now: Duration) {
        if self.desired.get(&key) == Some(&object) {
            return;
        }
        let status = self.status.entry(key.clone()).or_insert_with(Status::new);
        status.state = State::Pending;
        status.rests = Duration::ZERO;
        self.due.insert(key.clone(), now);
        self.desired.insert(key, object);
    }

    /// Desires that an object be gone.
    pub fn remove(&mut self, key: &K, now: Duration) {
        if self.desired.remove(key).is_none() {
            return;
        }
        let status = self.status.entry(key.clone()).or_insert_with(Status::new);
        status.state = State::Pending;
        self.due.insert(key.clone(), now);
    }

    /// Something may have happened to an object: it is looked at then, or before, but not while it
    /// waits after a failure or a change.
    pub fn touch(&mut self, key: &K, at: Duration) {
        let Some(status) = self.status.get(key) else {
            return;
        };
        let at = at.max(status.rests);
        let due = self.due.entry(key.clone()).or_insert(at);
        *due = at.min(*due);
    }

    /// Anything may have happened.
    pub fn touch_all(&mut self, at: Duration) {
        let keys: Vec<K> = self.desired.keys().cloned().collect();
        for key in &keys {
            self.touch(key, at);
        }
        if self.listed && self.prune_failures == 0 {
            self.prune = Some(self.prune.map_or(at, |due| due.min(at)));
        }
    }

    /// When there is something to do next.
    pub fn next_due(&self) -> Option<Duration> {
        self.due.values().copied().chain(self.prune).min()
    }

    /// Does what is due, at most `most` objects, those that wait longest first, each once.
    pub fn step<T: Target<Key = K, Object = O>>(
        &mut self,
        now: Duration,
        most: usize,
        target: &mut T,
        jitter: &mut dyn FnMut() -> f64,
    ) -> Vec<ReportOf<T>> {
        let mut due: Vec<(Duration, K)> = self
            .due
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(key, at)| (*at, key.clone()))
            .collect();
        due.sort();
        due.truncate(most);
        let mut reports = Vec::new();
        for (_, key) in due {
            self.due.remove(&key);
            reports.push(self.work(key, now, target, jitter));
        }
        if self.prune.is_some_and(|at| at <= now) {
            reports.push(self.prune_now(now, target, jitter));
        }
        reports
    }

    fn work<T: Target<Key = K, Object = O>>(
        &mut self,
        key: K,
        now: Duration,
        target: &mut T,
        jitter: &mut dyn FnMut() -> f64,
    ) -> ReportOf<T> {
        let object = self.desired.get(&key);
        let outcome = match object {
            Some(object) => target.update(&key, object),
            None => target.delete(&key),
        };
        let deleted = object.is_none();
        if deleted && outcome.is_ok() {
            self.status.remove(&key);
        } else {
            let status = self.status.entry(key.clone()).or_insert_with(Status::new);
            let told = outcome.as_ref().map(|changes| !changes.is_empty());
            let told = told.map_err(ToString::to_string);
            if let Some(again) = status.note(told, now, self.backoff, jitter) {
                self.due.insert(key.clone(), again);
            }
        }
        Report {
            work: if deleted {
                Work::Delete(key)
            } else {
                Work::Update(key)
            },
            outcome,
        }
    }

    fn prune_now<T: Target<Key = K, Object = O>>(
        &mut self,
        now: Duration,
        target: &mut T,
        jitter: &mut dyn FnMut() -> f64,
    ) -> ReportOf<T> {
        let outcome = target.prune(&self.desired);
        if outcome.is_ok() {
            self.prune_failures = 0;
            self.prune = None;
        } else {
            self.prune_failures = self.prune_failures.saturating_add(1);
            let wait = self.backoff.delay(self.prune_failures, jitter());
            self.prune = Some(now.saturating_add(wait));
        }
        Report {
            work: Work::Prune,
            outcome,
        }
    }

    /// What is desired.
    pub fn desired(&self) -> &BTreeMap<K, O> {
        &self.desired
    }

    /// How each object stands, those too that are to go.
    pub fn status(&self) -> &BTreeMap<K, Status> {
        &self.status
    }

    /// True when everything desired was there at the last look, and nothing waits.
    pub fn is_settled(&self) -> bool {
        self.listed
            && self.prune.is_none()
            && self.status.values().all(|one| one.state == State::Done)
    }
}

impl Status {
    /// Notes an outcome: whether something was changed, or why not. Says when to look again.
    fn note(
        &mut self,
        outcome: Result<bool, String>,
        now: Duration,
        backoff: Backoff,
        jitter: &mut dyn FnMut() -> f64,
    ) -> Option<Duration> {
        self.looked = Some(now);
        match outcome {
            Ok(false) => {
                self.state = State::Done;
                self.streak = 0;
                None
            }
            // Looked at once more: did it hold?
            Ok(true) => {
                self.state = State::Done;
                self.changes = self.changes.saturating_add(1);
                self.streak = self.streak.saturating_add(1);
                self.rests = now.saturating_add(backoff.delay(self.streak, jitter()));
                Some(self.rests)
            }
            Err(error) => {
                let attempts = self.attempts().saturating_add(1);
                self.state = State::Failed { attempts, error };
                self.rests = now.saturating_add(backoff.delay(attempts, jitter()));
                Some(self.rests)
            }
        }
    }
}
