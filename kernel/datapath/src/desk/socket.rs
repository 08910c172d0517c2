use std::collections::BTreeMap;
use std::vec::Vec;

use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Client, Config, Counter, Frontend, FrontendKey,
    PortRangeKey, Set, SocketKey, SocketService, Talk, Talks,
};

use super::{Services, Shared};
use crate::service::ServiceTables;
use crate::socket::{SocketEnv, TalksPlace};

/// A socket of a process, and what it finds on the desk.
#[derive(Debug)]
pub struct Socket<'a> {
    /// The tables of Services.
    pub services: &'a mut Services,
    /// Whose network namespaces are known.
    pub clients: &'a BTreeMap<u64, Client>,
    /// What holds for the node.
    pub config: Config,
    /// The time, in ns.
    pub now: u64,
    /// The socket's cookie.
    pub cookie: u64,
    /// Its namespace's.
    pub netns: u64,
    /// Its talks, if there are any.
    pub talks: Option<Shared<Talks>>,
    /// What was counted.
    pub counted: Vec<Counter>,
}

impl TalksPlace for Shared<Talks> {
    fn talk(&self, at: usize) -> Talk {
        self.get().talks.get(at).copied().unwrap_or_default()
    }

    fn set_talk(&self, at: usize, talk: &Talk) {
        self.change(|talks| {
            if let Some(place) = talks.talks.get_mut(at) {
                *place = *talk;
            }
        });
    }

    fn next(&self) -> usize {
        let next = self.get().next;
        self.change(|talks| talks.next = next.wrapping_add(1));
        next as usize % Talks::MOST
    }
}

impl ServiceTables for Socket<'_> {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.services.frontend(key)
    }

    fn port_range(&self, key: &PortRangeKey) -> Option<Frontend> {
        self.services.port_range(key)
    }

    fn is_service_address(&self, address: &Address) -> bool {
        self.services.is_service_address(address)
    }

    fn set(&self, number: u32) -> Set {
        self.services.set(number)
    }

    fn slot(&self, index: u32) -> u32 {
        self.services.slot(index)
    }

    fn backend(&self, number: u32) -> Option<Backend> {
        self.services.backend(number)
    }

    fn load_of(&self, backend: u32) -> u64 {
        self.services.load_of(backend)
    }

    fn add_load(&mut self, backend: u32, difference: u64) {
        self.services.add_load(backend, difference);
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.services.affinity(key)
    }

    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.services.remember_affinity(key, affinity);
    }

    fn is_allowed_source(&self, service: u32, address: &Address) -> bool {
        self.services.is_allowed_source(service, address)
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketService> {
        self.services.socket(key)
    }

    fn random(&mut self) -> u32 {
        self.services.random()
    }
}

impl SocketEnv for Socket<'_> {
    type Talks = Shared<Talks>;

    fn config(&self) -> Config {
        self.config
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn cookie(&self) -> u64 {
        self.cookie
    }

    fn netns(&self) -> u64 {
        self.netns
    }

    fn client(&self, netns: u64) -> Option<Client> {
        self.clients.get(&netns).copied()
    }

    fn remember(&mut self, key: &SocketKey, service: &SocketService) -> bool {
        self.services.sockets.insert(*key, *service)
    }

    fn forget(&mut self, key: &SocketKey) {
        self.services.sockets.remove(key);
    }

    fn talks(&mut self, make: bool) -> Option<Shared<Talks>> {
        if make && self.talks.is_none() {
            self.talks = Some(Shared::new(Talks::default()));
        }
        self.talks.clone()
    }

    fn count(&mut self, counter: Counter) {
        self.counted.push(counter);
    }
}
