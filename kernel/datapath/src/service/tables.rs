use watari_abi::{
    Address, Affinity, AffinityKey, Backend, Frontend, FrontendKey, PortRangeKey, Set, SocketKey,
    SocketService,
};

/// The tables of Services, wherever they are kept. All is read by value: others may change an entry
/// at any moment, and what was read stays what it was.
pub trait ServiceTables {
    /// An entry of [`maps::FRONTENDS`](watari_abi::maps).
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// The entry of [`maps::PORT_RANGES`](watari_abi::maps) with the longest prefix; a key of 152
    /// bits.
    fn port_range(&self, key: &PortRangeKey) -> Option<Frontend>;
    /// Whether it is in a range of [`maps::SERVICE_CIDRS`](watari_abi::maps).
    fn is_service_address(&self, address: &Address) -> bool;
    /// An entry of [`maps::SETS`](watari_abi::maps), read in one access of eight bytes; the empty
    /// set for a number that there is not.
    fn set(&self, number: u32) -> Set;
    /// An entry of [`maps::SLOTS`](watari_abi::maps); zero for one that there is not.
    fn slot(&self, index: u32) -> u32;
    /// An entry of [`maps::BACKENDS`](watari_abi::maps).
    fn backend(&self, number: u32) -> Option<Backend>;
    /// An entry of [`maps::BACKEND_LOADS`](watari_abi::maps).
    fn load_of(&self, backend: u32) -> u64;
    /// Adds to it, whatever other CPUs do meanwhile; minus one is `u64::MAX`.
    fn add_load(&mut self, backend: u32, difference: u64);
    /// An entry of [`maps::AFFINITIES`](watari_abi::maps).
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity>;
    /// Writes it.
    fn remember_affinity(&mut self, key: &AffinityKey, affinity: &Affinity);
    /// Whether an entry of [`maps::SOURCE_RANGES`](watari_abi::maps) of that Service's port has the
    /// address.
    fn is_allowed_source(&self, service: u32, address: &Address) -> bool;
    /// An entry of [`maps::SOCKETS`](watari_abi::maps).
    fn socket(&self, key: &SocketKey) -> Option<SocketService>;
    /// A number that nobody can foretell.
    fn random(&mut self) -> u32;
}
