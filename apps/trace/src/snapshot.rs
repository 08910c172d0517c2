//! A node's tables as they are now, copied into memory: what a packet leaves in them, it leaves in
//! the copy.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use watari_abi::{Config, Connection, ConnectionKey, FragmentKey, FragmentPorts, StackPort, maps};
use watari_bpf::{Attachment, Datapath as _, Map, Node, Observed, PinDir, Stray};
use watari_datapath::desk::{Desk, Lru, Shared};
use watari_tables::HookAt;

/// A node's datapath.
pub struct Snapshot {
    /// Its tables.
    pub desk: Desk,
    /// Where its programs are attached.
    pub hooks: BTreeSet<HookAt>,
    /// What is not as it should be.
    pub notes: Vec<String>,
}

/// The time by which the programs stamp, in ns (`CLOCK_MONOTONIC`).
fn monotonic() -> u64 {
    // Every kernel that has eBPF has this clock.
    let time =
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(std::time::Duration::ZERO, Into::into);
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Snapshot {
    /// Copies the datapath that is pinned below `root`, in the calling thread's namespaces; none
    /// if no datapath of this build's ABI is loaded. Nothing there is changed by it.
    pub fn take(root: &Path) -> Result<Option<Self>> {
        let dir = PinDir::current(root);
        if !dir.exists() {
            return Ok(None);
        }
        let read = || -> Result<Self> {
            let mut node = Node::open(root, Attachment::Tcx)?;
            let observed = node.observe()?;
            let desk = copy(&node, &dir)?;
            let (hooks, notes) = attached(observed);
            Ok(Self { desk, hooks, notes })
        };
        let taken =
            read().with_context(|| format!("read the datapath pinned in {}", root.display()))?;
        Ok(Some(taken))
    }
}

/// Where programs are attached, older ones too, since they decide as well.
fn attached(observed: Observed) -> (BTreeSet<HookAt>, Vec<String>) {
    let mut hooks = observed.tables.hooks;
    let mut notes = Vec::new();
    for stray in observed.strays {
        if let Stray::Hook { at, .. } = &stray {
            hooks.insert(at.clone());
            notes.push(stray.to_string());
        }
    }
    for name in observed.unpinned {
        notes.push(format!(
            "the pin of {name} is gone or another's: what is attached may use other tables"
        ));
    }
    (hooks, notes)
}

fn copy(node: &Node, dir: &PinDir) -> Result<Desk> {
    let tables = node.tables();
    let mut desk = Desk {
        now: monotonic(),
        established: room_for(tables.established, Lru::keeping),
        transient: room_for(tables.transient, Lru::evicting),
        ..Desk::default()
    };
    desk.endpoints.extend(tables.endpoints.entries()?);
    desk.links.extend(tables.links.entries()?);
    tables
        .remotes
        .for_each(|key, remote| desk.remotes.insert(key, remote))?;
    tables.established.for_each(|key, connection| {
        desk.established.insert(key, Shared::new(connection));
    })?;
    tables.transient.for_each(|key, connection| {
        desk.transient.insert(key, Shared::new(connection));
    })?;
    let fragments: Map<FragmentKey, FragmentPorts> = Map::open(&dir.map(maps::FRAGMENTS))?;
    fragments.for_each(|key, ports| {
        desk.fragments.insert(key, ports);
    })?;
    let stack_ports: Map<StackPort, u64> = Map::open(&dir.map(maps::STACK_PORTS))?;
    stack_ports.for_each(|port, seen| {
        desk.stack_ports.insert(port, seen);
    })?;
    let config: Map<u32, Config> = Map::open(&dir.map(maps::CONFIG))?;
    desk.config = config.get(&0)?.unwrap_or_default();
    Ok(desk)
}

fn room_for(
    map: &Map<ConnectionKey, Connection>,
    make: impl Fn(usize) -> Lru<ConnectionKey, Shared<Connection>>,
) -> Lru<ConnectionKey, Shared<Connection>> {
    make(map.info().max_entries as usize)
}
