use std::borrow::Cow;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;
use watari_model::MacAddr;

use crate::field::{Field, Object, parse_object};
use crate::{CniError, Code, Dns, Version};

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
    /// The container's namespace, as `CNI_NETNS` gave it; none for a link of the node.
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

impl CniResult {
    /// Reads a result of any supported version: what one version adds (`ips[].version`, `mtu`, …)
    /// is read or ignored in all, as chains mix plugins. Fields that we do not know are dropped.
    pub fn from_json(bytes: &[u8]) -> Result<Self, CniError> {
        let map = parse_object(bytes, "the result")?;
        Self::read(&Object::root(&map)).map_err(|error| CniError {
            code: Code::DECODE,
            ..error
        })
    }

    /// Reads a result that is JSON already.
    pub fn from_value(value: &Value) -> Result<Self, CniError> {
        Self::read(&Field::root("result", value).object()?).map_err(|error| CniError {
            code: Code::DECODE,
            ..error
        })
    }

    pub(crate) fn read(result: &Object<'_>) -> Result<Self, CniError> {
        result.parsed::<Version>("cniVersion", "a supported version")?;
        let interfaces: Vec<_> = collect(&result.items("interfaces")?, Interface::read)?;
        let ips = collect(&result.items("ips")?, |ip| {
            IpConfig::read(ip, interfaces.len())
        })?;
        Ok(Self {
            ips,
            routes: collect(&result.items("routes")?, ResultRoute::read)?,
            dns: Dns::read(result)?,
            interfaces,
        })
    }

    /// The result in the form of `version`; what that version does not know is left out.
    pub fn to_value(&self, version: Version) -> Value {
        serde_json::to_value(self.wire(version)).unwrap_or_default()
    }

    /// The result in the form of `version`, in one line.
    pub fn to_json(&self, version: Version) -> String {
        serde_json::to_string(&self.wire(version)).unwrap_or_default()
    }

    fn wire(&self, version: Version) -> WireResult<'_> {
        WireResult {
            cni_version: version,
            interfaces: self.interfaces.iter().map(|i| i.wire(version)).collect(),
            ips: self.ips.iter().map(|ip| ip.wire(version)).collect(),
            routes: self.routes.iter().map(|r| r.wire(version)).collect(),
            dns: &self.dns,
        }
    }
}

fn collect<T>(
    items: &[Field<'_>],
    read: impl Fn(&Field<'_>) -> Result<T, CniError>,
) -> Result<Vec<T>, CniError> {
    items.iter().map(read).collect()
}

/// `Some` unless zero, which several fields use for "not said".
fn nonzero(number: Option<u32>) -> Option<u32> {
    number.filter(|number| *number != 0)
}

fn ip(of: &Object<'_>, key: &str) -> Result<Option<IpAddr>, CniError> {
    let ip: Option<IpAddr> = of.parsed(key, "an IP address")?;
    Ok(ip.map(|ip| ip.to_canonical()))
}

impl Interface {
    fn read(field: &Field<'_>) -> Result<Self, CniError> {
        let interface = field.object()?;
        let text = |key| Ok::<_, CniError>(interface.text(key)?.map(str::to_owned));
        Ok(Self {
            name: text("name")?.unwrap_or_default(),
            mac: interface.parsed("mac", "a MAC address")?,
            mtu: nonzero(interface.number("mtu", 0..=u32::MAX)?),
            sandbox: text("sandbox")?.map(PathBuf::from),
            socket_path: text("socketPath")?,
            pci_id: text("pciID")?,
        })
    }

    fn wire(&self, version: Version) -> WireInterface<'_> {
        let newest = version >= Version::V1_1_0;
        WireInterface {
            name: &self.name,
            mac: self.mac,
            mtu: self.mtu.filter(|_| newest),
            sandbox: self.sandbox.as_ref().map(|path| path.to_string_lossy()),
            socket_path: self.socket_path.as_deref().filter(|_| newest),
            pci_id: self.pci_id.as_deref().filter(|_| newest),
        }
    }
}

impl IpConfig {
    /// `interfaces` is how many the result has. IPAM plugins know none, so that an index in their
    /// results means nothing.
    fn read(field: &Field<'_>, interfaces: usize) -> Result<Self, CniError> {
        let config = field.object()?;
        let interface = match config.get("interface") {
            Some(index) if interfaces > 0 => {
                let last = u32::try_from(interfaces - 1).unwrap_or(u32::MAX);
                usize::try_from(index.number(0..=last)?).ok()
            }
            _ => None,
        };
        Ok(Self {
            address: config
                .require("address")?
                .parse("an IP address with its prefix length")?,
            gateway: ip(&config, "gateway")?,
            interface,
        })
    }

    fn wire(&self, version: Version) -> WireIp {
        let family = if self.address.addr().is_ipv4() {
            "4"
        } else {
            "6"
        };
        WireIp {
            version: (version < Version::V1_0_0).then_some(family),
            interface: self.interface,
            address: self.address,
            gateway: self.gateway,
        }
    }
}

impl ResultRoute {
    /// A route to `dst` that says nothing else.
    pub fn to(dst: IpNet) -> Self {
        Self {
            dst,
            gw: None,
            mtu: None,
            advmss: None,
            priority: None,
            table: None,
            scope: None,
        }
    }

    /// Reads one entry of `routes`.
    pub fn read(field: &Field<'_>) -> Result<Self, CniError> {
        let route = field.object()?;
        let number = |key| route.number(key, 0..=u32::MAX);
        Ok(Self {
            dst: route
                .require("dst")?
                .parse("a destination with its prefix length")?,
            gw: ip(&route, "gw")?,
            mtu: nonzero(number("mtu")?),
            advmss: nonzero(number("advmss")?),
            priority: nonzero(number("priority")?),
            table: number("table")?,
            scope: number("scope")?,
        })
    }

    fn wire(&self, version: Version) -> WireRoute {
        let newest = |number: Option<u32>| number.filter(|_| version >= Version::V1_1_0);
        WireRoute {
            dst: self.dst,
            gw: self.gw,
            mtu: newest(self.mtu),
            advmss: newest(self.advmss),
            priority: newest(self.priority),
            table: newest(self.table),
            scope: newest(self.scope),
        }
    }
}

/// The forms on the wire, newest first in mind; fields of other versions are left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireResult<'a> {
    cni_version: Version,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    interfaces: Vec<WireInterface<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ips: Vec<WireIp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    routes: Vec<WireRoute>,
    dns: &'a Dns,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WireInterface<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sandbox: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_path: Option<&'a str>,
    #[serde(rename = "pciID", skip_serializing_if = "Option::is_none")]
    pci_id: Option<&'a str>,
}

#[derive(Serialize)]
struct WireIp {
    /// Before 1.0.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    interface: Option<usize>,
    address: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gateway: Option<IpAddr>,
}

#[derive(Serialize)]
struct WireRoute {
    dst: IpNet,
    #[serde(skip_serializing_if = "Option::is_none")]
    gw: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    advmss: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<u32>,
}
