//! Whose processes are in which network namespace, so that a Service knows its clients at their sockets
//! by what their packets have.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context as _, Result};
use watari_abi::{Address, Config, maps};
use watari_bpf::{Clients, Map, PinDir, netns_cookie};
use watari_netlink::Netns;
use watari_store::{EndpointRecord, Store, StoreError};

/// Registers the node's own namespace and those of pods that no plugin did (an earlier version's), and
/// forgets those of pods that are gone. Gives what could not be done, in words.
///
/// The table is read before the store: the plugin records a pod before it registers it, so what the
/// table has and the store has not is gone.
pub fn keep(root: &Path, store: &Store) -> Result<Vec<String>> {
    let Some(own) = netns_cookie()? else {
        // Without cookies nobody can be registered.
        return Ok(Vec::new());
    };
    let clients = Clients::open(root)?;
    let known = clients.entries()?;
    let records = store.read::<_, StoreError>(|tx| tx.endpoints(None))?;
    clients.set(own, &node_addresses(root)?)?;
    let mut wanted = BTreeSet::new();
    for record in &records {
        wanted.extend(addresses(record).into_iter().map(Address::from));
    }
    let has = |address: &Address| {
        known
            .iter()
            .any(|(_, client)| client.v4 == *address || client.v6 == *address)
    };
    let mut failed = Vec::new();
    for record in &records {
        let addresses = addresses(record);
        if addresses
            .iter()
            .all(|address| has(&Address::from(*address)))
        {
            continue;
        }
        if let Err(error) = register(&clients, record, &addresses) {
            failed.push(format!("{}: {error:#}", record.attachment));
        }
    }
    let observed: BTreeSet<u64> = known.iter().map(|(netns, _)| *netns).collect();
    clients.retain(|netns, client| {
        let is_wanted = wanted.contains(&client.v4) || wanted.contains(&client.v6);
        netns == own || is_wanted || !observed.contains(&netns)
    })?;
    Ok(failed)
}

fn register(clients: &Clients, record: &EndpointRecord, addresses: &[IpAddr]) -> Result<()> {
    let Some(path) = &record.netns else {
        return Ok(());
    };
    let netns = Netns::open(path)?;
    let cookie = netns.within(netns_cookie)??;
    if let Some(cookie) = cookie {
        clients.set(cookie, addresses)?;
    }
    Ok(())
}

/// Those by which the programs know the node.
fn node_addresses(root: &Path) -> Result<Vec<IpAddr>> {
    let config: Map<u32, Config> = Map::open(&PinDir::current(root).map(maps::CONFIG))?;
    let config = config
        .get(&0)?
        .context("the datapath has no configuration")?;
    let known = [config.v4, config.v6].into_iter();
    Ok(known
        .filter(|address| *address != Address::UNSPECIFIED)
        .map(IpAddr::from)
        .collect())
}

fn addresses(record: &EndpointRecord) -> Vec<IpAddr> {
    let addresses = record.tables.pod.addresses.iter();
    addresses.map(ipnet::IpNet::addr).collect()
}
