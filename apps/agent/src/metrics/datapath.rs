//! Metrics of the datapath, read from where its tables are pinned.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use watari_abi::{Connection, ConnectionKey, flags, maps};
use watari_bpf::{BpfError, Map, PerCpuMap, PinDir};

use super::page::{Kind, Page};

/// How old a count of the connections may be: all of them are read for it.
const AGE: Duration = Duration::from_secs(30);

/// How full a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Its name, of [`watari_abi::maps`].
    pub table: &'static str,
    /// Entries in use.
    pub used: u64,
    /// Entries that there is room for.
    pub room: u64,
}

#[derive(Debug)]
struct Counted {
    at: Instant,
    tables: Vec<Usage>,
}

/// Writes the datapath's metrics, by its pins.
#[derive(Debug)]
pub struct Datapath {
    root: PathBuf,
    counted: Mutex<Option<Counted>>,
}

/// Of a datapath that is pinned there.
pub fn datapath(root: PathBuf) -> Datapath {
    let counted = Mutex::new(None);
    Datapath { root, counted }
}

impl Datapath {
    /// Writes what can be read; where nothing is pinned, nothing.
    pub fn write(&self, page: &mut Page) {
        let dir = PinDir::current(&self.root);
        if let Ok(drops) =
            PerCpuMap::<u32>::open(&dir.map(maps::DROP_TOTALS)).and_then(|map| map.drops())
        {
            let mut packets = page.metric(
                "watari_dropped_packets_total",
                Kind::Counter,
                "Packets that the datapath dropped, by reason.",
            );
            for (reason, tally) in &drops {
                packets.sample(&[("reason", reason.name())], tally.packets);
            }
            let mut bytes = page.metric(
                "watari_dropped_bytes_total",
                Kind::Counter,
                "Bytes that the datapath dropped, link header included, by reason.",
            );
            for (reason, tally) in &drops {
                bytes.sample(&[("reason", reason.name())], tally.bytes);
            }
        }
        if let Ok(counters) =
            PerCpuMap::<u32>::open(&dir.map(maps::COUNTERS)).and_then(|map| map.counters())
        {
            let mut packets = page.metric(
                "watari_datapath_packets_total",
                Kind::Counter,
                "What the datapath counted, in packets (or connections, or events).",
            );
            for (counter, tally) in &counters {
                packets.sample(&[("counter", counter.name())], tally.packets);
            }
            let mut bytes = page.metric(
                "watari_datapath_bytes_total",
                Kind::Counter,
                "What the datapath counted, in bytes, link header included.",
            );
            for (counter, tally) in &counters {
                bytes.sample(&[("counter", counter.name())], tally.bytes);
            }
        }
        let Ok(mut counted) = self.counted.lock() else {
            return;
        };
        if counted.as_ref().is_none_or(|last| last.at.elapsed() > AGE) {
            let at = Instant::now();
            *counted = tables(&dir).ok().map(|tables| Counted { at, tables });
        }
        if let Some(counted) = &*counted {
            write_usage(
                page,
                ("watari_connections", "Connections in a table."),
                (
                    "watari_connections_limit",
                    "Connections that a table has room for.",
                ),
                &counted.tables,
            );
        }
    }
}

type Words = (&'static str, &'static str);

/// Writes how full tables are, under two names.
pub fn write_usage(page: &mut Page, used: Words, room: Words, tables: &[Usage]) {
    let mut metric = page.metric(used.0, Kind::Gauge, used.1);
    for table in tables {
        metric.sample(&[("table", table.table)], table.used);
    }
    let mut metric = page.metric(room.0, Kind::Gauge, room.1);
    for table in tables {
        metric.sample(&[("table", table.table)], table.room);
    }
}

fn tables(dir: &PinDir) -> Result<Vec<Usage>, BpfError> {
    let mut tables = Vec::new();
    for table in [maps::ESTABLISHED, maps::TRANSIENT] {
        let map: Map<ConnectionKey, Connection> = Map::open(&dir.map(table))?;
        let mut used = 0;
        map.for_each(|_, connection| {
            used += u64::from(connection.flags & flags::ALIAS == 0);
        })?;
        tables.push(Usage {
            table,
            used,
            room: map.info().max_entries.into(),
        });
    }
    Ok(tables)
}
