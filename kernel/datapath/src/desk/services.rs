use std::collections::BTreeMap;
use std::vec::Vec;

use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Frontend, FrontendKey, PortRangeKey, PrefixKey, Set,
    SocketKey, SocketService, SourceRangeKey, maps,
};

use super::Lru;
use crate::service::ServiceTables;

/// The tables of Services in memory.
#[derive(Debug)]
pub struct Services {
    /// Where Services are reached.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Ranges of their ports.
    pub port_ranges: BTreeMap<PortRangeKey, Frontend>,
    /// The ranges of their addresses.
    pub service_cidrs: Vec<PrefixKey>,
    /// Sets of backends.
    pub sets: BTreeMap<u32, Set>,
    /// Their members.
    pub slots: BTreeMap<u32, u32>,
    /// The backends.
    pub backends: BTreeMap<u32, Backend>,
    /// How many connections each has.
    pub backend_loads: BTreeMap<u32, u64>,
    /// Clients that stay.
    pub affinities: Lru<AffinityKey, Affinity>,
    /// Who may come from outside.
    pub source_ranges: Vec<SourceRangeKey>,
    /// Sockets that were given a backend.
    pub sockets: Lru<SocketKey, SocketService>,
    /// What the next random numbers grow from.
    pub seed: u64,
}

impl Default for Services {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            port_ranges: BTreeMap::new(),
            service_cidrs: Vec::new(),
            sets: BTreeMap::new(),
            slots: BTreeMap::new(),
            backends: BTreeMap::new(),
            backend_loads: BTreeMap::new(),
            affinities: Lru::evicting(maps::AFFINITIES_MAX as usize),
            source_ranges: Vec::new(),
            sockets: Lru::evicting(maps::SOCKETS_MAX as usize),
            seed: 1,
        }
    }
}

impl Services {
    /// Makes a set of backends, each of which has to be there already.
    pub fn put_set(&mut self, number: u32, members: &[u32]) {
        let base = self.slots.keys().next_back().map_or(0, |last| last + 1);
        for (slot, member) in (base..).zip(members) {
            self.slots.insert(slot, *member);
        }
        let count = u32::try_from(members.len()).unwrap_or(u32::MAX);
        self.sets.insert(number, Set { base, count });
    }
}

/// Whether the first so many bits of two addresses are the same.
fn agree(one: &Address, other: &Address, bits: u32) -> bool {
    let differs = u128::from_be_bytes(one.octets()) ^ u128::from_be_bytes(other.octets());
    differs.leading_zeros() >= bits
}

impl ServiceTables for Services {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn port_range(&self, key: &PortRangeKey) -> Option<Frontend> {
        let bits = |key: &PortRangeKey| {
            let [high, low] = key.port;
            let mut bits = [0; 19];
            bits[..16].copy_from_slice(&key.address.octets());
            bits[16..].copy_from_slice(&[key.protocol, high, low]);
            bits
        };
        let wanted = bits(key);
        let covers = |known: &PortRangeKey| {
            let same = bits(known).iter().zip(wanted).try_fold(0, |same, (a, b)| {
                match (a ^ b).leading_zeros() {
                    8 => Ok(same + 8),
                    more => Err(same + more),
                }
            });
            let (Ok(same) | Err(same)) = same;
            same >= known.length
        };
        self.port_ranges
            .iter()
            .filter(|(known, _)| covers(known))
            .max_by_key(|(known, _)| known.length)
            .map(|(_, frontend)| *frontend)
    }

    fn is_service_address(&self, address: &Address) -> bool {
        self.service_cidrs
            .iter()
            .any(|cidr| agree(&cidr.address, address, cidr.length))
    }

    fn set(&self, number: u32) -> Set {
        self.sets.get(&number).copied().unwrap_or_default()
    }

    fn slot(&self, index: u32) -> u32 {
        self.slots.get(&index).copied().unwrap_or_default()
    }

    fn backend(&self, number: u32) -> Option<Backend> {
        self.backends.get(&number).copied()
    }

    fn load_of(&self, backend: u32) -> u64 {
        self.backend_loads
            .get(&backend)
            .copied()
            .unwrap_or_default()
    }

