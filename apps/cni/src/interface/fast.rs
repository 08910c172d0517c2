//! A pod in the node's eBPF datapath, as far as one is loaded.
//!
//! Without one, or with one of another version, a pod takes the ordinary road, which is no error:
//! the agent that comes with a datapath attaches it. With one, a pod that its programs do not see
//! would escape what they enforce, so whatever fails here fails the ADD.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use watari_bpf::{BpfError, PodHooks, PodLink};
use watari_cni_spec::{CniError, Code};
use watari_model::IfName;
use watari_store::EndpointRecord;
use watari_tables::Endpoint;

fn failed(error: &BpfError) -> CniError {
    CniError::new(Code::KERNEL, error.to_string())
}

fn open(root: &Path) -> Result<Option<PodHooks>, CniError> {
    PodHooks::open(root).map_err(|error| failed(&error))
}

fn addresses(tables: &Endpoint) -> Vec<IpAddr> {
    tables
        .pod
        .addresses
        .iter()
        .map(ipnet::IpNet::addr)
        .collect()
}

fn link<'a>(tables: &'a Endpoint, addresses: &'a [IpAddr]) -> PodLink<'a> {
    PodLink {
        link: &tables.host.name,
        mac: tables.pod.mac,
        host_mac: tables.host.mac,
        addresses,
    }
}

/// Registers a pod whose link stands, and attaches the programs to it.
pub fn add(root: &Path, tables: &Endpoint) -> Result<(), CniError> {
    let Some(mut hooks) = open(root)? else {
        // On a node without an agent there is nothing to say. Only the runtime's log keeps this: a
        // result has no place for it.
        if root.exists() {
            eprintln!(
                "watari-cni: the datapath below {} is of another version: {} takes the ordinary road \
                 until an agent attaches it",
                root.display(),
                tables.host.name
            );
        }
        return Ok(());
    };
    let addresses = addresses(tables);
    hooks
        .add(&link(tables, &addresses))
        .map_err(|error| failed(&error))
}

/// A pod that is taken out: its host-side link, and its addresses as far as they are known.
pub type Leaving = BTreeMap<IfName, Vec<IpAddr>>;

/// What is known of an attachment's record.
pub fn leaving(record: &EndpointRecord) -> (IfName, Vec<IpAddr>) {
    (record.host_ifname.clone(), addresses(&record.tables))
}

/// Takes pods out, whether their links are there or not. All are tried.
pub fn remove(root: &Path, pods: &Leaving) -> Result<(), CniError> {
    if pods.is_empty() {
        return Ok(());
    }
    let Some(mut hooks) = open(root)? else {
        return Ok(());
    };
    let mut outcome = Ok(());
    for (link, addresses) in pods {
        let removed = hooks.remove(link, addresses);
        outcome = outcome.and(removed.map_err(|error| failed(&error)));
    }
    outcome
}

/// What of a pod the datapath lacks.
pub fn differences(root: &Path, tables: &Endpoint) -> Result<Vec<String>, CniError> {
    let Some(mut hooks) = open(root)? else {
        return Ok(Vec::new());
    };
    let addresses = addresses(tables);
    match hooks.check(&link(tables, &addresses)) {
        Ok(found) => Ok(found),
        // Without its link nothing of it can be there; that is told already.
        Err(error) if error.is_absent() => Ok(Vec::new()),
        Err(error) => Err(failed(&error)),
    }
}
