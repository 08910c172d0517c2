use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;
use watari_abi::maps;
use watari_bpf::balance::{Applied, Balancing, Departed, NodeConfig};
use watari_bpf::sys::give_memory_back;
use watari_model::{ClusterNode, Protocol, ServiceName};
use watari_services::{Compiler, Known, Options};
use watari_tables::{BalancerName, ServicesChange};

use crate::cluster::Event;
use crate::health::{Board, HealthCheck};
use crate::metrics;

use super::ports::PortRange;

/// Changes that are told one by one; of more only the number.
const TOLD: usize = 8;
/// Changes from which on memory is given back once they are made.
const MANY: usize = 256;
/// Notes about Services that are told.
const NOTES: usize = 50;

/// What a sync did, in words.
#[derive(Debug, Default)]
pub struct Synced {
    /// What had been changed by somebody else, and was put right.
    pub repaired: Vec<String>,
    /// What was brought about.
    pub planned: Vec<String>,
}

/// Services as they are desired, and what is to be done about them.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is something to be done or not, apart from the others"
)]
pub struct Keeper {
    pub(crate) compiler: Compiler,
    board: Arc<Board>,
    /// Changes that the kernel has not been told.
    pending: Vec<ServicesChange>,
    /// Everything is to be compared.
    compare: bool,
    /// It was compared, and brought there, at least once.
    stands: bool,
    /// What the programs were told of the node.
    config: Option<NodeConfig>,
    addresses: [Option<IpAddr>; 2],
    ports: PortRange,
    /// Slices that wait to be programmed, by family, and since when.
    slices: Vec<(bool, SystemTime)>,
    /// Who left a balancer and is still an endpoint: it drains.
    draining: BTreeMap<(BalancerName, SocketAddr), Draining>,
    gone: Vec<Departed>,
    /// Something is to be counted anew for who asks.
    recount: bool,
    /// Services and slices that were heard of since.
    heard: (u64, u64),
    /// What was heard of last is nothing to go by.
    waits: bool,
    /// Counts up with every change.
    generation: u64,
    last_sync: Option<SystemTime>,
}

#[derive(Debug, Clone, Copy)]
struct Draining {
    departed: Departed,
    /// Its datagrams have been told already.
    datagrams_ended: bool,
}

impl Keeper {
    /// Of a node; nothing is known yet.
    pub fn new(options: Options, ports: PortRange, board: Arc<Board>) -> Self {
        Self {
            compiler: Compiler::new(options),
            board,
            pending: Vec::new(),
            compare: true,
            stands: false,
            config: None,
            addresses: [None; 2],
            ports,
            slices: Vec::new(),
            draining: BTreeMap::new(),
            gone: Vec::new(),
            recount: true,
            heard: (0, 0),
            waits: true,
            generation: 0,
            last_sync: None,
        }
    }

    /// What the object of the reconciler is: another one whenever something is to be done.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The kernel had all that was desired at least once since this agent started.
    pub fn stands(&self) -> bool {
        self.stands
    }

    /// When the kernel had last all that was desired.
    pub fn last_sync(&self) -> Option<SystemTime> {
        self.last_sync
    }

    /// Ports that sources are translated to.
    pub fn set_ports(&mut self, ports: PortRange) {
        if self.ports != ports {
            self.ports = ports;
            self.generation += 1;
        }
    }

    /// Everything is compared at the next sync.
    pub fn compare(&mut self) {
        self.compare = true;
    }

    /// The node itself, and the ranges of Services' addresses.
    pub fn set_cluster(&mut self, own: Option<&ClusterNode>, cidrs: BTreeSet<IpNet>) {
        if let Some(own) = own {
            self.compiler.set_node(own);
            self.board.set_eligible(!own.deleting);
            let mut addresses = own.addresses.iter();
            let v4 = addresses.find(|address| address.is_ipv4()).copied();
            let v6 = own.addresses.iter().find(|address| address.is_ipv6());
            if self.addresses != [v4, v6.copied()] {
                self.addresses = [v4, v6.copied()];
                self.generation += 1;
            }
        }
        self.compiler.set_cidrs(cidrs);
        self.collect();
    }

    /// The addresses of the node's interfaces.
    pub fn set_addresses(&mut self, addresses: BTreeSet<IpAddr>) {
        self.compiler.set_addresses(addresses);
        self.collect();
    }

    /// Something came or went; [`Keeper::heard`] follows.
    pub fn hear(&mut self, event: Event) {
        match event {
            Event::Service(service) => {
                self.heard.0 += 1;
                self.compiler.set_service(&service);
            }
            Event::NoService(name) => {
                self.heard.0 += 1;
                self.compiler.remove_service(&name);
            }
            Event::Slice(slice, since) => {
                self.heard.1 += 1;
                if self.stands {
                    self.slices.push((slice.v6, since));
                }
                self.compiler.set_slice(&slice);
            }
            Event::NoSlice(name) => {
                self.heard.1 += 1;
                self.compiler.remove_slice(&name);
            }
        }
    }

