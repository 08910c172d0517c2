//! Connections and drops, read from where the datapath's tables are pinned: needs no agent.

use std::path::Path;

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use watari_abi::{Connection, ConnectionKey, DropKey, Hook, Reason, maps};
use watari_bpf::{Drops, DropsAt, Map, PerCpuMap, PinDir, links};

use crate::flows::{Filter, Row};
use crate::names::Names;

/// The time by which the programs stamp, in ns (`CLOCK_MONOTONIC`).
pub fn monotonic() -> u64 {
    // Every kernel that has eBPF has this clock.
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(std::time::Duration::ZERO, Into::into);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// Hands every connection that passes and does not count as gone to `take`.
pub fn flows(
    root: &Path,
    names: &Names,
    filter: &Filter,
    take: &mut dyn FnMut(&Row) -> Result<()>,
) -> Result<()> {
    let dir = PinDir::current(root);
    for table in [maps::ESTABLISHED, maps::TRANSIENT] {
        let map: Map<ConnectionKey, Connection> = Map::open(&dir.map(table))?;
        let now = monotonic();
        let mut done = Ok(());
        map.for_each(|key, connection| {
            if connection.expires <= now || done.is_err() {
                return;
            }
            let row = Row::of("seen", &key, &connection, now, names);
            if row.passes(filter) {
                done = take(&row);
            }
        })?;
        done?;
    }
    Ok(())
}

/// What was dropped, by reason and by link.
pub fn drops(root: &Path) -> Result<Drops> {
    let dir = PinDir::current(root);
    let totals: PerCpuMap<u32> = PerCpuMap::open(&dir.map(maps::DROP_TOTALS))?;
    let by_link: PerCpuMap<DropKey> = PerCpuMap::open(&dir.map(maps::DROPS_BY_LINK))?;
    let at = |(key, tally): (DropKey, _)| DropsAt {
        ifindex: key.ifindex,
        link: links::name_of(key.ifindex),
        hook: Hook::of(key.hook),
        reason: Reason::of(key.reason),
        tally,
    };
    Ok(Drops {
        totals: totals.drops()?,
        by_link: by_link.sums()?.into_iter().map(at).collect(),
    })
}
