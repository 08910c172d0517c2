//! Eight processes at once add and delete pods and are killed at random: every lease, link and
//! mapping is somebody's who lives.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use watari_model::{Attachment, HostPrefix};
use watari_netlink::Handle;

use crate::node::{Node, Pod, addresses, assert_same};
use crate::random::{Random, soak};

const WORKERS: u16 = 8;
/// The pods of one worker.
const SLOTS: u16 = 3;
/// How often everything is looked at.
const PHASES: usize = 4;
/// In a hundred calls.
const KILLED: usize = 35;
/// Of a hundred pods whose ADD or DEL was killed, so many are never spoken of again.
const FORGOTTEN: usize = 25;
/// The longest life of a plugin that is killed, in microseconds; most end sooner.
const LIFE: usize = 60_000;

/// What the runtime knows of a pod.
enum Standing {
    /// Not attached.
    Clean,
    /// By this result.
    Attached(Value),
    /// Its ADD or DEL was killed.
    Unknown,
}

struct Slot {
    pod: Pod,
    standing: Standing,
}

struct Worker {
    random: Random,
    slots: Vec<Slot>,
    name: u16,
    born: u32,
}

impl Worker {
    fn new(name: u16, random: Random) -> Self {
        let mut worker = Self {
            random,
            slots: Vec::new(),
            name,
            born: 0,
        };
        for slot in 0..SLOTS {
            let pod = worker.pod(20_000 + name * SLOTS + slot);
            let standing = Standing::Clean;
            worker.slots.push(Slot { pod, standing });
        }
        worker
    }

    fn pod(&mut self, port: u16) -> Pod {
        self.born += 1;
        Pod::new(&format!("w{}p{}", self.name, self.born), port)
    }

    /// One ADD or DEL of a pod, perhaps killed.
    fn step(&mut self, node: &Node) {
        let at = self.random.below(self.slots.len());
        let killed = self.random.chance(KILLED);
        let unknown = matches!(self.slots[at].standing, Standing::Unknown);
        if unknown && self.random.chance(FORGOTTEN) {
            // Its port stays taken until GC.
            let port = 30_000 + self.name * 1000 + u16::try_from(self.born % 1000).expect("fits");
            self.slots[at].pod = self.pod(port);
            self.slots[at].standing = Standing::Clean;
        }
        let slot = &mut self.slots[at];
        let add = matches!(slot.standing, Standing::Clean);
        slot.standing = if killed {
            kill(node, &slot.pod, add, &mut self.random);
            Standing::Unknown
        } else if add {
            Standing::Attached(node.add(&slot.pod))
        } else {
            node.del(&slot.pod);
            assert!(
                !has_link(node, &slot.pod),
                "DEL left {}",
                slot.pod.container
            );
            assert_eq!(slot.pod.links(), [""; 0], "left in the pod by DEL");
            Standing::Clean
        };
    }
}

/// The list's ADD or DEL with death in one of its two plugins.
fn kill(node: &Node, pod: &Pod, add: bool, random: &mut Random) {
    let life = Duration::from_micros(random.below(LIFE) as u64 / 4);
    let life = if random.chance(25) { life * 4 } else { life };
    let first = random.chance(50);
    let program = |plugin, command| node.program(plugin, command, Some(pod));
    let interface = node.interface().to_string();
    let ports = Node::portmap(pod).to_string();
    match (add, first) {
        (true, true) => node.run_for(program("azure-vnet", "ADD"), interface.as_bytes(), life),
        (true, false) => {
            let result = node.add_interface(pod).ok();
            let conf = Node::ports_conf(pod, &result).to_string();
            node.run_for(program("portmap", "ADD"), conf.as_bytes(), life);
        }
        (false, true) => node.run_for(program("portmap", "DEL"), ports.as_bytes(), life),
        (false, false) => {
            node.run(program("portmap", "DEL"), ports.as_bytes()).ok();
            node.run_for(program("azure-vnet", "DEL"), interface.as_bytes(), life);
        }
    }
}

