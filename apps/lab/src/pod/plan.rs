use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use watari_model::Protocol;

use crate::layout::SCHEMA;

use super::env::{self, EnvPlan};
use super::files;

/// How long a pod may take to end when nothing else is said, in seconds (as in Kubernetes).
const GRACE_S: u64 = 30;

/// A pod's namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl PodKey {
    /// As a file name: neither part can hold a `_` or a `/`.
    pub fn directory(&self) -> String {
        format!("{}_{}", self.namespace, self.name)
    }

    /// Back from [`Self::directory`].
    pub fn from_directory(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('_')?;
        Some(Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        })
    }

    /// Its cgroup below the node's.
    pub fn cgroup(&self) -> String {
        format!("pod-{}", self.directory())
    }
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// It is started again.
    Always,
    /// It is started again unless it ended well.
    OnFailure,
    /// It stays ended.
    Never,
}

/// All that the pod's supervisor needs to know: the contents of `pod.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlan {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Namespace and name.
    pub key: PodKey,
    /// `metadata.uid`: ours, the manifest has none.
    pub uid: String,
    /// The sandbox's id, as the plugins are told.
    pub sandbox: String,
    /// The name of the network namespace on the node.
    pub netns: String,
    /// The node.
    pub node: String,
    /// Seconds since 1970 at which it was applied.
    pub created_s: u64,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// It has the node's namespaces.
    pub host_network: bool,
    /// The host name in it.
    pub hostname: String,
    /// The host name with its domain, when it has one.
    pub fqdn: Option<String>,
    /// Lines of its `/etc/resolv.conf`.
    pub resolver: String,
    /// `hostAliases`, as lines of `/etc/hosts`.
    pub host_aliases: String,
    /// What happens when a container ends.
    pub restart: Restart,
    /// How long it may take to end, in seconds.
    pub grace_s: u64,
    /// Host ports.
    pub ports: Vec<PortForward>,
    /// What runs in it.
    pub containers: Vec<ContainerPlan>,
    /// The manifest's `spec`, to tell whether another one differs.
    pub spec: serde_json::Value,
}

/// A port of the node that is forwarded to the pod: an entry of the capability `portMappings`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForward {
    /// The port on the node.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// The node's address that it is bound to; any when absent.
    #[serde(rename = "hostIP", skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerPlan {
    /// Its name.
    pub name: String,
    /// The program and its arguments, references to variables not yet replaced.
    pub command: Vec<String>,
    /// Its variables.
    pub env: Vec<EnvPlan>,
    /// Where it starts; `/` when absent.
    pub working_dir: Option<String>,
}

/// What makes a pod of this run different from any other.
#[derive(Debug, Clone)]
pub struct Identity {
    /// `metadata.uid`.
    pub uid: String,
    /// The sandbox's id.
    pub sandbox: String,
    /// The network namespace's name.
    pub netns: String,
    /// Seconds since 1970.
    pub now_s: u64,
    /// The node's name server.
    pub nameserver: IpAddr,
}

/// A pod that cannot be run here; says the field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct PlanError {
    /// The field.
    pub path: String,
    /// What is wrong with it.
    pub reason: String,
}

pub(super) fn refuse<T>(
    path: impl Into<String>,
    reason: impl Into<String>,
) -> Result<T, PlanError> {
    Err(PlanError {
        path: path.into(),
        reason: reason.into(),
    })
}

/// Namespace and name of a manifest.
pub fn key_of(pod: &Pod) -> PodKey {
    PodKey {
        namespace: pod
            .metadata
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned()),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}

