//! The plugin beside the reference plugins, its floor, and itself on a full node.

mod clock;
mod floor;
mod growth;
mod memory;
mod node;

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;

use crate::row::{Pairs, Row};
use clock::{Times, at_once};
use floor::{Bare, Floor, Parts};
use node::{Chain, Node, Plugins, Pod};

/// What ADD shall be faster than the reference by.
const BESIDE_REFERENCE: f64 = 8.0;
/// The floor's share of an ADD, at least: it takes at most 1.5 times as long.
const OF_FLOOR: f64 = 1.0 / 1.5;
/// The bare deletion's share of a DEL, at least: it takes at most 1.25 times as long.
const OF_DELETION: f64 = 1.0 / 1.25;
/// What one binary may weigh, in bytes.
const SIZE_LIMIT: f64 = 5_000_000.0;
/// What an ADD may have resident at its peak, in KiB.
const MEMORY_LIMIT: f64 = 8.0 * 1024.0;

/// How much is measured.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rounds of one call at a time beside the reference.
    rounds: usize,
    /// Rounds of one call at a time beside a floor, or beside ourselves.
    fine: usize,
    /// Calls at once, and rounds of them.
    many: (usize, usize),
    /// Calls of a burst, and rounds of them.
    burst: (usize, usize),
    /// Pods on the node that is compared with the full one, and on the full one.
    pods: (usize, usize),
    /// Mappings on the node whose next one is compared with the first.
    mappings: usize,
}

const FULL: Sizes = Sizes {
    rounds: 40,
    fine: 120,
    many: (8, 15),
    burst: (100, 6),
    pods: (10, 1000),
    mappings: 99,
};

const QUICK: Sizes = Sizes {
    rounds: 2,
    fine: 2,
    many: (2, 2),
    burst: (4, 2),
    pods: (1, 3),
    mappings: 2,
};

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// Size and memory.
    Size,
    /// One call at a time.
    One,
    /// Some at once.
    Some,
    /// A burst of ADD.
    Burst,
    /// DEL beside the bare deletion.
    Deletion,
    /// A full node.
    Full,
}

/// The rows of one part, or of all.
pub fn run(quick: bool, only: Option<Part>) -> Result<Vec<Row>> {
    let sizes = if quick { QUICK } else { FULL };
    let plugins = Plugins::install()?;
    let reference = reference()?;
    let mut rows = Vec::new();
    for part in Part::value_variants() {
        if only.is_some_and(|only| only != *part) {
            continue;
        }
        let more = match part {
            Part::Size => memory::rows(&plugins),
            Part::One => one(&plugins, &reference, sizes),
            Part::Some => some(&plugins, &reference, sizes),
            Part::Burst => burst(&plugins, &reference, sizes),
            Part::Deletion => deletion(&plugins, sizes),
            Part::Full => growth::rows(&plugins, sizes),
        };
        rows.extend(more.with_context(|| format!("cannot measure the part {part:?}"))?);
        eprintln!("measured: {part:?}");
    }
    Ok(rows)
}