    /// All that was heard of is to hold, unless `is_answer` is false: then the kernel stays as it is.
    pub fn heard(&mut self, is_answer: bool) {
        let waited = std::mem::replace(&mut self.waits, !is_answer);
        if self.waits || (self.heard == (0, 0) && !waited) {
            return;
        }
        let (services, slices) = std::mem::take(&mut self.heard);
        let at = SystemTime::now();
        self.board
            .numbers(|numbers| numbers.heard(services, slices, at));
        self.collect();
        self.judge_draining();
        if self.pending.is_empty() && self.stands && !self.compare {
            self.slices.clear();
            self.board.numbers(metrics::Numbers::nothing_pending);
        }
    }

    fn collect(&mut self) {
        if self.waits {
            // Nobody is late with what is nothing to go by.
            return;
        }
        let changes = self.compiler.changes();
        if changes.is_empty() {
            return;
        }
        self.pending.extend(changes);
        self.generation += 1;
        self.recount = true;
        self.board.queued();
    }

    /// Brings the kernel there. `now` is in ns of `CLOCK_MONOTONIC`.
    pub fn sync(&mut self, balancing: &mut dyn Balancing, now: u64) -> Result<Synced> {
        if self.waits {
            return Ok(Synced::default());
        }
        let since = Instant::now();
        let full = self.compare;
        if full {
            self.config = None;
        }
        let mut synced = Synced::default();
        let changes = if full {
            self.pending = Vec::new();
            let compared = balancing.compare(&self.compiler.tables());
            let compared = compared.context("read the tables of Services")?;
            synced.repaired.extend(compared.strays);
            compared.changes
        } else {
            std::mem::take(&mut self.pending)
        };
        if !changes.is_empty() {
            self.board.queued();
            let applied = balancing.apply(&changes, now);
            self.part(&applied, &changes, balancing);
            self.board
                .numbers(|numbers| numbers.held.writes += applied.writes);
            self.tell(&changes, &applied, full, &mut synced);
            if let Some((change, error)) = applied.failed.first() {
                self.compare = true;
                self.board.numbers(metrics::Numbers::failed);
                let more = applied.failed.len() - 1;
                bail!("cannot {}: {error} (and {more} more)", words(change));
            }
        }
        self.compare = false;
        self.configure(balancing)?;
        self.stands = true;
        self.note(&changes, full, since);
        if full || changes.len() > MANY {
            // What it was read from, compared and planned with is as large as what is kept.
            drop(changes);
            give_memory_back();
        }
        Ok(synced)
    }

    fn configure(&mut self, balancing: &mut dyn Balancing) -> Result<()> {
        let looked_at = [maps::FRONTENDS, maps::PORT_RANGES, maps::SERVICE_CIDRS];
        let usage = balancing.usage();
        let config = NodeConfig {
            services: usage
                .iter()
                .any(|usage| usage.used > 0 && looked_at.contains(&usage.map)),
            v4: self.addresses[0],
            v6: self.addresses[1],
            ports: (self.ports.first, self.ports.last),
        };
        if self.config != Some(config) {
            let told = balancing.configure(&config);
            told.context("tell the programs of the node")?;
            self.config = Some(config);
        }
        Ok(())
    }

    fn tell(&self, changes: &[ServicesChange], applied: &Applied, full: bool, synced: &mut Synced) {
        let repair = full && self.stands;
        let into = if repair {
            &mut synced.repaired
        } else {
            &mut synced.planned
        };
        if changes.len() <= TOLD {
            into.extend(changes.iter().map(words));
        } else {
            let (count, writes) = (changes.len(), applied.writes);
            into.push(format!("{count} changes of Services, {writes} writes"));
        }
    }

    fn note(&mut self, changes: &[ServicesChange], full: bool, since: Instant) {
        let at = SystemTime::now();
        self.last_sync = Some(at);
        let mut families = [false; 2];
        for change in changes {
            match change {
                ServicesChange::Set(name, _) | ServicesChange::Remove(name) => {
                    families[usize::from(name.v6)] = true;
                }
                ServicesChange::Address(address, _) => {
                    families[usize::from(address.is_ipv6())] = true;
                }
                ServicesChange::Cidrs(_) => {}
            }
        }
        let done = metrics::Synced {
            took: since.elapsed(),
            full,
            families,
        };
        let slices = std::mem::take(&mut self.slices);
        self.board.numbers(|numbers| {
            numbers.synced(&done, at);
            for (v6, since) in slices {
                numbers.programmed(v6, at.duration_since(since).unwrap_or_default());
            }
        });
        self.board.updated();
    }

