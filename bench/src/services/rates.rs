//! Connections, requests and datagrams a second.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::cgroup::Cgroup;
use super::peers::Mode;
use super::roads::{LOADING, Ours, Theirs};
use super::traffic::Client;
use super::{ENDPOINTS, Sizes, pairs};
use crate::row::Row;

/// A connection through a cluster address at the socket, beside one straight to the backend.
const AT_SOCKET: f64 = 0.98;
/// The same by packets.
const BY_PACKET: f64 = 0.95;
/// What the ratio shall reach where nothing grows.
const SAME: f64 = 1.0;
const STRAIGHT: &str = "straight to the backend, no program at the socket";

/// Measures a rate with a client.
type Measure = fn(&Client, &[SocketAddr], Duration) -> Result<f64>;

/// One thing that is measured, in turn with others.
struct Lane<'a> {
    client: &'a Client,
    targets: Vec<SocketAddr>,
    measure: Measure,
    name: String,
}

fn connections(client: &Client, targets: &[SocketAddr], duration: Duration) -> Result<f64> {
    client.connections(targets, duration)
}

fn requests(client: &Client, targets: &[SocketAddr], duration: Duration) -> Result<f64> {
    client.requests(targets[0], duration)
}

fn datagrams(client: &Client, targets: &[SocketAddr], duration: Duration) -> Result<f64> {
    client.datagrams(targets[0], duration)
}

/// The values of each lane, by its name.
struct Values(Vec<(String, Vec<f64>)>);

impl Values {
    fn of(&self, name: &str) -> Result<&[f64]> {
        let found = self.0.iter().find(|(of, _)| of == name);
        let (_, values) = found.with_context(|| format!("{name} was not measured"))?;
        Ok(values)
    }

    /// More of one is better than of the other.
    fn row(&self, case: &str, peer: &str, theirs: &str, goal: Option<f64>) -> Result<Row> {
        self.row_of(case, case, peer, theirs, goal)
    }

    fn row_of(
        &self,
        case: &str,
        ours: &str,
        peer: &str,
        theirs: &str,
        goal: Option<f64>,
    ) -> Result<Row> {
        let pairs = pairs(self.of(ours)?, self.of(theirs)?);
        Ok(Row::more(case.to_owned(), "/s", peer, &pairs, goal))
    }
}

/// One value of each lane a round, the lanes in turn, there and back: whatever drifts meets all alike.
fn in_turn(lanes: &[Lane<'_>], sizes: Sizes) -> Result<Values> {
    let mut values: Vec<_> = lanes
        .iter()
        .map(|lane| (lane.name.clone(), vec![]))
        .collect();
    let measure = |lane: &Lane<'_>, duration| {
        let value = (lane.measure)(lane.client, &lane.targets, duration);
        value.with_context(|| format!("cannot measure {}", lane.name))
    };
    for lane in lanes {
        measure(lane, sizes.round / 4)?;
    }
    for round in 0..sizes.rounds {
        let mut order: Vec<usize> = (0..lanes.len()).collect();
        if !round.is_multiple_of(2) {
            order.reverse();
        }
        for at in order {
            values[at].1.push(measure(&lanes[at], sizes.round)?);
        }
    }
    Ok(Values(values))
}

/// The ways of a client on a node of ours.
fn lanes<'a>(ours: &'a Ours, what: &str, end: &str, measure: Measure) -> Vec<Lane<'a>> {
    let (through, straight) = (ours.world.used(), ours.world.backends());
    let lane = |way: &str, client, targets: &[SocketAddr]| Lane {
        client,
        targets: targets.to_vec(),
        measure,
        name: format!("{way}/{what}/{end}"),
    };
    vec![
        lane("clusterip", &ours.served, &through),
        lane("packet", &ours.unserved, &through),
        lane("straight", &ours.unserved, &straight),
        lane("straight-served", &ours.served, &straight),
    ]
}

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let cgroup = Cgroup::new()?;
    let mut rows = sizes_rows(sizes, &cgroup)?;
    let one = sizes.services.1;
    let v4 = Ours::new(one, ENDPOINTS, false, &cgroup)?;
    let mut all = lanes(&v4, "rr", &one.to_string(), requests);
    all.extend(lanes(&v4, "udp-rr", &one.to_string(), datagrams));
    let v6 = Ours::new(one, ENDPOINTS, true, &cgroup)?;
    let end = format!("{one}/v6");
    all.extend(lanes(&v6, "crr", &end, connections));
    all.retain(|lane| !lane.name.starts_with("straight-served"));
    let values = in_turn(&all, sizes)?;
    for what in [format!("rr/{one}"), format!("crr/{end}")] {
        rows.extend(beside_straight(
            &values,
            &what,
            [Some(AT_SOCKET), Some(BY_PACKET)],
        )?);
    }
    rows.extend(beside_straight(
        &values,
        &format!("udp-rr/{one}"),
        [None, None],
    )?);
    Ok(rows)
}