/// The reference plugins with their version.
fn reference() -> Result<String> {
    let version = |package: &str| -> Result<String> {
        let output = Command::new("dpkg-query")
            .args(["-W", "-f", "${Version}", package])
            .output()
            .context("cannot ask dpkg-query for a version")?;
        ensure!(output.status.success(), "{package} is not installed");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    Ok(format!(
        "ptp + host-local + portmap {}, iptables {}",
        version("containernetworking-plugins")?,
        version("iptables")?
    ))
}

/// Which time of a round counts.
#[derive(Clone, Copy)]
enum Of {
    /// The median of its calls.
    Calls,
    /// From its first start to its last end.
    Wall,
}

impl Of {
    fn value<R>(self, times: &Times<R>) -> f64 {
        match self {
            Self::Wall => times.wall,
            Self::Calls => crate::stats::median(&calls(times)),
        }
    }
}

fn calls<R>(times: &Times<R>) -> Vec<f64> {
    times.calls.iter().map(|(time, _)| *time).collect()
}

/// Adds a round of ours and theirs.
fn note<A, B>(pairs: &mut Pairs, of: Of, ours: &Times<A>, theirs: &Times<B>) {
    pairs.rounds.push((of.value(ours), of.value(theirs)));
    pairs.calls.extend(calls(ours));
}

/// Ours first in even rounds, theirs first in odd ones.
fn in_turn<A, B>(
    round: usize,
    ours: impl FnOnce() -> Result<A>,
    theirs: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    if round.is_multiple_of(2) {
        let first = ours()?;
        Ok((first, theirs()?))
    } else {
        let first = theirs()?;
        Ok((ours()?, first))
    }
}

fn add(node: &Node, pods: &[Pod], cpu: Option<usize>) -> Result<Times<()>> {
    at_once(pods, cpu, |_| node.enter(), |pod, ()| node.add(pod))
}

fn del(node: &Node, pods: &[Pod], cpu: Option<usize>) -> Result<Times<()>> {
    at_once(pods, cpu, |_| node.enter(), |pod, ()| node.del(pod))
}

/// The floor of an ADD for each of the pods, at once; taken back after it.
fn floor(node: &Node, pods: &[Pod], cpu: Option<usize>) -> Result<Times<Parts>> {
    let ready = |pod| {
        node.enter()?;
        Floor::ready(node, pod)
    };
    let times = at_once(pods, cpu, ready, |_, mut floor| Ok((floor.run()?, floor)))?;
    let undo = |(time, (parts, mut floor)): (f64, (Parts, Floor<'_>))| {
        floor.undo()?;
        Ok((time, parts))
    };
    Ok(Times {
        wall: times.wall,
        calls: times.calls.into_iter().map(undo).collect::<Result<_>>()?,
    })
}

/// A node that has attached a pod before: its store and its table are there.
fn warm(chain: Chain<'_>) -> Result<Node> {
    let node = Node::new(chain)?;
    let pods = Pod::some(1)?;
    if matches!(chain, Chain::Null(_)) {
        floor(&node, &pods, None)?;
    } else {
        add(&node, &pods, None)?;
        del(&node, &pods, None)?;
    }
    Ok(node)
}

/// ADD and DEL of two nodes in turn, `count` at once.
fn duel(ours: &Node, theirs: &Node, count: usize, rounds: usize) -> Result<(Pairs, Pairs)> {
    let mut pairs = (Pairs::default(), Pairs::default());
    let (mine, others) = (Pod::some(count * rounds)?, Pod::some(count * rounds)?);
    for (round, (mine, others)) in mine.chunks(count).zip(others.chunks(count)).enumerate() {
        let (our, their) = in_turn(
            round,
            || add(ours, mine, None),
            || add(theirs, others, None),
        )?;
        note(&mut pairs.0, Of::Calls, &our, &their);
        let (our, their) = in_turn(
            round,
            || del(ours, mine, None),
            || del(theirs, others, None),
        )?;
        note(&mut pairs.1, Of::Calls, &our, &their);
    }
    Ok(pairs)
}

/// ADD beside its floor, `count` at once; also the parts of each floor.
fn beside_floor(
    plugins: &Plugins,
    (count, rounds): (usize, usize),
    cpu: Option<usize>,
) -> Result<(Pairs, Vec<Parts>)> {
    let (ours, bare) = (warm(Chain::Ours(plugins))?, warm(Chain::Null(plugins))?);
    let mut pairs = Pairs::default();
    let mut parts = Vec::new();
    let (mine, others) = (Pod::some(count * rounds)?, Pod::some(count * rounds)?);
    for (round, (mine, others)) in mine.chunks(count).zip(others.chunks(count)).enumerate() {
        let with_del = || {
            let times = add(&ours, mine, cpu)?;
            del(&ours, mine, cpu)?;
            Ok(times)
        };
        let (our, their) = in_turn(round, with_del, || floor(&bare, others, cpu))?;
        note(&mut pairs, Of::Calls, &our, &their);
        parts.extend(their.calls.iter().map(|(_, parts)| *parts));
    }
    Ok((pairs, parts))
}

const FLOOR: &str = "floor: two empty executions, a commit, a transaction, netlink";
const DELETION: &str = "floor: deletion of such a veth pair";
/// Where single calls beside a floor run, the plugin included.
const CPU: Option<usize> = Some(0);

fn one(plugins: &Plugins, reference: &str, sizes: Sizes) -> Result<Vec<Row>> {
    let (ours, theirs) = (warm(Chain::Ours(plugins))?, warm(Chain::Reference)?);
    let (adds, dels) = duel(&ours, &theirs, 1, sizes.rounds)?;
    let (floors, parts) = beside_floor(plugins, (1, sizes.fine), CPU)?;
    let part = |name: &str, of: fn(&Parts) -> f64| {
        let samples: Vec<f64> = parts.iter().map(of).collect();
        Row::plain(format!("floor/{name}"), &samples)
    };
    Ok(vec![
        Row::against("add".to_owned(), reference, &adds, Some(BESIDE_REFERENCE)),
        Row::against("add".to_owned(), FLOOR, &floors, Some(OF_FLOOR)),
        part("executions", |parts| parts.executions),
        part("commit", |parts| parts.commit),
        part("nftables", |parts| parts.nftables),
        part("netlink", |parts| parts.netlink),
        Row::against("del".to_owned(), reference, &dels, None),
    ])
}

fn some(plugins: &Plugins, reference: &str, sizes: Sizes) -> Result<Vec<Row>> {
    let (ours, theirs) = (warm(Chain::Ours(plugins))?, warm(Chain::Reference)?);
    let (count, rounds) = sizes.many;
    let (adds, dels) = duel(&ours, &theirs, count, rounds)?;
    let (floors, _) = beside_floor(plugins, (count, rounds * 3), None)?;
    let case = |what| format!("{what}/{count}");
    Ok(vec![
        Row::against(case("add"), reference, &adds, Some(BESIDE_REFERENCE)),
        Row::against(case("add"), FLOOR, &floors, Some(OF_FLOOR)),
        Row::against(case("del"), reference, &dels, None),
    ])
}

/// Each round on nodes of its own, which are gone with it.
fn burst(plugins: &Plugins, reference: &str, sizes: Sizes) -> Result<Vec<Row>> {
    let (count, rounds) = sizes.burst;
    let (mut beside, mut floors) = (Pairs::default(), Pairs::default());
    for round in 0..rounds {
        let (ours, theirs) = (warm(Chain::Ours(plugins))?, warm(Chain::Reference)?);
        let bare = warm(Chain::Null(plugins))?;
        let pods = Pod::some(3 * count)?;
        let (mine, others) = pods.split_at(count);
        let (others, more) = others.split_at(count);
        let (our, (their, least)) = in_turn(
            round,
            || add(&ours, mine, None),
            || {
                in_turn(
                    round,
                    || add(&theirs, others, None),
                    || floor(&bare, more, None),
                )
            },
        )?;
        note(&mut beside, Of::Wall, &our, &their);
        note(&mut floors, Of::Wall, &our, &least);
    }
    let case = || format!("burst/{count}");
    Ok(vec![
        Row::against(case(), reference, &beside, Some(BESIDE_REFERENCE)),
        Row::against(case(), FLOOR, &floors, Some(OF_FLOOR)),
    ])
}

/// DEL beside the deletion of a veth pair that ADD would have made.
fn deletion(plugins: &Plugins, sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let (some, rounds) = sizes.many;
    let half = sizes.fine.div_ceil(2);
    for (count, rounds, cpu) in [(1, half, CPU), (some, rounds, None)] {
        let (ours, bare) = (warm(Chain::Ours(plugins))?, warm(Chain::Null(plugins))?);
        let mut pairs = Pairs::default();
        let (mine, others) = (Pod::some(count * rounds)?, Pod::some(count * rounds)?);
        for (round, (mine, others)) in mine.chunks(count).zip(others.chunks(count)).enumerate() {
            add(&ours, mine, cpu)?;
            let ready = |pod| {
                bare.enter()?;
                Bare::ready(pod)?.make()
            };
            let (our, their) = in_turn(
                round,
                || del(&ours, mine, cpu),
                || at_once(others, cpu, ready, |_, pair: Bare| pair.delete()),
            )?;
            note(&mut pairs, Of::Calls, &our, &their);
        }
        let case = if count == 1 {
            "del".to_owned()
        } else {
            format!("del/{count}")
        };
        rows.push(Row::against(case, DELETION, &pairs, Some(OF_DELETION)));
    }
    Ok(rows)
}
