//! Services, endpoints and weights change at random while clients connect without a pause: nobody is
//! refused or reset by a backend that is ready, and nobody gets to one whose removal is done.
//!
//! Short in `./run test`, at full length with `WATARI_SOAK=1`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use watari_bpf::Attachment;
use watari_model::Protocol;
use watari_testbed::said::{End, Said, end};
use watari_testbed::witness::{Seen, Talk};
use watari_testbed::{Cluster, Way, Who};

/// Services that change.
const SERVICES: u16 = 4;
/// Pods of each node: all but the first of each are backends.
const PODS: u8 = 4;
const PORT: u16 = 30_080;
/// Nobody waits longer for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

fn changes() -> usize {
    if std::env::var_os("WATARI_SOAK").is_some() {
        1000
    } else {
        100
    }
}

/// Reproducible, so that what is found can be looked for.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let number = (mixed ^ mixed >> 31) >> 33;
        usize::try_from(number).unwrap() % bound
    }
}

/// What holds of a Service, by numbers of changes: when it was told, and since when it was done.
#[derive(Debug, Clone, Default)]
struct Held {
    /// It is there, with at least one endpoint that takes connections.
    serves: bool,
    /// Those that take connections.
    takes: BTreeSet<String>,
    /// Those that go on with what they have. A datagram from a port that another socket had a moment
    /// before is of what they have, for all that a node can see.
    drains: BTreeSet<String>,
}

impl Held {
    fn allows(&self, protocol: Protocol, name: &String) -> bool {
        self.takes.contains(name) || (protocol == Protocol::Udp && self.drains.contains(name))
    }
}

/// What was true at any time from one moment to another.
#[derive(Debug)]
struct Era {
    /// From when on it may have held: the change was begun.
    begun: Instant,
    /// From when on it held: the change was done. None: not yet.
    done: Option<Instant>,
    held: Held,
}

#[derive(Debug, Default)]
struct History(Vec<Era>);

impl History {
    /// What held at some time of a connection that was opened between these two.
    fn during(&self, from: Instant, to: Instant) -> Vec<&Held> {
        let mut all = Vec::new();
        for (at, era) in self.0.iter().enumerate() {
            // It ended when the next one was done.
            let next = self.0.get(at + 1).and_then(|next| next.done);
            if era.begun <= to && next.is_none_or(|next| next >= from) {
                all.push(&era.held);
            }
        }
        all
    }
}

/// Who connects, how, and by which family.
#[derive(Debug, Clone, Copy)]
struct Client {
    who: Who,
    way: Way,
    protocol: Protocol,
    v6: bool,
}

fn clients() -> Vec<Client> {
    let mut all = Vec::new();
    for (who, way) in [
        (Who::Pod(0, 0), Way::Socket),
        (Who::Pod(0, 0), Way::Packet),
        (Who::Pod(1, 0), Way::Packet),
        (Who::Outside, Way::Packet),
    ] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let v6 = all.len() % 3 == 1;
            all.push(Client {
                who,
                way,
                protocol,
                v6,
            });
        }
    }
    all
}

fn service(number: u16) -> Said {
    Said::new(&format!("service-{number}"), number)
        .web()
        .node_port(PORT + number)
}

fn name(end: &End) -> String {
    format!("{}-{}", end.node + 1, end.pod + 1)
}

fn held(there: bool, ends: &[End]) -> Held {
    let ready: Vec<&End> = ends.iter().filter(|end| end.ready).collect();
    // Those that drain take connections where there are no others.
    let takes: Vec<&End> = if ready.is_empty() {
        ends.iter().filter(|end| end.serving).collect()
    } else {
        ready
    };
    Held {
        serves: there && !takes.is_empty(),
        takes: if there {
            takes.into_iter().map(name).collect()
        } else {
            BTreeSet::new()
        },
        drains: if there {
            let drains = ends.iter().filter(|end| end.terminating && end.serving);
            drains.map(name).collect()
        } else {
            BTreeSet::new()
        },
    }
}

/// What is true of a Service now.
struct State {
    there: bool,
    ends: Vec<End>,
}

impl State {
    /// Changes something.
    fn change(&mut self, random: &mut Random) -> &'static str {
        let backends = |node, pod| end(node, pod);
        let pick = random.below(8);
        match pick {
            0 if self.there => {
                self.there = false;
                return "the Service goes";
            }
            _ if !self.there => {
                self.there = true;
                return "the Service comes";
            }
            _ => {}
        }
        let (node, pod) = (random.below(2), 1 + random.below(usize::from(PODS) - 1));
        let new = backends(u8::try_from(node).unwrap(), u8::try_from(pod).unwrap());
        let known = self.ends.iter().position(|end| name(end) == name(&new));
        match (known, pick) {
            (None, _) => {
                self.ends.push(new);
                "an endpoint comes"
            }
            (Some(at), 1..=3) => {
                self.ends.remove(at);
                "an endpoint goes"
            }
            (Some(at), 4 | 5) => {
                let end = &mut self.ends[at];
                *end = if end.terminating {
                    new
                } else {
                    end.clone().terminating()
                };
                "an endpoint terminates, or is there again"
            }
            (Some(at), _) => {
                let weight = 1 + random.below(4);
                self.ends[at].weight = u8::try_from(weight).unwrap();
                "a weight changes"
            }
        }
    }
}

/// A connection that did not come about, or broke.
#[derive(Debug)]
struct Failure {
    /// The backend, if it had answered.
    name: Option<String>,
    error: io::Error,
}

/// What clients have seen.
#[derive(Default)]
struct Findings {
    opened: AtomicUsize,
    failed: AtomicUsize,
    wrong: Mutex<Vec<String>>,
}

