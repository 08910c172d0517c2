use std::str::FromStr as _;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watari_model::{Attachment, NetworkName};

use crate::field::{Object, parse_object};
use crate::{CniError, CniResult, Code, Command, RuntimeConfig, Version};

/// A plugin's configuration as it arrives on standard input.
#[derive(Debug, Clone, PartialEq)]
pub struct NetConf {
    /// `cniVersion`; absent means 0.1.0, which is refused like any version that we do not speak.
    pub cni_version: Version,
    /// `name`.
    pub name: NetworkName,
    /// `type`.
    pub kind: String,
    /// `ipam`, untouched.
    pub ipam: Option<Map<String, Value>>,
    /// `dns`.
    pub dns: Dns,
    /// `runtimeConfig`.
    pub runtime: RuntimeConfig,
    /// `prevResult`, converted to the newest form.
    pub prev_result: Option<CniResult>,
    /// `cni.dev/valid-attachments` (1.1.0; GC only).
    pub valid_attachments: Option<Vec<Attachment>>,
    /// Everything, as it was read: for a plugin's own fields, and so that fields which we do not
    /// know reach a delegate, or (those of `prevResult`) the next plugin.
    pub raw: Map<String, Value>,
}

/// `dns` in configurations and results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Servers, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Search domains, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Resolver options.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Nothing set?
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn read(parent: &Object<'_>) -> Result<Self, CniError> {
        let Some(field) = parent.get("dns") else {
            return Ok(Self::default());
        };
        let dns = field.object()?;
        Ok(Self {
            nameservers: dns.texts("nameservers")?,
            domain: dns.text("domain")?.map(str::to_owned),
            search: dns.texts("search")?,
            options: dns.texts("options")?,
        })
    }
}

impl NetConf {
    /// Parses a configuration: code 6 for what is not JSON, 7 for a field that is not valid, 1
    /// for a version that we do not speak.
    pub fn parse(bytes: &[u8]) -> Result<Self, CniError> {
        Self::read(bytes, None)
    }

    /// Like [`NetConf::parse`], for one command: the version has to know it, CHECK has to bring
    /// `prevResult` and GC the valid attachments. For DEL a `prevResult` or `runtimeConfig` that
    /// cannot be read counts as none, since what it tells is a help and DEL must go on: a runtime
    /// calls it after the ADD that was refused for the same mistake.
    pub fn parse_for(command: Command, bytes: &[u8]) -> Result<Self, CniError> {
        Self::read(bytes, Some(command))
    }

    fn read(bytes: &[u8], command: Option<Command>) -> Result<Self, CniError> {
        let raw = parse_object(bytes, "the network configuration")?;
        let root = Object::root(&raw);
        let cni_version = read_version(&root)?;
        if let Some(command) = command {
            cni_version.admit(command)?;
        }
        let prev_result = match read_prev_result(&root) {
            Err(_) if command == Some(Command::Del) => None,
            other => other?,
        };
        let runtime = match RuntimeConfig::read(&root) {
            Err(_) if command == Some(Command::Del) => RuntimeConfig::default(),
            other => other?,
        };
        let conf = Self {
            cni_version,
            name: root.require("name")?.parse("a network name")?,
            kind: read_kind(&root)?,
            ipam: root
                .get("ipam")
                .map(|ipam| ipam.map().cloned())
                .transpose()?,
            dns: Dns::read(&root)?,
            runtime,
            prev_result,
            valid_attachments: read_valid_attachments(&root)?,
            raw: Map::new(),
        };
        match command {
            Some(Command::Check) => drop(root.require("prevResult")?),
            Some(Command::Gc) => drop(root.require(VALID_ATTACHMENTS)?),
            _ => {}
        }
        Ok(Self { raw, ..conf })
    }

    /// `ipam.type`: the plugin that hands out addresses; none when there is no `ipam` or it is
    /// empty.
    pub fn ipam_kind(&self) -> Result<Option<&str>, CniError> {
        let Some(ipam) = self.raw.get("ipam").and_then(Value::as_object) else {
            return Ok(None);
        };
        if ipam.is_empty() {
            return Ok(None);
        }
        plugin_name(&Object::root(&self.raw).require("ipam")?.object()?).map(Some)
    }
}

/// The key under which GC learns which attachments stay (specification 1.1.0, section "GC").
pub(crate) const VALID_ATTACHMENTS: &str = "cni.dev/valid-attachments";

fn read_version(root: &Object<'_>) -> Result<Version, CniError> {
    let text = root.text("cniVersion")?.unwrap_or("0.1.0");
    text.parse().map_err(|_| unsupported_version(text))
}

/// The error that names the versions we speak.
pub(crate) fn unsupported_version(text: &str) -> CniError {
    let why = Version::from_str(text).map_or_else(|error| error.to_string(), |v| v.to_string());
    CniError::new(Code::INCOMPATIBLE_VERSION, why).because(
        "set cniVersion in the network configuration to a supported one; absent means 0.1.0",
    )
}

fn read_kind(root: &Object<'_>) -> Result<String, CniError> {
    plugin_name(root).map(str::to_owned)
}

/// `type` of this object: the name of a file in `CNI_PATH`, never a path.
pub(crate) fn plugin_name<'a>(of: &Object<'a>) -> Result<&'a str, CniError> {
    let field = of.require("type")?;
    let name = field.text()?;
    let odd = |c: char| matches!(c, '/' | '\\') || c.is_control();
    if name.is_empty() || name.len() > 255 || name == "." || name == ".." || name.contains(odd) {
        return Err(field.invalid("the name of a plugin: a file name of 1 to 255 bytes, no path"));
    }
    Ok(name)
}

fn read_prev_result(root: &Object<'_>) -> Result<Option<CniResult>, CniError> {
    let Some(field) = root.get("prevResult") else {
        return Ok(None);
    };
    CniResult::read(&field.object()?).map(Some)
}

fn read_valid_attachments(root: &Object<'_>) -> Result<Option<Vec<Attachment>>, CniError> {
    let Some(field) = root.get(VALID_ATTACHMENTS) else {
        return Ok(None);
    };
    let mut attachments = Vec::new();
    for item in field.items()? {
        let item = item.object()?;
        attachments.push(Attachment {
            container: item.require("containerID")?.parse("a container id")?,
            ifname: item.require("ifname")?.parse("an interface name")?,
        });
    }
    Ok(Some(attachments))
}