    fn add_load(&mut self, backend: u32, difference: u64) {
        let load = self.backend_loads.entry(backend).or_default();
        *load = load.wrapping_add(difference);
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.get(key)
    }

    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity) {
        self.affinities.insert(*key, *affinity);
    }

    fn is_allowed_source(&self, service: u32, address: &Address) -> bool {
        self.source_ranges.iter().any(|range| {
            range.service == service
                && agree(&range.address, address, range.length.saturating_sub(32))
        })
    }

    fn socket(&self, key: &SocketKey) -> Option<SocketService> {
        self.sockets.get(key)
    }

    // xorshift64*: the same numbers in every run.
    fn random(&mut self) -> u32 {
        self.seed ^= self.seed >> 12;
        self.seed ^= self.seed << 25;
        self.seed ^= self.seed >> 27;
        (self.seed.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use watari_abi::{Backend, backend_flags, frontend_flags};

    use super::*;
    use crate::service::{Choice, Found, Wish, choose, find, member};

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const MINUTE: u64 = 60_000_000_000;

    fn v4(last: u8) -> Address {
        Address::v4(u32::from_ne_bytes([10, 0, 0, last]))
    }

    fn port(number: u16) -> u16 {
        number.to_be()
    }

    /// A Service at 10.0.0.1, port 80, of backends 1 to 3 in set 5.
    fn services() -> Services {
        let mut services = Services::default();
        for number in 1..=3 {
            let backend = Backend {
                address: v4(100 + u8::try_from(number).unwrap()),
                port: port(8080),
                flags: backend_flags::READY,
            };
            services.backends.insert(number, backend);
        }
        services.put_set(5, &[1, 2, 3]);
        let key = FrontendKey {
            address: v4(1),
            port: port(80),
            protocol: TCP,
            pad: 0,
        };
        services.frontends.insert(key, frontend());
        let key = FrontendKey {
            address: v4(1),
            ..FrontendKey::default()
        };
        let entry = Frontend {
            flags: frontend_flags::REFUSES_OTHERS,
            ..Frontend::default()
        };
        services.frontends.insert(key, entry);
        services.service_cidrs.push(PrefixKey {
            length: 96 + 24,
            address: v4(0),
        });
        services
    }

    fn frontend() -> Frontend {
        Frontend {
            service: 9,
            inside: 5,
            outside: 5,
            ..Frontend::default()
        }
    }

    fn wish<'a>(frontend: &'a Frontend, client: &'a Address, now: u64) -> Wish<'a> {
        Wish {
            frontend,
            port: port(80),
            set: frontend.inside,
            hash: None,
            client,
            now,
        }
    }

    #[test]
    fn an_address_and_port_is_a_services_or_undefined_or_unallocated_or_nobodys() {
        let services = services();
        let look = |address, number| find(&services, &address, port(number), TCP);
        assert_eq!(look(v4(1), 80), Found::Frontend(frontend()));
        assert_eq!(look(v4(1), 81), Found::Undefined);
        assert_eq!(look(v4(2), 80), Found::Unallocated);
        let elsewhere = Address::v4(u32::from_ne_bytes([10, 0, 1, 1]));
        assert_eq!(look(elsewhere, 80), Found::None);
        assert_eq!(
            find(&services, &v4(1), port(80), UDP),
            Found::Undefined,
            "another protocol"
        );
    }

    #[test]
    fn a_range_of_ports_is_found_by_its_longest_prefix() {
        let mut services = services();
        let address = FrontendKey {
            address: v4(1),
            ..FrontendKey::default()
        };
        services
            .frontends
            .entry(address)
            .and_modify(|entry| entry.flags |= frontend_flags::HAS_RANGES);
        // 8000 to 8007: thirteen bits of the port.
        for (length, service) in [(128 + 8 + 13, 20), (128 + 8, 21)] {
            let key = PortRangeKey {
                length,
                address: v4(1),
                protocol: TCP,
                port: 8000_u16.to_be_bytes(),
                pad: 0,
            };
            let frontend = Frontend {
                service,
                ..frontend()
            };
            services.port_ranges.insert(key, frontend);
        }
        let service = |number, protocol| match find(&services, &v4(1), port(number), protocol) {
            Found::Frontend(frontend) => frontend.service,
            _ => 0,
        };
        assert_eq!(
            [8000, 8007, 8008, 80].map(|number| service(number, TCP)),
            [20, 20, 21, 9]
        );
        assert_eq!(service(8000, UDP), 0);
    }

    #[test]
    fn every_member_is_taken_as_often_as_it_has_slots() {
        let mut services = services();
        services.put_set(6, &[1, 2, 2]);
        let frontend = Frontend {
            inside: 6,
            ..frontend()
        };
        let mut got = BTreeMap::<u32, u32>::new();
        for _ in 0..30_000 {
            let choice = choose(&mut services, &wish(&frontend, &v4(9), 0)).unwrap();
            *got.entry(choice.number).or_default() += 1;
        }
        assert!((9_500..10_500).contains(&got[&1]), "{got:?}");
        assert!((19_500..20_500).contains(&got[&2]), "{got:?}");
    }

    #[test]
    fn the_same_number_gives_the_same_member_and_all_numbers_give_all() {
        let services = services();
        let at = |spread| member(&services, 5, spread).unwrap().number;
        assert_eq!([0, u32::MAX / 2, u32::MAX].map(at), [1, 2, 3]);
        assert_eq!(member(&services, 0, 7), None, "set zero is empty");
        assert_eq!(member(&services, 77, 7), None, "there is no such set");
    }

    #[test]
    fn a_client_stays_while_it_comes_in_time_and_its_backend_is_ready() {
        let mut services = services();
        let frontend = Frontend {
            affinity: 60,
            ..frontend()
        };
        let (client, mut now) = (v4(9), MINUTE);
        let first = choose(&mut services, &wish(&frontend, &client, now)).unwrap();
        for _ in 0..50 {
            // Each connection begins the time anew.
            now += MINUTE - 1;
            let again = choose(&mut services, &wish(&frontend, &client, now));
            assert_eq!(again, Some(first));
        }
        // It takes no more connections.
        services
            .backends
            .entry(first.number)
            .and_modify(|backend| backend.flags = 0);
        let others: Vec<u32> = (1..=3).filter(|number| *number != first.number).collect();
        services.put_set(5, &others);
        let other = choose(&mut services, &wish(&frontend, &client, now)).unwrap();
        assert_ne!(other, first);
        let again = choose(&mut services, &wish(&frontend, &client, now));
        assert_eq!(again, Some(other));
        // Nobody is left for it, though the backend is another Service's still.
        services.put_set(5, &[]);
        assert_eq!(choose(&mut services, &wish(&frontend, &client, now)), None);
    }

    #[test]
    fn a_client_that_comes_too_late_chooses_anew() {
        let mut services = services();
        let frontend = Frontend {
            affinity: 60,
            ..frontend()
        };
        let mut got = BTreeMap::<u32, u32>::new();
        for round in 0..64 {
            let wish = wish(&frontend, &Address::UNSPECIFIED, round * MINUTE);
            let choice = choose(&mut services, &wish).unwrap();
            *got.entry(choice.number).or_default() += 1;
        }
        assert_eq!(got.len(), 3, "{got:?}");
    }

    #[test]
    fn of_two_backends_the_one_with_fewer_connections_is_taken() {
        let mut services = services();
        let frontend = Frontend {
            flags: frontend_flags::LEAST_CONNECTIONS,
            ..frontend()
        };
        services.add_load(1, 1_000);
        for _ in 0..3_000 {
            let choice = choose(&mut services, &wish(&frontend, &v4(9), 0)).unwrap();
            services.add_load(choice.number, 1);
        }
        let loads = [1, 2, 3].map(|number| services.load_of(number));
        // The first is taken where both draws are it, a ninth of the time, until the others have as many.
        assert!(
            loads.iter().max().unwrap() - loads.iter().min().unwrap() < 400,
            "{loads:?}"
        );
    }

    #[test]
    fn a_range_keeps_the_port_that_was_asked_for() {
        let mut services = services();
        let frontend = Frontend {
            flags: frontend_flags::KEEPS_PORT,
            ..frontend()
        };
        let Some(Choice { backend, .. }) = choose(&mut services, &wish(&frontend, &v4(9), 0))
        else {
            panic!("there is a backend");
        };
        assert_eq!(backend.port, port(80));
    }
}
