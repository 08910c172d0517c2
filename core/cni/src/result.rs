use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use watari_model::MacAddr;

use crate::Dns;

/// The result of ADD in its newest form (1.1.0). Written in, and read from, the form of any
/// supported version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CniResult {
    /// Links, in order; an IP refers to one by index.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<IpConfig>,
    /// Routes.
    pub routes: Vec<ResultRoute>,
    /// Resolver settings.
    pub dns: Dns,
}

/// One link of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes (from 1.1.0).
    pub mtu: Option<u32>,
    /// The container's namespace; none for a link of the node.
    pub sandbox: Option<PathBuf>,
    /// Path of a socket (1.1.0), for links that are none of the kernel.
    pub socket_path: Option<String>,
    /// PCI address (1.1.0).
    pub pci_id: Option<String>,
}

/// One address of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpConfig {
    /// The address with its prefix length.
    pub address: IpNet,
    /// The next hop.
    pub gateway: Option<IpAddr>,
    /// Index into `interfaces`.
    pub interface: Option<usize>,
}

/// One route of a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultRoute {
    /// Destination.
    pub dst: IpNet,
    /// Next hop; the address's gateway when absent.
    pub gw: Option<IpAddr>,
    /// MTU (1.1.0).
    pub mtu: Option<u32>,
    /// Advertised MSS (1.1.0).
    pub advmss: Option<u32>,
    /// Priority, lower first (1.1.0).
    pub priority: Option<u32>,
    /// Routing table (1.1.0).
    pub table: Option<u32>,
    /// Scope (1.1.0).
    pub scope: Option<u32>,
}