impl Findings {
    fn judge(
        &self,
        client: Client,
        (number, to): (u16, SocketAddr),
        times: [Instant; 2],
        histories: &[RwLock<History>],
        asked: &Result<Seen, Failure>,
    ) {
        let history = histories[usize::from(number - 1)].read().unwrap();
        let eras = history.during(times[0], times[1]);
        let right = match asked {
            Ok(seen) => {
                self.opened.fetch_add(1, Ordering::Relaxed);
                let allows = |held: &&Held| held.allows(client.protocol, &seen.name);
                eras.iter().any(allows)
            }
            Err(failure) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                let gone = |name: &String| eras.iter().any(|held| !held.takes.contains(name));
                let silent = failure.error.kind() == io::ErrorKind::TimedOut;
                match &failure.name {
                    // It had a backend, which was removed then.
                    Some(name) => gone(name),
                    // It may have been given to one that was removed before it answered.
                    None if !silent => {
                        eras.iter().any(|held| !held.serves)
                            || eras.iter().any(|held| held.takes.iter().any(gone))
                    }
                    None => eras.iter().any(|held| !held.serves),
                }
            }
        };
        if !right {
            let mut text = String::new();
            let took = times[1] - times[0];
            let _ = write!(
                text,
                "{client:?} to {to}: {asked:?} after {took:?}; {eras:?}"
            );
            self.wrong.lock().unwrap().push(text);
        }
    }
}

fn ask(protocol: Protocol, to: SocketAddr, patience: Duration) -> Result<Seen, Failure> {
    let fail = |name, error| Failure { name, error };
    let mut talk = Talk::open_within(protocol, to, patience).map_err(|error| fail(None, error))?;
    // What began goes on.
    let name = talk.seen.name.clone();
    let went = talk.exchange(100);
    went.map_err(|error| fail(Some(name), io::Error::other(error)))?;
    Ok(talk.seen)
}

/// Connects again and again, to every Service in turns.
fn connect(
    cluster: &Cluster,
    client: Client,
    histories: &[RwLock<History>],
    findings: &Findings,
    over: &AtomicBool,
) {
    let outside = client.who == Who::Outside;
    cluster.at(client.who, client.way, || {
        let mut round = 0;
        while !over.load(Ordering::Relaxed) {
            round += 1;
            let number = 1 + round % SERVICES;
            let to = if outside {
                cluster.node_port(0, client.v6, PORT + number)
            } else {
                SocketAddr::new(service(number).cluster_ip(client.v6), 80)
            };
            let serves = {
                let history = histories[usize::from(number - 1)].read().unwrap();
                history.0.last().is_none_or(|era| era.held.serves)
            };
            // Nobody waits long for whom there is not.
            let patience = if serves { PATIENCE } else { PATIENCE / 50 };
            let from = Instant::now();
            let asked = ask(client.protocol, to, patience);
            let times = [from, Instant::now()];
            findings.judge(client, (number, to), times, histories, &asked);
        }
    });
}

fn begin(cluster: &mut Cluster) -> (BTreeMap<u16, State>, Vec<RwLock<History>>) {
    let mut states = BTreeMap::new();
    let mut histories = Vec::new();
    for number in 1..=SERVICES {
        let ends = vec![end(0, 1), end(1, 2), end(1, 1)];
        cluster.say(&service(number).ends(ends.clone()));
        let now = Instant::now();
        histories.push(RwLock::new(History(vec![Era {
            begun: now,
            done: Some(now),
            held: held(true, &ends),
        }])));
        states.insert(number, State { there: true, ends });
    }
    (states, histories)
}

fn churn(attachment: Attachment, count: usize) {
    let mut cluster = Cluster::new(PODS, attachment).unwrap();
    cluster.blackhole(true);
    let (mut states, histories) = begin(&mut cluster);
    let findings = Findings::default();
    let over = AtomicBool::new(false);
    let mut balancers = cluster.take_balancers();
    std::thread::scope(|scope| {
        for client in clients() {
            let (cluster, histories) = (&cluster, &histories);
            let (findings, over) = (&findings, &over);
            scope.spawn(move || connect(cluster, client, histories, findings, over));
        }
        let mut random = Random(20_261_127);
        for _ in 0..count {
            let number = u16::try_from(1 + random.below(usize::from(SERVICES))).unwrap();
            let state = states.get_mut(&number).unwrap();
            state.change(&mut random);
            let history = &histories[usize::from(number - 1)];
            history.write().unwrap().0.push(Era {
                begun: Instant::now(),
                done: None,
                held: held(state.there, &state.ends),
            });
            let said = service(number).ends(state.ends.clone());
            let left = if state.there {
                balancers.say(&said)
            } else {
                balancers.forget(&said)
            };
            cluster.end(&left);
            let mut history = history.write().unwrap();
            history.0.last_mut().unwrap().done = Some(Instant::now());
            drop(history);
            if !findings.wrong.lock().unwrap().is_empty() {
                break;
            }
            // Clients get a word in.
            let opened = findings.opened.load(Ordering::Relaxed);
            let patience = Instant::now() + Duration::from_millis(20);
            while findings.opened.load(Ordering::Relaxed) < opened + 8 && Instant::now() < patience
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let wrong = findings.wrong.into_inner().unwrap();
    let (opened, failed) = (findings.opened.into_inner(), findings.failed.into_inner());
    println!("{attachment:?}: {count} changes, {opened} connections, {failed} had nobody");
    let some = &wrong[..wrong.len().min(5)];
    assert!(wrong.is_empty(), "{} were wrong: {some:#?}", wrong.len());
    assert!(opened > count * 2, "only {opened} connections");
}

#[test]
fn soak_services_change_under_clients() {
    for attachment in [Attachment::Tcx, Attachment::Clsact] {
        churn(attachment, changes());
    }
}