/// Decides everything about a pod that can be decided before it has an address.
pub fn plan(pod: &Pod, node: &str, identity: &Identity) -> Result<PodPlan, PlanError> {
    let Some(spec) = &pod.spec else {
        return refuse("spec", "missing");
    };
    let key = key_of(pod);
    let (hostname, fqdn) = host_name(spec, &key, node)?;
    let containers = containers(spec)?;
    Ok(PodPlan {
        schema: SCHEMA,
        uid: identity.uid.clone(),
        sandbox: identity.sandbox.clone(),
        netns: identity.netns.clone(),
        node: node.to_owned(),
        created_s: identity.now_s,
        labels: pod.metadata.labels.clone().unwrap_or_default(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        host_network: spec.host_network.unwrap_or(false),
        hostname,
        fqdn,
        resolver: files::resolver(spec, identity.nameserver)?,
        host_aliases: files::host_aliases(spec)?,
        restart: restart(spec)?,
        grace_s: spec
            .termination_grace_period_seconds
            .map_or(GRACE_S, |s| u64::try_from(s).unwrap_or(0)),
        ports: ports(spec)?,
        containers,
        spec: serde_json::to_value(spec).unwrap_or_default(),
        key,
    })
}

fn restart(spec: &PodSpec) -> Result<Restart, PlanError> {
    match spec.restart_policy.as_deref() {
        None | Some("" | "Always") => Ok(Restart::Always),
        Some("OnFailure") => Ok(Restart::OnFailure),
        Some("Never") => Ok(Restart::Never),
        Some(other) => refuse(
            "spec.restartPolicy",
            format!("{other:?} is none of Always, OnFailure, Never"),
        ),
    }
}

/// `hostname` and `subdomain`, else the pod's name; the node's for a pod of the host network.
fn host_name(
    spec: &PodSpec,
    key: &PodKey,
    node: &str,
) -> Result<(String, Option<String>), PlanError> {
    if spec.host_network == Some(true) {
        return Ok((node.to_owned(), None));
    }
    let label = |path: &str, text: &str| match crate::Label::new(text) {
        Ok(label) => Ok(label.as_str().to_owned()),
        Err(error) => refuse(path, error.to_string()),
    };
    let hostname = match spec.hostname.as_deref() {
        None | Some("") => key.name.chars().take(63).collect::<String>(),
        Some(given) => label("spec.hostname", given)?,
    };
    let hostname = hostname.trim_end_matches(['-', '.']).to_owned();
    let fqdn = match spec.subdomain.as_deref() {
        None | Some("") => None,
        Some(given) => {
            let subdomain = label("spec.subdomain", given)?;
            let namespace = &key.namespace;
            Some(format!(
                "{hostname}.{subdomain}.{namespace}.svc.cluster.local"
            ))
        }
    };
    Ok((hostname, fqdn))
}

fn containers(spec: &PodSpec) -> Result<Vec<ContainerPlan>, PlanError> {
    if spec.containers.is_empty() {
        return refuse("spec.containers", "a pod has at least one container");
    }
    let mut plans: Vec<ContainerPlan> = Vec::new();
    for (at, container) in spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{at}]");
        if let Err(error) = crate::Label::new(container.name.clone()) {
            return refuse(format!("{path}.name"), error.to_string());
        }
        if plans.iter().any(|other| other.name == container.name) {
            return refuse(format!("{path}.name"), "another container has this name");
        }
        plans.push(ContainerPlan {
            name: container.name.clone(),
            command: command(container),
            env: env::plan(container, &path)?,
            working_dir: container
                .working_dir
                .clone()
                .filter(|directory| !directory.is_empty()),
        });
    }
    Ok(plans)
}

/// `command` and `args`. There is no image to say what runs without `command`: it is the
/// built-in server, on the ports that the container declares.
fn command(container: &Container) -> Vec<String> {
    let mut words = container.command.clone().unwrap_or_default();
    let args = container.args.clone().unwrap_or_default();
    if words.is_empty() {
        words.extend(["watari".to_owned(), "echo".to_owned()]);
        if args.is_empty() {
            for port in container.ports.iter().flatten() {
                let kind = match port.protocol.as_deref() {
                    Some("UDP") => "--udp",
                    Some("SCTP") => continue,
                    _ => "--http",
                };
                words.extend([kind.to_owned(), port.container_port.to_string()]);
            }
        }
    }
    words.extend(args);
    words
}

/// The ports that the node forwards.
fn ports(spec: &PodSpec) -> Result<Vec<PortForward>, PlanError> {
    let mut mappings = Vec::new();
    for (at, container) in spec.containers.iter().enumerate() {
        for (port_at, port) in container.ports.iter().flatten().enumerate() {
            let path = format!("spec.containers[{at}].ports[{port_at}]");
            let number = |field: &str, value: i32| match u16::try_from(value) {
                Ok(value) if value > 0 => Ok(value),
                _ => refuse(format!("{path}.{field}"), format!("{value} is no port")),
            };
            let container_port = number("containerPort", port.container_port)?;
            let protocol = match port.protocol.as_deref() {
                None | Some("" | "TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                Some(other) => {
                    let reason = format!("{other:?} is none of TCP, UDP, SCTP");
                    return refuse(format!("{path}.protocol"), reason);
                }
            };
            let host_ip = match port.host_ip.as_deref() {
                None | Some("") => None,
                Some(text) => {
                    let Ok(address) = text.parse() else {
                        let reason = format!("{text:?} is no address");
                        return refuse(format!("{path}.hostIP"), reason);
                    };
                    Some(address)
                }
            };
            let Some(host_port) = port.host_port.filter(|&port| port != 0) else {
                continue;
            };
            let host_port = number("hostPort", host_port)?;
            if spec.host_network == Some(true) {
                if host_port != container_port {
                    let reason = "with hostNetwork it must be the containerPort";
                    return refuse(format!("{path}.hostPort"), reason);
                }
                continue;
            }
            mappings.push(PortForward {
                host_port,
                container_port,
                protocol,
                host_ip,
            });
        }
    }
    Ok(mappings)
}
