use std::net::IpAddr;
use std::path::PathBuf;

use watari_cni_spec::{CniError, Code, NetConf, Object};
use watari_model::{HostPrefix, IfName};

/// The interface plugin's own fields, with Azure's names where Azure has one.
#[derive(Debug, Clone)]
pub struct InterfaceConf {
    /// `master`: the node's primary interface; found by itself when absent.
    pub master: Option<IfName>,
    /// `ipsToRouteViaHost`: destinations that always go through the node's own stack.
    pub via_host: Vec<IpAddr>,
    /// `hostVethPrefix`: how host-side links are called; ours, `azv` when absent.
    pub prefix: HostPrefix,
    /// `mtu` in bytes; the primary interface's when absent.
    pub mtu: Option<u32>,
    /// `bpfRoot`: where the node's datapath is pinned.
    pub bpf_root: PathBuf,
    /// `ipv6Mode` is set: addresses of both families, as Azure's plugin asks for them.
    pub ipv6: bool,
}

/// IPv6 asks for links of at least this size (RFC 8200, section 5); IPv4's least is 68.
const LEAST_MTU: u32 = 68;
const MOST_MTU: u32 = 65_535;

impl InterfaceConf {
    /// Reads the fields; a mode that is not supported is refused by name.
    pub fn read(conf: &NetConf) -> Result<Self, CniError> {
        let invalid = |why: String| {
            CniError::new(
                Code::INVALID_CONFIG,
                format!("network {}: {why}", conf.name),
            )
        };
        let unsupported = |what: String| {
            Err(CniError::new(
                Code::UNSUPPORTED_FIELD,
                format!("network {}: {what}", conf.name),
            ))
        };
        let root = Object::root(&conf.raw);
        match root.text("mode")? {
            None | Some("transparent") => {}
            Some(other) => {
                return unsupported(format!("mode {other:?} (supported: \"transparent\")"));
            }
        }
        let multi_tenancy = root.get("multiTenancy").map(|field| field.flag());
        if multi_tenancy.transpose()?.unwrap_or_default() {
            return unsupported("multiTenancy true".to_owned());
        }
        let mtu = root.number("mtu", 0..=MOST_MTU)?.filter(|mtu| *mtu != 0);
        if let Some(mtu) = mtu.filter(|mtu| *mtu < LEAST_MTU) {
            return Err(invalid(format!(
                "mtu {mtu} is not {LEAST_MTU} to {MOST_MTU}"
            )));
        }
        let destinations = root.items("ipsToRouteViaHost")?;
        let via_host = destinations.iter().map(|item| item.parse("an IP address"));
        let prefix = root.parsed("hostVethPrefix", "the first letters of links")?;
        let bpf_root = root.text("bpfRoot")?.unwrap_or(watari_bpf::ROOT);
        if !bpf_root.starts_with('/') {
            return Err(invalid(format!("bpfRoot {bpf_root:?} is no absolute path")));
        }
        Ok(Self {
            bpf_root: bpf_root.into(),
            master: root.parsed("master", "an interface of the node")?,
            via_host: via_host.collect::<Result<_, _>>()?,
            prefix: prefix.unwrap_or_default(),
            mtu,
            ipv6: root.text("ipv6Mode")?.is_some(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &str) -> Result<InterfaceConf, CniError> {
        let text =
            format!(r#"{{"cniVersion":"0.3.0","name":"azure","type":"azure-vnet"{fields}}}"#);
        InterfaceConf::read(&NetConf::parse(text.as_bytes()).unwrap())
    }

    #[test]
    fn the_aks_conflist_is_understood() {
        let conf = read(r#","mode":"transparent","ipsToRouteViaHost":["169.254.20.10"]"#).unwrap();
        assert_eq!(conf.via_host, ["169.254.20.10".parse::<IpAddr>().unwrap()]);
        assert!(!conf.ipv6 && conf.mtu.is_none());
        assert_eq!(conf.prefix.as_str(), "azv");
    }

    #[test]
    fn what_is_not_supported_or_wrong_is_named() {
        for (fields, code, word) in [
            (r#","mode":"bridge""#, Code::UNSUPPORTED_FIELD, "bridge"),
            (
                r#","multiTenancy":true"#,
                Code::UNSUPPORTED_FIELD,
                "multiTenancy",
            ),
            (r#","mtu":10"#, Code::INVALID_CONFIG, "mtu 10"),
            (r#","mtu":"big""#, Code::INVALID_CONFIG, "big"),
            (r#","bpfRoot":"x""#, Code::INVALID_CONFIG, "bpfRoot"),
            (r#","master":"a/b""#, Code::INVALID_CONFIG, "a/b"),
            (
                r#","hostVethPrefix":"toolong""#,
                Code::INVALID_CONFIG,
                "hostVethPrefix",
            ),
            (
                r#","ipsToRouteViaHost":["x"]"#,
                Code::INVALID_CONFIG,
                "invalid IP",
            ),
        ] {
            let error = read(fields).unwrap_err();
            assert_eq!(error.code, code, "{fields}");
            assert!(error.to_string().contains(word), "{fields}: {error}");
        }
    }
}
