use std::ffi::OsStr;
use std::path::Path;

use watari_cni_spec::NetConf;
use watari_ipam::Kind;

/// Which plugin the program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `azure-vnet`: connects a pod.
    Interface,
    /// `azure-vnet-ipam`, `azure-vnet-ipamv6`, or `watari-cni` as an `ipam.type`.
    Ipam(Kind),
    /// `portmap`.
    Portmap,
    /// `loopback`.
    Loopback,
}

/// The name under which `type` decides.
const OWN_NAME: &str = "watari-cni";

impl Plugin {
    /// Every name that the program is installed under.
    pub const NAMES: [&str; 6] = [
        OWN_NAME,
        "azure-vnet",
        "azure-vnet-ipam",
        "azure-vnet-ipamv6",
        "portmap",
        "loopback",
    ];

    /// The plugin of that name; none for `watari-cni` and names that are not ours.
    pub fn named(called: &OsStr) -> Option<Self> {
        match Path::new(called).file_name()?.to_str()? {
            "azure-vnet" => Some(Self::Interface),
            "azure-vnet-ipam" => Some(Self::Ipam(Kind::AzureV4)),
            "azure-vnet-ipamv6" => Some(Self::Ipam(Kind::AzureV6)),
            "portmap" => Some(Self::Portmap),
            "loopback" => Some(Self::Loopback),
            _ => None,
        }
    }

    /// The plugin that a configuration means. A plugin that delegates passes its own
    /// configuration on, so another's `type` with our `ipam.type` is a call for addresses.
    pub fn of(conf: &NetConf) -> Option<Self> {
        if conf.kind == OWN_NAME {
            return Some(Self::Interface);
        }
        if let Some(plugin) = Self::named(conf.kind.as_ref()) {
            return Some(plugin);
        }
        let ipam = conf.ipam_kind().ok().flatten()?;
        Self::ipam(ipam)
    }

    /// Our IPAM plugin of that name.
    pub fn ipam(kind: &str) -> Option<Self> {
        Kind::of(kind).map(Self::Ipam)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(conf: &str) -> Option<Plugin> {
        Plugin::of(&NetConf::parse(conf.as_bytes()).unwrap())
    }

    #[test]
    fn the_name_selects() {
        let named = |name: &str| Plugin::named(name.as_ref());
        assert_eq!(named("/opt/cni/bin/azure-vnet"), Some(Plugin::Interface));
        assert_eq!(
            named("azure-vnet-ipamv6"),
            Some(Plugin::Ipam(Kind::AzureV6))
        );
        assert_eq!(named("/opt/cni/bin/watari-cni"), None);
    }

    #[test]
    fn the_type_selects_where_the_name_does_not() {
        let conf = r#"{"cniVersion":"1.0.0","name":"n","type":"TYPE","ipam":{"type":"IPAM"}}"#;
        let with = |kind: &str, ipam: &str| of(&conf.replace("TYPE", kind).replace("IPAM", ipam));
        assert_eq!(with("watari-cni", "watari-cni"), Some(Plugin::Interface));
        assert_eq!(with("portmap", "host-local"), Some(Plugin::Portmap));
        assert_eq!(with("ptp", "watari-cni"), Some(Plugin::Ipam(Kind::Watari)));
        assert_eq!(
            with("ptp", "azure-vnet-ipam"),
            Some(Plugin::Ipam(Kind::AzureV4))
        );
        assert_eq!(with("ptp", "host-local"), None);
    }
}
