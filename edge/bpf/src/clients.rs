use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use watari_abi::{Address, Client, maps};

use crate::error::{BpfError, Doing};
use crate::map::Map;
use crate::pins::PinDir;
use crate::sys::netns_cookie_of;

/// The kernel's number of the calling thread's network namespace. None where the kernel does not tell
/// it (before Linux 5.14).
pub fn netns_cookie() -> Result<Option<u64>, BpfError> {
    let what = || "ask for the cookie of a network namespace".to_owned();
    let socket = UnixDatagram::unbound().doing(what)?;
    match netns_cookie_of(socket.as_fd()) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(None),
        other => other.map(Some).doing(what),
    }
}

/// Whose processes are in which network namespace: by that a Service knows its clients at their
/// sockets, as it does by the source addresses of packets.
#[derive(Debug)]
pub struct Clients(Map<u64, Client>);

impl Clients {
    /// Opens the table of the datapath that is pinned below `root`.
    pub fn open(root: &Path) -> Result<Self, BpfError> {
        Self::open_in(&PinDir::current(root))
    }

    pub(crate) fn open_in(dir: &PinDir) -> Result<Self, BpfError> {
        Map::open(&dir.map(maps::CLIENTS)).map(Self)
    }

    /// What is known of a namespace.
    pub fn get(&self, netns: u64) -> Result<Option<Client>, BpfError> {
        self.0.get(&netns)
    }

    /// All that is known.
    pub fn entries(&self) -> Result<Vec<(u64, Client)>, BpfError> {
        self.0.entries()
    }

    /// Sets the addresses of a namespace: the first of each family. True if they were others.
    pub fn set(&self, netns: u64, addresses: &[IpAddr]) -> Result<bool, BpfError> {
        let first = |v4: bool| {
            let address = addresses.iter().find(|address| address.is_ipv4() == v4);
            address.map_or(Address::UNSPECIFIED, |address| Address::from(*address))
        };
        let client = Client {
            v4: first(true),
            v6: first(false),
        };
        if self.0.get(&netns)? == Some(client) {
            return Ok(false);
        }
        self.0.insert(&netns, &client)?;
        Ok(true)
    }

    /// Forgets the namespaces that have any of these addresses.
    pub fn forget(&self, addresses: &[IpAddr]) -> Result<(), BpfError> {
        let gone: BTreeSet<Address> = addresses.iter().copied().map(Address::from).collect();
        if gone.is_empty() {
            return Ok(());
        }
        self.remove_where(|_, client| gone.contains(&client.v4) || gone.contains(&client.v6))
    }

    /// Forgets all namespaces but those that `keep` wants.
    pub fn retain(&self, keep: impl Fn(u64, &Client) -> bool) -> Result<(), BpfError> {
        self.remove_where(|netns, client| !keep(netns, client))
    }

    fn remove_where(&self, gone: impl Fn(u64, &Client) -> bool) -> Result<(), BpfError> {
        let mut keys = Vec::new();
        self.0.for_each(|netns, client| {
            if gone(netns, &client) {
                keys.push(netns);
            }
        })?;
        for netns in keys {
            self.0.remove(&netns)?;
        }
        Ok(())
    }
}
