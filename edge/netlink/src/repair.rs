//! Bringing a link that is there to what it should be.

use std::collections::BTreeSet;

use watari_tables::LinkTables;

use crate::endpoint::contents;
use crate::{Change, Handle, NetlinkError, Observed, sysctl};

/// Gives a link back what it has lost of its tables, and takes nothing away that others added.
/// Runs in the thread's namespace, which must be the handle's.
///
/// Everything is tried; what failed is returned.
pub fn repair(
    handle: &mut Handle,
    desired: &LinkTables,
    observed: &Observed,
) -> Result<(), Vec<NetlinkError>> {
    let (index, seen) = (observed.index, &observed.tables);
    let mut failed = Vec::new();
    let mut first = Vec::new();
    // An MTU below 1,280 takes IPv6 with all its settings off the link: it comes first.
    if seen.mtu != desired.mtu {
        first.push(Change::Mtu(index, desired.mtu));
    }
    if seen.mac != desired.mac {
        first.push(Change::Mac(index, desired.mac));
    }
    if seen.alias != desired.alias {
        first.push(Change::Alias(index, &desired.alias));
    }
    each(handle, &first, &mut failed);
    for setting in desired.sysctls.difference(&seen.sysctls) {
        failed.extend(sysctl::write_link_setting(&desired.name, setting).err());
    }
    if !observed.up {
        each(handle, &[Change::Up(index)], &mut failed);
    }
    let lost = lost(desired, observed);
    each(handle, &contents(desired, &lost, index, true), &mut failed);
    if failed.is_empty() {
        Ok(())
    } else {
        Err(failed)
    }
}

/// What of the desired contents is not there.
fn lost(desired: &LinkTables, observed: &Observed) -> LinkTables {
    fn less<T: Ord + Clone>(wanted: &BTreeSet<T>, seen: &BTreeSet<T>) -> BTreeSet<T> {
        wanted.difference(seen).cloned().collect()
    }
    let seen = &observed.tables;
    // A new MAC makes the kernel forget the link's neighbours, the permanent ones too.
    let neighbours = if seen.mac == desired.mac {
        less(&desired.neighbours, &seen.neighbours)
    } else {
        desired.neighbours.clone()
    };
    LinkTables {
        addresses: less(&desired.addresses, &seen.addresses),
        routes: less(&desired.routes, &seen.routes),
        neighbours,
        proxies: less(&desired.proxies, &seen.proxies),
        ..desired.clone()
    }
}

/// What is there already is no failure: the kernel may make some of it by itself meanwhile.
fn each(handle: &mut Handle, changes: &[Change<'_>], failed: &mut Vec<NetlinkError>) {
    match handle.batch_each(changes) {
        Ok(results) => failed.extend(
            results
                .into_iter()
                .filter_map(Result::err)
                .filter(|error| !error.is_exists()),
        ),
        Err(error) => failed.push(error),
    }
}
