use std::ffi::OsString;
use std::io;

use watari_cni_spec::{
    CniError, CniResult, Code, Command, NetConf, Request, Version, VersionReply,
};

use crate::{Plugin, interface, ipam, loopback, portmap};

/// What the program prints, and whether it exits with zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Standard output.
    pub text: String,
    /// True for exit status 0.
    pub success: bool,
}

impl Answer {
    /// An error object.
    pub fn failure(error: &CniError, version: Version) -> Self {
        Self {
            text: error.to_json(version) + "\n",
            success: false,
        }
    }

    fn success(text: String) -> Self {
        Self {
            text: if text.is_empty() { text } else { text + "\n" },
            success: true,
        }
    }

    /// What somebody reads who calls a plugin by hand, without `CNI_COMMAND`.
    pub fn about(plugin: Option<Plugin>) -> Self {
        let versions = Version::ALL.map(Version::as_str).join(", ");
        let what = match plugin {
            Some(Plugin::Interface) => "azure-vnet: connects a pod to its node",
            Some(Plugin::Ipam(_)) => "azure-vnet-ipam: hands out the node's addresses",
            Some(Plugin::Portmap) => "portmap: host ports, in nftables",
            Some(Plugin::Loopback) => "loopback: brings up lo",
            None => "CNI plugins in one program, by name or by `type`",
        };
        Self::success(format!(
            "watari-cni {} ({what})\nnames: {}\nCNI versions: {versions}\n\
             A container runtime executes it; by hand: watari cni add NETWORK NETNS",
            env!("CARGO_PKG_VERSION"),
            Plugin::NAMES.join(", "),
        ))
    }
}

/// One execution: the environment by `lookup`, standard input by `input`.
pub fn run(
    named: Option<Plugin>,
    lookup: impl Fn(&str) -> Option<OsString>,
    input: impl FnOnce() -> io::Result<Vec<u8>>,
) -> Answer {
    let mut version = Version::LATEST;
    let outcome = Request::from_env(lookup).and_then(|request| {
        let input = input().map_err(|error| {
            CniError::new(
                Code::IO,
                "cannot read the configuration from standard input",
            )
            .because(error)
        })?;
        version = Version::sniff(&input);
        if request.command == Command::Version {
            return Ok(VersionReply::answer(&input)?.to_json());
        }
        let conf = NetConf::parse_for(request.command, &input)?;
        let plugin = named.or_else(|| Plugin::of(&conf)).ok_or_else(|| {
            let kind = &conf.kind;
            CniError::new(
                Code::INVALID_CONFIG,
                format!("type {kind:?} is no plugin of watari-cni"),
            )
            .because(format_args!("known: {}", Plugin::NAMES.join(", ")))
        })?;
        let result = dispatch(plugin, &request, &conf)?;
        Ok(result
            .map(|result| result.to_json(conf.cni_version))
            .unwrap_or_default())
    });
    match outcome {
        Ok(text) => Answer::success(text),
        Err(error) => Answer::failure(&error, version),
    }
}

/// ADD has a result; the others have none.
fn dispatch(
    plugin: Plugin,
    request: &Request,
    conf: &NetConf,
) -> Result<Option<CniResult>, CniError> {
    match (plugin, request.command) {
        (Plugin::Interface, Command::Add) => interface::add(request, conf).map(Some),
        (Plugin::Interface, Command::Del) => interface::del(request, conf).map(|()| None),
        (Plugin::Interface, Command::Check) => interface::check(request, conf).map(|()| None),
        (Plugin::Interface, Command::Gc) => interface::gc(request, conf).map(|()| None),
        (Plugin::Interface, Command::Status) => interface::status(request, conf).map(|()| None),
        (Plugin::Loopback, command) => loopback::run(command, request, conf),
        (Plugin::Ipam(kind), Command::Add) => ipam::add(request, conf, kind).map(Some),
        (Plugin::Ipam(_), Command::Del) => ipam::del(request, conf).map(|()| None),
        (Plugin::Ipam(kind), Command::Check) => ipam::check(request, conf, kind).map(|()| None),
        (Plugin::Ipam(_), Command::Gc) => ipam::gc(conf).map(|_| None),
        (Plugin::Ipam(kind), Command::Status) => ipam::status(conf, kind).map(|()| None),
        (Plugin::Portmap, Command::Add) => portmap::add(request, conf).map(Some),
        (Plugin::Portmap, Command::Del) => portmap::del(request, conf).map(|()| None),
        (Plugin::Portmap, Command::Check) => portmap::check(request, conf).map(|()| None),
        (Plugin::Portmap, Command::Gc) => portmap::gc(request, conf).map(|()| None),
        (Plugin::Portmap, Command::Status) => portmap::status(request, conf).map(|()| None),
        (_, Command::Version) => Ok(None),
    }
}
