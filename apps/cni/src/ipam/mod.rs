//! Address management: `azure-vnet-ipam`, `azure-vnet-ipamv6`, and `watari-cni` as `ipam.type`.
//!
//! As a plugin of its own: [`add`], [`del`], [`check`], [`gc`], [`status`]. Inside the interface
//! plugin: [`with_addresses`], which leases in the very transaction that records the endpoint,
//! so that an ADD is one commit; it is made of [`prepare`] and [`assign`].

mod assign;
mod source;

use std::collections::BTreeSet;
use std::path::PathBuf;

use watari_cni_spec::{CniError, CniResult, Code, NetConf, Request};
use watari_ipam::{Holder, IpamConf, Kind};
use watari_model::{Attachment, ContainerId, IfName};
use watari_store::{Store, Tx};

pub use assign::{Assigned, assign};
pub use source::{Prepared, Want, prepare};

/// Where the node store of a configuration is: `ipam.dataDir`, or `/run/watari`. Reads nothing
/// else, so that DEL works under a configuration that ADD would refuse.
pub fn data_dir(conf: &NetConf) -> PathBuf {
    let ipam = conf.ipam.as_ref();
    let text = ipam.and_then(|ipam| ipam.get("dataDir")?.as_str());
    match text {
        Some(text) if text.starts_with('/') => text.into(),
        _ => watari_store::DEFAULT_DIR.into(),
    }
}

/// Opens the node store of a configuration.
pub fn open(conf: &NetConf) -> Result<Store, CniError> {
    Ok(Store::open(&data_dir(conf))?)
}

/// Leases addresses of each configuration for the holder and runs `work` (to record the
/// endpoint) in one transaction; nothing is leased if `work` fails. When a pool is exhausted, its
/// source is asked again, if that was not done within the last 10 s, and the whole is tried once
/// more.
pub fn with_addresses<T>(
    store: &Store,
    confs: &[IpamConf],
    holder: &Holder,
    mut work: impl FnMut(&Tx<'_>, &[Assigned]) -> Result<T, CniError>,
) -> Result<T, CniError> {
    let mut attempt = |prepared: &[Prepared]| {
        let now = watari_store::now();
        store.write(|tx| {
            let each = confs.iter().zip(prepared);
            let assigned = each.map(|(conf, prepared)| assign(tx, conf, prepared, holder, now));
            work(tx, &assigned.collect::<Result<Vec<_>, _>>()?)
        })
    };
    let prepare_all = |want: Want| {
        let each = confs.iter().map(|conf| prepare(store, conf, want));
        each.collect::<Result<Vec<_>, CniError>>()
    };
    let prepared = prepare_all(Want::Recent)?;
    match attempt(&prepared) {
        Err(error) if error.code == Code::POOL_EXHAUSTED => {
            let newer = prepare_all(Want::Newest)?;
            let same = |(old, new): (&Prepared, &Prepared)| old.pools() == new.pools();
            if prepared.iter().zip(&newer).all(same) {
                return Err(error);
            }
            attempt(&newer)
        }
        done => done,
    }
}

/// ADD of an IPAM plugin.
pub fn add(request: &Request, conf: &NetConf, kind: Kind) -> Result<CniResult, CniError> {
    let holder = holder(request, conf)?;
    let ipam = IpamConf::parse(conf, &request.args, kind)?;
    let assigned = with_addresses(&open(conf)?, &[ipam], &holder, |_, assigned| {
        Ok(assigned.to_vec())
    })?;
    let result = assigned.into_iter().next().map(Assigned::into_result);
    Ok(result.unwrap_or_default())
}

/// DEL of an IPAM plugin: fine if there is nothing.
pub fn del(request: &Request, conf: &NetConf) -> Result<(), CniError> {
    let holder = holder(request, conf)?;
    let now = watari_store::now();
    open(conf)?.write(|tx| {
        tx.release(&holder.network, &holder.attachment, now)?;
        Ok(())
    })
}

/// CHECK of an IPAM plugin: the attachment has a lease, and every address of `prevResult` that
/// it could have from us is one of its own.
pub fn check(request: &Request, conf: &NetConf, kind: Kind) -> Result<(), CniError> {
    let holder = holder(request, conf)?;
    let ipam = IpamConf::parse(conf, &request.args, kind)?;
    let store = open(conf)?;
    let prepared = prepare(&store, &ipam, Want::Recent)?;
    let held: BTreeSet<_> = store
        .read(|tx| tx.held(&holder))?
        .into_iter()
        .map(|lease| lease.address)
        .collect();
    for pool in prepared.pools() {
        if !held.iter().any(|address| pool.contains(*address)) {
            return Err(CniError::new(
                Code::CHECK_FAILED,
                format!("{holder} has no address of {pool} leased"),
            )
            .because("its lease is gone from the node store; delete the pod to repair it"));
        }
    }
    let claimed = conf.prev_result.iter().flat_map(|result| &result.ips);
    for address in claimed.map(|ip| ip.address.addr()) {
        let ours = prepared.pools().iter().any(|pool| pool.contains(address));
        if ours && !held.contains(&address) {
            return Err(CniError::new(
                Code::CHECK_FAILED,
                format!("{address} of prevResult is not leased to {holder}"),
            )
            .because(format_args!("it has {held:?}")));
        }
    }
    Ok(())
}

/// GC of an IPAM plugin: ends the leases of this network that no valid attachment has.
pub fn gc(conf: &NetConf) -> Result<BTreeSet<Attachment>, CniError> {
    let valid = conf.valid_attachments.iter().flatten().cloned().collect();
    let now = watari_store::now();
    open(conf)?.write(|tx| Ok(tx.release_others(&conf.name, &valid, now)?))
}

/// STATUS of an IPAM plugin: would an ADD get an address now? It does all that ADD does, and
/// takes it back.
pub fn status(conf: &NetConf, kind: Kind) -> Result<(), CniError> {
    let tried = try_out(conf, kind);
    tried.map_err(|error| match error.code {
        Code::INVALID_CONFIG | Code::DECODE => error,
        _ => {
            let why = error.to_string();
            CniError::new(Code::NOT_AVAILABLE, "no address can be given to a pod").because(why)
        }
    })
}

fn try_out(conf: &NetConf, kind: Kind) -> Result<(), CniError> {
    let mut ipam = IpamConf::parse(conf, &watari_cni_spec::CniArgs::new(), kind)?;
    ipam.requested.clear();
    let internal = |error| CniError::new(Code::INTERNAL, format!("{error}"));
    let probe = Holder {
        network: conf.name.clone(),
        attachment: Attachment {
            container: ContainerId::new("watari-status").map_err(internal)?,
            ifname: IfName::new("probe").map_err(internal)?,
        },
    };
    // An error undoes the transaction; this one means that all went well.
    let taken_back = CniError::new(Code::INTERNAL, "taken back");
    let tried = with_addresses(&open(conf)?, &[ipam], &probe, |_, _| {
        Err::<(), _>(taken_back.clone())
    });
    match tried {
        Err(error) if error == taken_back => Ok(()),
        other => other,
    }
}

fn holder(request: &Request, conf: &NetConf) -> Result<Holder, CniError> {
    let attachment = request.attachment().ok_or_else(|| {
        CniError::new(
            Code::INVALID_ENVIRONMENT,
            "CNI_CONTAINERID and CNI_IFNAME are needed",
        )
    })?;
    Ok(Holder {
        network: conf.name.clone(),
        attachment,
    })
}
