//! From a snapshot that is read to the kernel, and what the tables take there.

use anyhow::Result;
use watari_abi::maps;
use watari_bpf::{Attachment, PinDir};
use watari_testbed::{Datapaths, Loading};

use super::change;
use super::peers::{Form, Mode};
use super::roads::{LOADING_WHOLE, bed};
use super::tables::{Snapshot, Tables, worked};
use super::world::World;
use super::{Sizes, pairs};
use crate::datapath::map_bytes;
use crate::row::Row;

/// What it may work, in ms.
const LIMIT: f64 = 1000.0;

/// The rows.
pub fn rows(sizes: Sizes) -> Result<Vec<Row>> {
    let (services, endpoints, rounds) = sizes.program;
    let world = World::new(services, endpoints, None);
    let case = |what: &str| format!("program/{services}{what}");
    let (mut all, mut compiling, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let bed = bed(1)?;
        let datapaths = Datapaths::load(&bed, Loading::from(Attachment::Tcx))?;
        let snapshot = Snapshot::of(&world);
        let mut tables = Tables::open(datapaths.root(0))?;
        let start = worked()?;
        tables.take(&snapshot)?;
        let changes = tables.compile();
        let compiled = worked()?;
        tables.write(&changes)?;
        all.push(worked()? - start);
        compiling.push(compiled - start);
        tables.hold()?;
        if round == 0 {
            bytes = maps_bytes(&PinDir::current(datapaths.root(0)))?;
        }
    }
    let mut rows = vec![
        Row::limited(case(""), "ms", &all, LIMIT).with_calls(&all),
        Row::plain(case("/compile"), &compiling),
    ];
    rows.extend(theirs(&world, &all, sizes)?);
    for (name, bytes) in bytes {
        let case = format!("memory/{services}/map/{name}");
        rows.push(Row::value(case, "bytes", &[bytes]));
    }
    Ok(rows)
}

/// The maps of Services, and what the kernel says that each takes.
fn maps_bytes(dir: &PinDir) -> Result<Vec<(&'static str, f64)>> {
    let mut all = Vec::new();
    for name in OF_SERVICES {
        all.push((*name, map_bytes(dir, name)?));
    }
    let sum = all.iter().map(|(_, bytes)| bytes).sum();
    all.push(("all-of-services", sum));
    Ok(all)
}

/// Those that Services need.
const OF_SERVICES: &[&str] = &[
    maps::FRONTENDS,
    maps::PORT_RANGES,
    maps::SERVICE_CIDRS,
    maps::SETS,
    maps::SLOTS,
    maps::BACKENDS,
    maps::BACKEND_LOADS,
    maps::AFFINITIES,
    maps::SOURCE_RANGES,
    maps::SOCKETS,
    maps::CLIENTS,
    maps::SERVICE_NAMES,
];

/// The same Services as kube-proxy loads them, once, and changes among them.
fn theirs(world: &World, ours: &[f64], sizes: Sizes) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for mode in Mode::ALL {
        let bed = bed(1)?;
        let node = &bed.nodes[0].netns;
        let case = format!("program/{}", world.services);
        let Some(took) = mode.apply(node, &mode.all(world, Form::Whole), LOADING_WHOLE)? else {
            eprintln!(
                "{case} of {} is left out: more than {LOADING_WHOLE:?}",
                mode.name()
            );
            let seconds = [LOADING_WHOLE.as_secs_f64()];
            let case = format!("{case}/{}/left-out", mode.name());
            rows.push(Row::value(case, "s", &seconds));
            continue;
        };
        let pairs = pairs(ours, &vec![took.cpu; ours.len()]);
        let peer = format!("{}, once", mode.peer()?);
        rows.push(Row::less(case, "ms", &peer, &pairs, None).with_calls(ours));
        rows.push(change::theirs(mode, node, world, sizes)?);
    }
    Ok(rows)
}
