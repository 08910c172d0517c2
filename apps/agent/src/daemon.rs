//! The agent's loop: what it hears, what it looks at, what it keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, mpsc};
use tokio::time::MissedTickBehavior;
use watari_abi::Reason;
use watari_bpf::{Datapath, Event as Told};
use watari_model::{ClusterNode, IfName};
use watari_netlink::{Event, Monitor, Snapshot};
use watari_nft::masquerade::TABLE_NAME;
use watari_nft::monitor::Monitor as RulesMonitor;
use watari_reconcile::{Backoff, Reconciler, Report, Work};
use watari_routes::masquerade;
use watari_store::{EndpointRecord, StoreError};

use crate::book::Book;
use crate::cluster::Folder;
use crate::drops::{Drops, Examples, captured};
use crate::endpoint::pod_side_is_well;
use crate::flows::Row;
use crate::log::Log;
use crate::names::{Names, pod_of};
use crate::node::{Change, Key, Node, Object, host_side_is_well};
use crate::options::Options;
use crate::packet::Headers;
use crate::pinned::monotonic;
use crate::protocol::Missing;
use crate::recover::recover;
use crate::sandbox::{Missed, is_gone, reclaim};
use crate::server::{Listener, Request};
use crate::uplinks::uplinks;

/// How often events are read and what is due is done.
const TICK: Duration = Duration::from_millis(200);
/// How often the store and the cluster's folder are looked at.
const POLL: Duration = Duration::from_secs(1);
/// How often connections that count as gone are removed.
const SWEEP: Duration = Duration::from_mins(1);
/// Connections that one tick looks at for it.
const SWEPT: usize = 16 << 10;
/// Events that are read at once, and how often in one tick.
const BURST: usize = 1024;
const BURSTS: usize = 16;
/// Programs that one tick attaches otherwise: each holds the lock of all links for some 20 ms.
const PROMOTED: usize = 1;
/// An endpoint younger than this is its plugin's, which may still be making it.
const SETTLE: Duration = Duration::from_secs(10);
/// What happens together is looked at once.
const TOGETHER: Duration = Duration::from_millis(100);
/// Objects that are looked at in one tick.
const AT_ONCE: usize = 16;
/// Rows that wait for who follows.
const FOLLOWED: usize = 4096;

/// Loads the datapath again, when its pins are gone.
pub type Reload<K> = Box<dyn FnMut() -> Result<K>>;

/// An agent, apart from its runtime.
pub struct Daemon<K> {
    pub(crate) options: Options,
    reload: Reload<K>,
    monitor: Monitor,
    /// None on a kernel without `nf_tables`.
    rules: Option<RulesMonitor>,
    pub(crate) node: Node<K>,
    pub(crate) reconciler: Reconciler<Key, Object>,
    pub(crate) folder: Folder,
    pub(crate) missed: Missed,
    pub(crate) log: Log,
    pub(crate) uplinks: BTreeSet<IfName>,
    pub(crate) reclaimed: u64,
    pub(crate) missing: Vec<Missing>,
    pub(crate) described: BTreeMap<String, String>,
    pub(crate) troubles: BTreeMap<&'static str, String>,
    examples: Examples,
    names: Arc<Names>,
    followers: broadcast::Sender<Arc<Row>>,
    start: Instant,
    next_poll: Duration,
    next_survey: Duration,
    next_sweep: Duration,
    indexes: BTreeMap<u32, IfName>,
    /// What is desired may be other than the reconciler was told.
    undesired: bool,
    /// There may be uplinks where none were found.
    seek_uplinks: bool,
    dice: u64,
}

/// What an agent of a node does over its life.
impl<K: Datapath> Daemon<K> {
    /// Of the calling thread's namespace; does nothing yet.
    pub fn new(options: Options, kernel: K, reload: Reload<K>) -> Result<Self> {
        let book = Book::new(&options.data_dir);
        Ok(Self {
            node: Node::new(&options.node, kernel, book)?,
            reconciler: Reconciler::new(Backoff::default()),
            folder: Folder::new(&options.cluster, &options.node),
            missed: Missed::default(),
            log: Log::default(),
            uplinks: BTreeSet::new(),
            reclaimed: 0,
            missing: Vec::new(),
            described: BTreeMap::new(),
            troubles: BTreeMap::new(),
            examples: Examples::default(),
            names: Arc::default(),
            followers: broadcast::channel(FOLLOWED).0,
            start: Instant::now(),
            next_poll: Duration::ZERO,
            next_survey: Duration::ZERO,
            next_sweep: SWEEP,
            indexes: BTreeMap::new(),
            undesired: true,
            seek_uplinks: true,
            dice: monotonic() | 1,
            options,
            reload,
            monitor: Monitor::open()?,
            rules: RulesMonitor::open().ok(),
        })
    }

