//! From the arguments to a running agent, and from a node with one to a node as it was found.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use watari_abi::ABI_VERSION;
use watari_bpf::{LoadOptions, Loaded, Node as Kernel, load, probe};
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
    let loaded = load(&LoadOptions::at(&options.bpf_root)).context("load the datapath")?;
    let kernel = Kernel::open(&options.bpf_root, loaded.attachment).context("open the datapath")?;
    Ok((kernel, loaded))
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
