//! One endpoint changes: from the event that reaches the compiler to the kernel that holds it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use watari_bpf::Attachment;
use watari_testbed::{Datapaths, Loading};
use watari_testkit::Netns;

use super::Sizes;
use super::peers::{Form, Mode};
use super::roads::{LOADING, bed};
use super::tables::{Snapshot, Tables};
use super::world::World;
use crate::row::Row;

/// What 99 of 100 changes may take, in ms.
const LIMIT: f64 = 5.0;
/// How long kube-proxy's may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// Every so many Services one is a load balancer, where tables of Maglev change.
const LOAD_BALANCERS: u32 = 100;
/// From one Service to the next that changes: odd, so that it goes all over the tables.
const STRIDE: u32 = 7919;

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let (services, endpoints, count) = sizes.change;
    let world = World {
        load_balancers: LOAD_BALANCERS.min(services / 10),
        ..World::new(services, endpoints, None)
    };
    let bed_of_ours = bed(1)?;
    let datapaths = Datapaths::load(&bed_of_ours, Loading::from(Attachment::Tcx))?;
    let mut tables = Tables::open(datapaths.root(0))?;
    tables.take(&Snapshot::of(&world))?;
    tables.apply()?;
    let case = |what: &str| format!("change/{services}{what}");
    let mut rows = Vec::new();
    for (what, balancers) in [("", false), ("/maglev", true)] {
        let (times, writes) = ours(&mut tables, &world, count, balancers)?;
        let limit = (!balancers).then_some(LIMIT);
        rows.push(Row::tail(case(what), &times, limit));
        rows.push(Row::value(
            case(&format!("/writes{what}")),
            "entries",
            &writes,
        ));
        tables.hold()?;
    }
    drop((tables, datapaths, bed_of_ours));
    let plain = World::new(services, endpoints, None);
    for mode in Mode::ALL {
        let bed = bed(1)?;
        let node = &bed.nodes[0].netns;
        let text = mode.all(&plain, Form::for_packets(&plain));
        if mode.apply(node, &text, LOADING)?.is_some() {
            rows.push(theirs(mode, node, &plain, sizes)?);
        } else {
            let case = case(&format!("/{}/left-out", mode.name()));
            eprintln!("{case}: its rules were not loaded within {LOADING:?}");
            rows.push(Row::value(case, "s", &[LOADING.as_secs_f64()]));
        }
    }
    Ok(rows)
}

/// Which Service the change with this number is of.
fn of_change(world: &World, number: u32, balancers: bool) -> u32 {
    let every = world.load_balancers.max(1);
    let place = number.wrapping_mul(STRIDE) % world.services;
    let place = place - place % every;
    // The one after a load balancer is none.
    if balancers {
        place
    } else {
        (place + 1) % world.services
    }
}

/// Times in ms, and entries that were written. In turn an endpoint is replaced by another, and the
/// other by it.
fn ours(
    tables: &mut Tables,
    world: &World,
    count: usize,
    balancers: bool,
) -> Result<(Vec<f64>, Vec<f64>)> {
    let (mut times, mut writes) = (Vec::new(), Vec::new());
    for number in 0..u32::try_from(count)? {
        let service = of_change(world, number / 2, balancers);
        let mut endpoints = world.endpoints_of(service);
        if number.is_multiple_of(2) {
            endpoints[0] = world.unused_endpoint(world.spare() + number);
        }
        let slice = world.slice(service, 0, &endpoints);
        let start = Instant::now();
        tables.compiler.set_slice(&slice);
        let written = tables.apply()?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 entries")]
        writes.push(written as f64);
        // The agent does it as well, some time after.
        tables.tidy()?;
    }
    Ok((times, writes))
}

/// The same by one of kube-proxy's modes: the program that it executes, from its start to its end.
pub fn theirs(mode: Mode, node: &Netns, world: &World, sizes: Sizes) -> Result<Row> {
    let mut times = Vec::new();
    for number in 0..u32::try_from(sizes.their_changes)? {
        let service = of_change(world, number, false);
        let before = world.endpoints_of(service);
        let mut after = before.clone();
        after[0] = world.unused_endpoint(world.spare() + number);
        let text = mode.change(world, service, &before, &after);
        let took = mode.apply(node, &text, PATIENCE)?;
        let took = took.with_context(|| format!("a change took more than {PATIENCE:?}"))?;
        times.push(took.wall);
    }
    let case = format!("change/{}/{}", world.services, mode.name());
    Ok(Row::plain(case, &times))
}