    /// Says what the datapath is, and which features of the kernel are missing.
    #[must_use]
    pub fn with(mut self, described: BTreeMap<String, String>, missing: Vec<Missing>) -> Self {
        self.described = described;
        self.missing = missing;
        self
    }

    /// The datapath that it drives.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.node.kernel
    }

    /// Runs until a signal ends it; forwarding goes on as it is. `ready` is called when the
    /// datapath stands as desired for the first time.
    pub async fn run(&mut self, ready: impl FnOnce()) -> Result<()> {
        let listener = Listener::bind(&self.options.socket())?;
        let (requests, mut asked) = mpsc::channel(16);
        let mut end = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.tick();
        ready();
        let pins = self.options.bpf_root.clone();
        let served = listener.serve(&requests, &pins);
        tokio::pin!(served);
        loop {
            tokio::select! {
                _ = tick.tick() => self.tick(),
                Some(request) = asked.recv() => self.answer(request),
                () = &mut served => {}
                _ = end.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    /// The time by which everything here is due.
    pub(crate) fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Everything that is due.
    pub fn tick(&mut self) {
        let now = self.now();
        let drained = self.drain();
        self.trouble("events", drained);
        let heard = self.monitor.read().map(|events| self.hear(&events));
        self.trouble("monitor", heard.map_err(Into::into));
        if let Some(rules) = &mut self.rules {
            let heard = rules.read().map(|changes| {
                if changes.concerns(TABLE_NAME) {
                    self.reconciler.touch(&Key::Masquerade, now + TOGETHER);
                }
            });
            self.trouble("nftables", heard.map_err(Into::into));
        }
        if now >= self.next_poll {
            self.next_poll = now + POLL;
            self.poll(now);
        }
        if now >= self.next_survey {
            self.next_survey = now + self.options.survey;
            let done = self.survey(now);
            self.trouble("survey", done);
        }
        if now >= self.next_sweep {
            let swept = self.node.kernel.sweep(monotonic(), SWEPT);
            let at_end = swept.as_ref().is_ok_and(|swept| !swept.at_end);
            self.next_sweep = now + if at_end { TICK } else { SWEEP };
            self.trouble("sweep", swept.map(drop).map_err(Into::into));
        }
        let dice = &mut self.dice;
        // xorshift64: enough to keep retries apart.
        let mut jitter = || {
            *dice ^= *dice << 13;
            *dice ^= *dice >> 7;
            *dice ^= *dice << 17;
            f64::from(u32::try_from(*dice >> 32).unwrap_or_default()) / f64::from(u32::MAX)
        };
        let reports = self
            .reconciler
            .step(now, AT_ONCE, &mut self.node, &mut jitter);
        for report in reports {
            self.told(report);
        }
        self.after();
    }

    /// What the datapath asked for when it was looked at.
    fn after(&mut self) {
        if !self.node.unpinned.is_empty() {
            let words = std::mem::take(&mut self.node.unpinned).join(", ");
            let loaded = (self.reload)().map(|kernel| {
                self.node.kernel = kernel;
                let what = format!("pins were gone or replaced ({words}): loaded again");
                self.log.note("datapath", what);
            });
            self.trouble("load", loaded);
        }
        if self.node.to_promote > 0 {
            let promoted = self.node.kernel.promote(PROMOTED);
            let done = *promoted.as_ref().unwrap_or(&self.node.to_promote);
            // There may be more than were seen.
            self.node.to_promote = match self.node.to_promote {
                _ if done < PROMOTED => 0,
                seen => seen.saturating_sub(done).max(1),
            };
            self.trouble("attachment", promoted.map(drop).map_err(Into::into));
        }
    }

    /// Remembers what goes wrong beside the objects, until it goes well again.
    fn trouble(&mut self, what: &'static str, outcome: Result<()>) {
        match outcome {
            Ok(()) => drop(self.troubles.remove(what)),
            Err(error) => {
                let words = format!("{what}: {error:#}");
                if self.troubles.insert(what, words.clone()).as_ref() != Some(&words) {
                    tracing::warn!("{words}");
                }
            }
        }
    }

    /// The events of the datapath.
    fn drain(&mut self) -> Result<()> {
        let watched = self.followers.receiver_count() > 0;
        for _ in 0..BURSTS {
            let events = self.node.kernel.events(BURST)?;
            let last = events.len() < BURST;
            for event in events {
                if let Told::Drop(event) = &event {
                    self.examples.keep(event);
                }
                if watched && let Some(row) = self.row(&event) {
                    // Without a follower nobody misses it.
                    let _ = self.followers.send(Arc::new(row));
                }
            }
            if last {
                break;
            }
        }
        Ok(())
    }

    fn row(&self, event: &Told) -> Option<Row> {
        match event {
            Told::Flow(event) => Some(Row::of_event(event, &self.names)),
            Told::Drop(event) => {
                let headers = Headers::read(captured(event));
                let reason = Reason::of(event.reason).map_or("unknown", Reason::name);
                Row::of_drop(reason, event.length, &headers, &self.names)
            }
        }
    }

    /// What is desired, as far as it changed.
    fn poll(&mut self, now: Duration) {
        let cluster = self.folder.poll();
        let doubt = self
            .folder
            .doubt()
            .map_or(Ok(()), |why| Err(anyhow!("{why}")));
        self.trouble("cluster", doubt);
        let mut records = self.node.book.poll();
        if let Err(StoreError::Damaged { .. }) = records {
            let recovered = self.recover();
            self.trouble("recovery", recovered);
            records = self.node.book.poll();
        }
        let changed = *records.as_ref().unwrap_or(&false);
        self.trouble("store", records.map(drop).map_err(Into::into));
        if cluster || changed {
            let nodes = self.folder.cluster().map_or(&[][..], |c| &c.nodes);
            let records = self.node.book.records();
            self.names = Arc::new(Names::new(&self.options.node, records, nodes));
        }
        if cluster || (self.seek_uplinks && self.uplinks.is_empty()) {
            let found = self.find_uplinks();
            self.seek_uplinks = found.is_err();
            self.trouble("uplinks", found);
        }
        self.undesired |= cluster || changed;
        if self.undesired {
            let objects = self.objects();
            self.reconciler.replace(objects, now);
        }
        if changed {
            self.reconciler.touch(&Key::Datapath, now);
        }
    }

    /// Makes a damaged store again.
    fn recover(&mut self) -> Result<()> {
        let options = &self.options;
        let host = &mut self.node.host;
        let found = recover(&options.data_dir, host, &options.namespaces)?;
        if let Some(found) = found {
            let what = format!("it was damaged: made again with {found} endpoints from the links");
            self.log.note("node store", what);
        }
        self.node.book.reopen();
        Ok(())
    }

    /// What is desired now. While endpoints are left to their plugins it is asked for again.
    fn objects(&mut self) -> BTreeMap<Key, Object> {
        let uplinks = &self.uplinks;
        let nodes: Option<Arc<[ClusterNode]>> = self
            .folder
            .cluster()
            .map(|cluster| cluster.nodes.clone().into());
        let mut objects = BTreeMap::new();
        if let (Some(nodes), Some(cluster)) = (&nodes, self.folder.cluster()) {
            let routes = Object::Routes {
                nodes: nodes.clone(),
                uplinks: uplinks.clone(),
            };
            objects.insert(Key::Routes, routes);
            let table = masquerade(nodes.iter(), &self.options.node, &cluster.masquerade);
            objects.insert(Key::Masquerade, Object::Masquerade(table));
        }
        let uplinks = uplinks.clone();
        objects.insert(Key::Datapath, Object::Datapath { nodes, uplinks });
        let now = watari_store::now().0;
        let settle = u64::try_from(SETTLE.as_millis()).unwrap_or(u64::MAX);
        let settled = |record: &&EndpointRecord| now.saturating_sub(record.created.0) >= settle;
        let records = self.node.book.records();
        for record in records.iter().filter(settled) {
            let key = Key::Endpoint(record.attachment.clone());
            objects.insert(key, Object::Endpoint(Box::new(record.clone())));
        }
        self.undesired = !records.iter().all(|record| settled(&record));
        objects
    }

    fn find_uplinks(&mut self) -> Result<()> {
        let snapshot = self.node.host.snapshot()?;
        self.take_uplinks(&snapshot)
    }

    fn take_uplinks(&mut self, snapshot: &Snapshot) -> Result<()> {
        let cluster = self.folder.cluster();
        let own = cluster
            .into_iter()
            .flat_map(|cluster| &cluster.nodes)
            .find(|node| node.name == self.options.node);
        let addresses = own.map_or(&[][..], |node| &node.addresses);
        let configured = &self.options.uplinks;
        let found = uplinks(&mut self.node.host, snapshot, configured, addresses)?;
        self.undesired |= found != self.uplinks;
        self.uplinks = found;
        Ok(())
    }

    /// Looks at everything, and marks what is to be repaired.
    fn survey(&mut self, now: Duration) -> Result<()> {
        let snapshot = self.node.host.snapshot()?;
        self.take_uplinks(&snapshot)?;
        let links = snapshot.links();
        self.indexes = links.map(|link| (link.index, link.name.clone())).collect();
        for key in [Key::Datapath, Key::Routes, Key::Masquerade] {
            self.reconciler.touch(&key, now);
        }
        for record in self.node.book.records() {
            let well = host_side_is_well(&snapshot, record)? && pod_side_is_well(record);
            if !well {
                let key = Key::Endpoint(record.attachment.clone());
                self.reconciler.touch(&key, now);
            }
        }
        self.look_for_the_gone(&snapshot, now)
    }

    /// Takes back what sandboxes left that are gone for long.
    fn look_for_the_gone(&mut self, seen: &Snapshot, now: Duration) -> Result<()> {
        let records = self.node.book.records().to_vec();
        let gone =
            |record: &EndpointRecord| is_gone(record, seen.link(&record.host_ifname).is_some());
        let due = self.missed.look(&records, now, self.options.grace, gone);
        let mut taken = Vec::new();
        for record in due {
            let node = &mut self.node;
            if reclaim(node.book.store()?, &mut node.host, record)? {
                taken.push(record);
            }
        }
        for record in &taken {
            let (pod, attachment) = (pod_of(record), &record.attachment);
            tracing::warn!(%pod, %attachment, "took back what a sandbox left that is gone");
            self.reclaimed += 1;
            self.missed.forget(attachment);
        }
        if !taken.is_empty() {
            self.node.book.forget();
            self.next_poll = now;
        }
        Ok(())
    }

    /// What the kernel tells of.
    fn hear(&mut self, events: &[Event]) {
        let at = self.now() + TOGETHER;
        let mut names = BTreeSet::new();
        for event in events {
            let (index, name) = match event {
                Event::Lost => {
                    self.next_survey = self.now();
                    continue;
                }
                Event::Link { index, name, gone } => {
                    if let Some(name) = name.clone().filter(|_| !gone) {
                        self.indexes.insert(*index, name);
                    }
                    (*index, name.clone())
                }
                Event::Address(index) | Event::Neighbour(index) | Event::Route(Some(index)) => {
                    (*index, None)
                }
                Event::Route(None) => continue,
            };
            let learnt = matches!(event, Event::Neighbour(_));
            self.seek_uplinks |= !learnt;
            let known = self.indexes.get(&index).cloned();
            if matches!(event, Event::Link { gone: true, .. }) {
                self.indexes.remove(&index);
            }
            if let Event::Link { .. } = event {
                self.reconciler.touch(&Key::Datapath, at);
            }
            let name = name.or(known);
            // A gateway's entry changes its state every minute, and nothing of ours with it.
            if !learnt
                && name
                    .as_ref()
                    .is_some_and(|name| self.uplinks.contains(name))
            {
                self.reconciler.touch(&Key::Routes, at);
                self.reconciler.touch(&Key::Datapath, at);
            }
            names.extend(name);
        }
        for record in self.node.book.records() {
            if names.contains(&record.host_ifname) {
                let key = Key::Endpoint(record.attachment.clone());
                self.reconciler.touch(&key, at);
            }
        }
    }

    /// What came of a look at an object.
    fn told(&mut self, report: Report<Key, Change, anyhow::Error>) {
        let (Work::Update(key) | Work::Delete(key)) = report.work else {
            return;
        };
        let of = match self.reconciler.desired().get(&key) {
            Some(Object::Endpoint(record)) => format!("{} ({key})", pod_of(record)),
            _ => key.to_string(),
        };
        match report.outcome {
            Ok(changes) => {
                for change in changes {
                    match change {
                        Change::Repaired(what) => self.log.note(&of, what),
                        Change::Planned(what) => tracing::info!(of, what, "brought about"),
                    }
                }
            }
            Err(error) => {
                let status = self.reconciler.status().get(&key);
                let attempts = status.map_or(0, watari_reconcile::Status::attempts);
                // At the first look somebody may have been half way through.
                if attempts == 2 {
                    tracing::warn!(of, "not as it should be: {error:#}");
                } else {
                    tracing::debug!(of, attempts, "not as it should be: {error:#}");
                }
            }
        }
    }

    fn answer(&mut self, request: Request) {
        // Who asked may be gone.
        match request {
            Request::Status(to) => drop(to.send(self.status())),
            Request::Drops(to) => {
                let dropped = self.node.kernel.drops().unwrap_or_default();
                let now = monotonic();
                let drops = Drops::new(&dropped, &self.examples, &self.names, now);
                drop(to.send(drops));
            }
            Request::Follow(to) => {
                drop(to.send((self.names.clone(), self.followers.subscribe())));
            }
        }
    }
}
