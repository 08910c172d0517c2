use std::net::IpAddr;

use serde::Serialize;
use watari_model::{MacAddr, Protocol};

use crate::CniError;
use crate::field::{Field, Object};

/// What the runtime adds for the capabilities that a plugin declares.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The port on the node; 0 means "none" and is skipped, as the reference does.
    pub host_port: u16,
    /// The port of the container.
    pub container_port: u16,
    /// The protocol; TCP when absent.
    pub protocol: Protocol,
    /// The node's address that it is bound to; any when absent, any of its family when unspecified.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl RuntimeConfig {
    pub(crate) fn read(parent: &Object<'_>) -> Result<Self, CniError> {
        let Some(field) = parent.get("runtimeConfig") else {
            return Ok(Self::default());
        };
        let runtime = field.object()?;
        let mappings = runtime.items("portMappings")?;
        let mac: Option<MacAddr> = runtime.parsed("mac", "a MAC address")?;
        if mac.is_some_and(|mac| !mac.is_unicast()) {
            let want = "the MAC address of one interface, neither multicast nor zero";
            return Err(runtime.require("mac")?.invalid(want));
        }
        Ok(Self {
            port_mappings: mappings
                .iter()
                .map(PortMapping::read)
                .collect::<Result<_, _>>()?,
            ips: runtime.texts("ips")?,
            mac,
        })
    }
}

impl PortMapping {
    fn read(field: &Field<'_>) -> Result<Self, CniError> {
        let mapping = field.object()?;
        let port = |number: u32| u16::try_from(number).unwrap_or_default();
        let host_port = mapping.number("hostPort", 0..=65535)?.unwrap_or_default();
        let container_port = mapping.require("containerPort")?.number(1..=65535)?;
        let host_ip: Option<IpAddr> = mapping.parsed("hostIP", "an IP address")?;
        Ok(Self {
            host_port: port(host_port),
            container_port: port(container_port),
            protocol: mapping
                .parsed("protocol", "a protocol")?
                .unwrap_or(Protocol::Tcp),
            host_ip: host_ip.map(|ip| ip.to_canonical()),
        })
    }
}
