//! From the arguments to a running agent, and from a node with one to a node as it was found.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use watari_abi::{ABI_VERSION, Config, config_flags, maps};
use watari_bpf::{LoadOptions, Loaded, Map, Node as Kernel, PinDir, load, probe};
use watari_netlink::Handle;
use watari_nft::masquerade::Masquerading;

use crate::daemon::Daemon;
use crate::lock::Lock;
use crate::options::Options;
use crate::protocol::Missing;

/// Runs an agent in the calling thread's namespaces until a signal ends it. `ready` is called once
/// the datapath stands.
pub fn run(options: &Options, ready: impl FnOnce()) -> Result<()> {
    let lock = Lock::take(&options.lock())?;
    let missing = missing(&options.bpf_root)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("start the runtime")?;
    let (kernel, loaded) = open(options)?;
    tell(&loaded);
    let again = options.clone();
    let reload = Box::new(move || open(&again).map(|(kernel, _)| kernel));
    let mut daemon = Daemon::new(options.clone(), kernel, reload)?.with(describe(&loaded), missing);
    let ended = runtime.block_on(daemon.run(ready));
    drop(lock);
    ended
}

/// Loads this build's datapath, or takes up the one that is there.
pub fn open(options: &Options) -> Result<(Kernel, Loaded)> {
    let loading = LoadOptions {
        established: Some(options.established),
        transient: Some(options.transient),
        ..LoadOptions::at(&options.bpf_root)
    };
    let loaded = load(&loading).context("load the datapath")?;
    configure(options).context("configure the datapath")?;
    let kernel = Kernel::open(&options.bpf_root, loaded.attachment).context("open the datapath")?;
    Ok((kernel, loaded))
}

/// Tells the programs what an agent is told for the whole node.
fn configure(options: &Options) -> Result<()> {
    let dir = PinDir::current(&options.bpf_root);
    let map: Map<u32, Config> = Map::open(&dir.map(maps::CONFIG))?;
    let mut config = map.get(&0)?.unwrap_or_default();
    if options.flow_events {
        config.flags &= !config_flags::QUIET;
    } else {
        config.flags |= config_flags::QUIET;
    }
    Ok(map.insert(&0, &config)?)
}

fn missing(root: &Path) -> Result<Vec<Missing>> {
    let features = probe(root);
    let (mut told, mut required) = (Vec::new(), Vec::new());
    for feature in features.iter().filter(|feature| feature.there.is_err()) {
        tracing::warn!("{feature}");
        if feature.required {
            required.push(feature.to_string());
        }
        told.push(Missing {
            feature: feature.name.to_owned(),
            consequence: feature.without.to_owned(),
        });
    }
    if !required.is_empty() {
        bail!(
            "this kernel lacks what the datapath needs: {}",
            required.join("; ")
        );
    }
    Ok(told)
}

fn tell(loaded: &Loaded) {
    let (attachment, reused, swapped) = (loaded.attachment.name(), loaded.reused, loaded.swapped);
    let (connections, replaced) = (loaded.connections, loaded.replaced.join(", "));
    tracing::info!(
        attachment,
        reused,
        swapped,
        connections,
        replaced,
        "the datapath stands"
    );
    for lost in &loaded.lost {
        tracing::warn!("not brought over: {lost}");
    }
}

fn describe(loaded: &Loaded) -> BTreeMap<String, String> {
    let mut words = BTreeMap::from([
        ("abi".to_owned(), ABI_VERSION.to_string()),
        ("attachment".to_owned(), loaded.attachment.name().to_owned()),
    ]);
    if !loaded.replaced.is_empty() {
        words.insert("replaced".to_owned(), loaded.replaced.join(", "));
    }
    words
}

/// Leaves the node as an agent finds one: no programs, no tables, no routes, no masquerading, no
/// files of ours. Pods stay; the stack carries them. Says what could not be removed.
pub fn remove(options: &Options) -> Result<Vec<anyhow::Error>> {
    let lock = Lock::take(&options.lock())?;
    let mut left = Vec::new();
    let mut done = |what: &'static str, outcome: Result<()>| {
        left.extend(outcome.context(what).err());
    };
    done(
        "take the datapath away",
        watari_bpf::remove(&options.bpf_root).map_err(Into::into),
    );
    done("take the routes to other nodes away", remove_routes());
    done("take the masquerading away", remove_masquerading());
    let socket = match std::fs::remove_file(options.socket()) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    };
    done("remove the socket", socket);
    done("remove the lock", lock.remove());
    Ok(left)
}

fn remove_routes() -> Result<()> {
    let done = Handle::open()?.set_own_routes(&[].into())?;
    match done.failed.into_iter().next() {
        Some((_, error)) => Err(error.into()),
        None => Ok(()),
    }
}

fn remove_masquerading() -> Result<()> {
    let mut table = Masquerading::open()?;
    let removed = table.remove();
    table.leave();
    Ok(removed.map(drop)?)
}

#[cfg(test)]
mod tests {
    use watari_abi::{Connection, ConnectionKey};
    use watari_testbed::{Bed, Between, Datapaths, Layout};

    use super::*;

    #[test]
    fn the_datapath_has_the_sizes_and_events_that_it_is_told() {
        let layout = Layout {
            nodes: 1,
            pods: 1,
            mtu: 1500,
            between: Between::Wire,
        };
        let bed = Bed::new(layout).unwrap();
        let datapaths = Datapaths::load(&bed, watari_bpf::Attachment::Clsact.into()).unwrap();
        let usual = Options {
            bpf_root: datapaths.root(0).clone(),
            ..Options::new("node1")
        };
        let other = Options {
            established: 3000,
            transient: 2000,
            flow_events: false,
            ..usual.clone()
        };
        let dir = PinDir::current(&usual.bpf_root);
        let size = |map: &str| {
            let map: Map<ConnectionKey, Connection> = Map::open(&dir.map(map)).unwrap();
            map.info().max_entries
        };
        let (established, transient) = (maps::ESTABLISHED_MAX, maps::TRANSIENT_MAX);
        for (options, entries, flags) in [
            (&usual, (established, transient), 0),
            (&other, (3000, 2000), config_flags::QUIET),
            (&usual, (established, transient), 0),
        ] {
            bed.nodes[0].netns.enter(|| {
                open(options).unwrap();
                assert_eq!((size(maps::ESTABLISHED), size(maps::TRANSIENT)), entries);
                let config: Map<u32, Config> = Map::open(&dir.map(maps::CONFIG)).unwrap();
                assert_eq!(config.get(&0).unwrap().unwrap().flags, flags);
            });
        }
    }
}