/// Both ways through a cluster address beside the straight one.
fn beside_straight(values: &Values, what: &str, goals: [Option<f64>; 2]) -> Result<[Row; 2]> {
    let straight = format!("straight/{what}");
    let row = |way, goal| values.row(&format!("{way}/{what}"), STRAIGHT, &straight, goal);
    Ok([row("clusterip", goals[0])?, row("packet", goals[1])?])
}

/// Connections at every number of Services, of ours and of the peers.
fn sizes_rows(sizes: Sizes, cgroup: &Cgroup) -> Result<Vec<Row>> {
    let (counts, one) = sizes.services;
    let ours: Vec<_> = counts
        .iter()
        .map(|count| Ours::new(*count, ENDPOINTS, false, cgroup))
        .collect::<Result<_>>()?;
    let mut rows = Vec::new();
    let mut theirs = Vec::new();
    for mode in Mode::ALL {
        for count in counts {
            let case = format!("{}/crr/{count}", mode.name());
            match Theirs::new(mode, *count, ENDPOINTS)? {
                Some(loaded) => {
                    let case = format!("load/{}/{count}", mode.name());
                    rows.push(Row::plain(case, &[loaded.took.wall]));
                    theirs.push((mode, *count, loaded));
                }
                None => rows.push(left_out(&case)),
            }
        }
    }
    let mut all = Vec::new();
    for ours in &ours {
        let count = ours.world.services;
        all.extend(lanes(ours, "crr", &count.to_string(), connections));
    }
    // What programs cost whom they do not serve: at one number of Services.
    let costs = format!("straight-served/crr/{one}");
    all.retain(|lane| lane.name == costs || !lane.name.starts_with("straight-served"));
    all.extend(theirs.iter().map(|(mode, count, theirs)| Lane {
        client: &theirs.client,
        targets: theirs.world.used(),
        measure: connections,
        name: format!("{}/crr/{count}", mode.name()),
    }));
    let values = in_turn(&all, sizes)?;
    for count in counts {
        let what = format!("crr/{count}");
        rows.extend(beside_straight(
            &values,
            &what,
            [Some(AT_SOCKET), Some(BY_PACKET)],
        )?);
        let loaded = theirs.iter().filter(|(_, of, _)| of == count);
        for (mode, ..) in loaded {
            let (peer, name) = (mode.peer()?, format!("{}/{what}", mode.name()));
            for way in ["clusterip", "packet"] {
                rows.push(values.row(&format!("{way}/{what}"), &peer, &name, None)?);
            }
        }
    }
    rows.extend(flat(&values, counts)?);
    let straight = format!("straight/crr/{one}");
    rows.push(values.row(&costs, STRAIGHT, &straight, None)?);
    Ok(rows)
}

/// The most Services beside the fewest.
fn flat(values: &Values, counts: &[u32]) -> Result<Vec<Row>> {
    let (Some(few), Some(many)) = (counts.first(), counts.last()) else {
        return Ok(vec![]);
    };
    let peer = format!("itself with {few} Services");
    let row = |way: &str| {
        let [ours, theirs] = [many, few].map(|count| format!("{way}/crr/{count}"));
        let case = format!("{ours}/of-{few}");
        values.row_of(&case, &ours, &peer, &theirs, Some(SAME))
    };
    ["clusterip", "packet"].into_iter().map(row).collect()
}

/// What took longer to be loaded than it may.
fn left_out(case: &str) -> Row {
    eprintln!("{case} is left out: its rules were not loaded within {LOADING:?}");
    let seconds = [LOADING.as_secs_f64()];
    Row::value(format!("{case}/left-out"), "s", &seconds)
}
