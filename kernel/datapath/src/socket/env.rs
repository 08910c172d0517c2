use watari_abi::{Address, Client, Config, Counter, SocketKey, SocketService, Talk};

use crate::service::ServiceTables;

/// An address that a process gave or is to be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    /// The address.
    pub address: Address,
    /// The port, network order.
    pub port: u16,
    /// IANA protocol number of the socket.
    pub protocol: u8,
}

/// The [`watari_abi::Talks`] of a socket, where they are kept. Two threads may send through one
/// socket at once; what is read may then be of two talks, so nothing is believed of it that
/// [`watari_abi::maps::SOCKETS`] does not confirm.
pub trait TalksPlace {
    /// One of them; zeros for one beyond the last.
    fn talk(&self, at: usize) -> Talk;
    /// Writes it.
    fn set_talk(&self, at: usize, talk: &Talk);
    /// The place of the one to be forgotten next, which is another one from now on.
    fn next(&self) -> usize;
}

/// What the decisions reach the world through: the socket, the tables, the time.
pub trait SocketEnv: ServiceTables {
    /// Where the socket's talks are kept.
    type Talks: TalksPlace;

    /// What holds for the node.
    fn config(&self) -> Config;
    /// Now, in ns of `CLOCK_MONOTONIC`.
    fn now(&self) -> u64;
    /// The kernel's cookie of the socket.
    fn cookie(&self) -> u64;
    /// The kernel's cookie of its network namespace.
    fn netns(&self) -> u64;
    /// Whose namespace it is.
    fn client(&self, netns: u64) -> Option<Client>;
    /// Writes an entry of [`watari_abi::maps::SOCKETS`]. False: no room.
    fn remember(&mut self, key: &SocketKey, service: &SocketService) -> bool;
    /// Removes it.
    fn forget(&mut self, key: &SocketKey);
    /// The socket's talks; `make` them if there are none.
    fn talks(&mut self, make: bool) -> Option<Self::Talks>;
    /// Counts.
    fn count(&mut self, counter: Counter);
}