    /// Of those who left, who is no endpoint any more is told; others drain.
    fn part(&mut self, applied: &Applied, changes: &[ServicesChange], balancing: &dyn Balancing) {
        if applied.departed.is_empty() {
            return;
        }
        let mut names = BTreeMap::new();
        for change in changes {
            if let ServicesChange::Set(name, _) = change
                && let Some(there) = balancing.describe(name)
            {
                names.insert(there.number, name);
            }
        }
        for &departed in &applied.departed {
            match names.get(&departed.service) {
                Some(&name) => {
                    let draining = Draining {
                        departed,
                        datagrams_ended: false,
                    };
                    self.draining.insert((name.clone(), departed.at), draining);
                }
                // The Service is gone, its endpoints need not be: streams go on to their end.
                None if departed.protocol == Protocol::Udp => self.gone.push(departed),
                None => {}
            }
        }
        self.judge_draining();
    }

    fn judge_draining(&mut self) {
        let (compiler, gone) = (&self.compiler, &mut self.gone);
        self.draining.retain(|(name, at), draining| {
            let departed = draining.departed;
            match compiler.knows(name, *at) {
                None => {
                    gone.push(departed);
                    false
                }
                // Datagrams know no end of their own: they go on as long as somebody serves them.
                Some(Known { serving: false, .. })
                    if departed.protocol == Protocol::Udp && !draining.datagrams_ended =>
                {
                    draining.datagrams_ended = true;
                    gone.push(departed);
                    true
                }
                Some(_) => true,
            }
        });
    }

    /// The number that connections have of an endpoint which left a balancer, and drains.
    pub fn draining(&self, name: &BalancerName, at: SocketAddr) -> Option<u32> {
        let draining = self.draining.get(&(name.clone(), at));
        draining.map(|draining| draining.departed.backend)
    }

    /// Those whose connections are to be ended.
    pub fn take_gone(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.gone)
    }

    /// The health check ports, with what they answer.
    pub fn health_checks(&self) -> BTreeMap<ServiceName, HealthCheck> {
        let checks = self.compiler.health_checks().into_iter();
        checks
            .map(|(name, check)| {
                // A pod has one address of each family.
                let local = check.local_v4.max(check.local_v6);
                let port = check.port;
                (name, HealthCheck { port, local })
            })
            .collect()
    }

    /// What is not done as the source says it, at most some dozens of lines.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        let mut notes = self.compiler.notes();
        let more = notes.len().saturating_sub(NOTES);
        notes.truncate(NOTES);
        let more = (more > 0).then(|| format!("{more} more notes about Services"));
        notes.into_iter().map(|note| note.to_string()).chain(more)
    }

    /// How many Services there are.
    pub fn count(&self) -> usize {
        self.compiler.service_names().count()
    }

    /// Writes how much there is on the board, if that changed.
    pub fn write_board(&mut self, balancing: &dyn Balancing) -> bool {
        if !std::mem::take(&mut self.recount) {
            return false;
        }
        self.board.set_checks(self.health_checks());
        let usage: Vec<metrics::Usage> = balancing
            .usage()
            .into_iter()
            .map(|usage| metrics::Usage {
                table: usage.map,
                used: usage.used.into(),
                room: usage.room.into(),
            })
            .collect();
        let used = |table: &str| {
            let found = usage.iter().find(|usage| usage.table == table);
            found.map_or(0, |usage| usage.used)
        };
        let services = self.compiler.service_names().count();
        let no_local = self.compiler.no_local();
        let (ports, frontends, backends) = (
            used(maps::SERVICE_NAMES),
            used(maps::FRONTENDS),
            used(maps::BACKENDS),
        );
        self.board.numbers(|numbers| {
            let held = &mut numbers.held;
            held.services = u64::try_from(services).unwrap_or(u64::MAX);
            (held.ports, held.frontends, held.backends) = (ports, frontends, backends);
            numbers.no_local(no_local.internal, no_local.external);
        });
        self.board.set_usage(usage);
        true
    }
}

/// A change in words.
fn words(change: &ServicesChange) -> String {
    match change {
        ServicesChange::Set(name, balancer) => {
            let family = if name.v6 { "IPv6" } else { "IPv4" };
            let members = balancer.inside_external.members.len();
            format!("set {name} ({family}, {members} endpoints)")
        }
        ServicesChange::Remove(name) => {
            let family = if name.v6 { "IPv6" } else { "IPv4" };
            format!("remove {name} ({family})")
        }
        ServicesChange::Address(address, Some(_)) => format!("set the Services' address {address}"),
        ServicesChange::Address(address, None) => format!("remove the Services' address {address}"),
        ServicesChange::Cidrs(cidrs) => {
            let cidrs: Vec<String> = cidrs.iter().map(ToString::to_string).collect();
            format!("set the Services' ranges {}", cidrs.join(", "))
        }
    }
}
