use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use watari_model::{Attachment, MacAddr, NetworkName, Protocol};

use crate::{CniResult, Version};

/// A plugin's configuration as it arrives on standard input.
#[derive(Debug, Clone, PartialEq)]
pub struct NetConf {
    /// `cniVersion`; 0.1.0 when absent is refused like any other old version.
    pub cni_version: Version,
    /// `name`; absent only for VERSION.
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
    /// Everything, as it was read: for a plugin's own fields, and to pass on to a delegate.
    pub raw: Map<String, Value>,
}

/// What the runtime adds for the capabilities that a plugin declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    /// Capability `portMappings`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_mappings: Vec<PortMapping>,
    /// Capability `ips`: requested addresses, with or without prefix length as the runtime wrote them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<String>,
    /// Capability `mac`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
}

/// One entry of the capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port on the node; 0 means "none" and is skipped, as the reference does.
    pub host_port: u16,
    /// The port of the container.
    pub container_port: u16,
    /// The protocol; TCP when absent.
    pub protocol: Protocol,
    /// The node's address that it is bound to; any when absent or unspecified.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
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
