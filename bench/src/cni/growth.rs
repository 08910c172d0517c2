//! Does anything grow with what is on the node already?

use std::path::PathBuf;

use anyhow::Result;
use serde_json::json;
use watari_cni_spec::{CniArgs, Command, Request};
use watari_model::{ContainerId, IfName};
use watari_runtime::delegate;

use super::clock::{Times, at_once};
use super::floor::Bare;
use super::node::{Chain, NETWORK, Node, Plugins, Pod};
use super::{CPU, Of, Sizes, add, del, in_turn, note, warm};
use crate::row::{Pairs, Row};

/// What the ratio shall reach: where nothing grows it is 1.
const SAME: f64 = 1.0;

/// The rows.
pub fn rows(plugins: &Plugins, sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = pods(plugins, sizes)?;
    rows.extend(mappings(plugins, sizes)?);
    Ok(rows)
}

/// ADD and DEL of one more pod, on a node with few and on one with many.
fn pods(plugins: &Plugins, sizes: Sizes) -> Result<Vec<Row>> {
    let (few, many) = sizes.pods;
    let (small, full) = (warm(Chain::Ours(plugins))?, warm(Chain::Ours(plugins))?);
    let (on_small, on_full) = (attached(&small, few)?, attached(&full, many)?);
    let rounds = sizes.fine.div_ceil(2);
    let (ours, theirs) = (Pod::some(rounds)?, Pod::some(rounds)?);
    let (mut adds, mut dels) = (Pairs::default(), Pairs::default());
    let mut bare = Pairs::default();
    for (round, (ours, theirs)) in ours.chunks(1).zip(theirs.chunks(1)).enumerate() {
        let (our, their) = in_turn(round, || add(&full, ours, CPU), || add(&small, theirs, CPU))?;
        note(&mut adds, Of::Calls, &our, &their);
        let (our, their) = in_turn(round, || del(&full, ours, CPU), || del(&small, theirs, CPU))?;
        note(&mut dels, Of::Calls, &our, &their);
        let (our, their) = in_turn(round, || made(&full, ours), || made(&small, theirs))?;
        note(&mut bare, Of::Calls, &our, &their);
    }
    // Gone with their namespaces, all at once.
    drop((on_small, on_full));
    let peer = format!("itself with {few} pods");
    let case = |what| format!("{what}/pods={many}");
    Ok(vec![
        Row::against(case("add"), &peer, &adds, Some(SAME)),
        Row::against(case("del"), &peer, &dels, Some(SAME)),
        Row::against(case("floor/netlink"), &peer, &bare, None),
    ])
}

/// The kernel's part alone: a pair is made, and deleted untimed.
fn made(node: &Node, pods: &[Pod]) -> Result<Times<()>> {
    let ready = |pod| {
        node.enter()?;
        Bare::ready(pod)
    };
    let times = at_once(pods, CPU, ready, |_, pair: Bare| pair.make())?;
    let delete = |(time, pair): (f64, Bare)| pair.delete().map(|()| (time, ()));
    Ok(Times {
        wall: times.wall,
        calls: times.calls.into_iter().map(delete).collect::<Result<_>>()?,
    })
}

fn attached(node: &Node, count: usize) -> Result<Vec<Pod>> {
    let pods = Pod::some(count)?;
    for pod in pods.chunks(8) {
        add(node, pod, None)?;
    }
    Ok(pods)
}

/// The execution of `portmap` alone, for the first mapping and for one after many.
fn mappings(plugins: &Plugins, sizes: Sizes) -> Result<Vec<Row>> {
    let (few, many) = (warm(Chain::Ours(plugins))?, warm(Chain::Ours(plugins))?);
    let there = (1..=sizes.mappings).map(|at| Mapped::new(&many, at));
    let there = there.collect::<Result<Vec<_>>>()?;
    for mapped in &there {
        mapped.run(&many, Command::Add)?;
    }
    let next = sizes.mappings + 1;
    let (first, after) = (Mapped::new(&few, next)?, Mapped::new(&many, next)?);
    let (mut adds, mut dels) = (Pairs::default(), Pairs::default());
    for round in 0..sizes.fine {
        for (command, pairs) in [(Command::Add, &mut adds), (Command::Del, &mut dels)] {
            let (our, their) = in_turn(
                round,
                || after.run(&many, command),
                || first.run(&few, command),
            )?;
            note(pairs, Of::Calls, &our, &their);
            few.settle();
            many.settle();
        }
    }
    let peer = "itself without mappings";
    let case = |what| format!("portmap-{what}/mappings={}", sizes.mappings);
    Ok(vec![
        Row::against(case("add"), peer, &adds, Some(SAME)),
        Row::against(case("del"), peer, &dels, Some(SAME)),
    ])
}

/// A mapping of a pod that is not there: `portmap` needs its address only.
struct Mapped {
    request: Request,
    stdin: Vec<u8>,
}

impl Mapped {
    fn new(node: &Node, at: usize) -> Result<Self> {
        let (high, low) = (at / 250, 1 + at % 250);
        let conf = json!({
            "cniVersion": "1.0.0", "name": NETWORK, "type": "portmap", "snat": true,
            "runtimeConfig": {"portMappings":
                [{"hostPort": 10_000 + at, "containerPort": 80, "protocol": "tcp"}]},
            "prevResult": {"cniVersion": "1.0.0",
                "interfaces": [{"name": "eth0", "sandbox": "/run/netns/none"}],
                "ips": [{"address": format!("10.241.{high}.{low}/16"), "interface": 0}]},
        });
        Ok(Self {
            request: Request {
                command: Command::Add,
                container: Some(ContainerId::new(format!("mapped-{at}"))?),
                ifname: Some(IfName::new("eth0")?),
                netns: Some(PathBuf::from("/run/netns/none")),
                args: CniArgs::new(),
                path: node.path().to_vec(),
            },
            stdin: conf.to_string().into_bytes(),
        })
    }

    fn run(&self, node: &Node, command: Command) -> Result<Times<()>> {
        let request = Request {
            command,
            ..self.request.clone()
        };
        let call = |(): &(), ()| {
            delegate("portmap", &request, &self.stdin)?;
            Ok(())
        };
        at_once(&[()], CPU, |()| node.enter(), call)
    }
}