fn attachment(pod: &Pod) -> Attachment {
    Attachment {
        container: pod.container.parse().expect("a container id"),
        ifname: "eth0".parse().expect("an interface name"),
    }
}

fn host_link(pod: &Pod) -> String {
    attachment(pod)
        .host_ifname(&HostPrefix::default())
        .to_string()
}

fn has_link(node: &Node, pod: &Pod) -> bool {
    let name = attachment(pod).host_ifname(&HostPrefix::default());
    node.ns.enter(|| {
        let mut handle = Handle::open().expect("open a netlink socket");
        handle.link(&name).expect("look up a link").is_some()
    })
}

/// After GC the node holds what the living have, and they work.
fn look_at_everything(node: &Node, workers: &mut [Worker]) {
    let slots = || workers.iter().flat_map(|worker| &worker.slots);
    let mut living = Vec::new();
    for slot in slots() {
        if let Standing::Attached(result) = &slot.standing {
            living.push((&slot.pod, result));
        }
    }
    // Nothing is leased twice before GC either.
    node.books();
    let pods: Vec<&Pod> = living.iter().map(|(pod, _)| *pod).collect();
    node.gc(&pods);
    let state = node.state();
    let all = |of: &dyn Fn(&Pod) -> Vec<String>| -> BTreeSet<String> {
        pods.iter().flat_map(|pod| of(pod)).collect()
    };
    let names = all(&|pod| vec![format!("{}/eth0", pod.container)]);
    assert_eq!(state["endpoints"], names);
    let given = all(&addresses);
    assert_eq!(given.len(), 2 * pods.len(), "an address on two pods");
    let leased = &state["leases"];
    let leased: BTreeSet<String> = leased
        .iter()
        .filter_map(|lease| lease.split(' ').next().map(str::to_owned))
        .collect();
    assert_eq!(leased, given);
    let links = all(&|pod| vec![host_link(pod)]);
    for kind in ["links", "routes", "neighbours", "proxies"] {
        for line in &state[kind] {
            let link = line.split([' ', '@']).find(|word| word.starts_with("azv"));
            let ours = link.is_none_or(|link| links.contains(link));
            assert!(ours, "{kind}: of nobody: {line}");
        }
    }
    for mapping in &state["mappings"] {
        let ours = names
            .iter()
            .any(|name| mapping.contains(&format!("/{name}\"")));
        assert!(ours, "of nobody: {mapping}");
    }
    for (pod, result) in &living {
        node.ping(pod);
        node.ask_port(pod);
        node.check(pod, result);
    }
    for slot in workers.iter_mut().flat_map(|worker| &mut worker.slots) {
        if matches!(slot.standing, Standing::Unknown) {
            assert_eq!(slot.pod.links(), [""; 0], "left in the pod by GC");
            slot.standing = Standing::Clean;
        }
    }
}

#[test]
fn eight_at_once_with_random_deaths() {
    let mut random = Random::new("storm");
    let calls = if soak() { 2000 } else { 200 };
    let node = Node::new();
    let first = Pod::new("first", 2001);
    node.add(&first);
    node.del(&first);
    let before = node.state();
    let mut workers: Vec<Worker> = (0..WORKERS)
        .map(|name| Worker::new(name, random.fork()))
        .collect();
    for phase in 1..=PHASES {
        std::thread::scope(|scope| {
            for worker in &mut workers {
                scope.spawn(|| {
                    for _ in 0..calls / PHASES / usize::from(WORKERS) {
                        worker.step(&node);
                    }
                });
            }
        });
        look_at_everything(&node, &mut workers);
        println!("phase {phase} of {PHASES} is well");
    }
    for slot in workers.iter().flat_map(|worker| &worker.slots) {
        node.del(&slot.pod);
    }
    node.gc(&[]);
    assert_same(&before, &node.state(), "after all");
}
