//! A cluster on one machine, from network namespaces: a fabric, nodes, and pods that are real
//! processes.
//!
//! There is no daemon. A lab is a directory below `/run/watari/labs`, a cgroup `watari/LAB`, and
//! the namespaces of the processes in it: one that keeps each node's, one that keeps each pod's
//! and looks after its containers, one for the fabric, which also serves the wire server. Nothing
//! of a lab is in the machine's own network or mount namespace, so killing the cgroup ends it.

mod agent;
mod cgroup;
mod cluster;
mod demo;
mod down;
mod echo;
mod enter;
mod fabric;
mod http;
mod inspect;
mod layout;
mod lock;
mod mounts;
mod names;
mod node;
mod paths;
mod pod;
mod process;
mod spec;
mod state;
mod up;
mod way;
mod wire;

pub use agent::{
    End as EndAgent, end as end_agent, is_running as agent_is_running, log as agent_log,
    run as run_agent, start_in as start_agents,
};
pub use demo::demo;
pub use down::down;
pub use echo::{EchoOptions, echo};
pub use enter::{Target, exec, shell};
pub use fabric::run as run_fabric;
pub use inspect::{Page, inspect};
pub use layout::{GATEWAY6, Lab, METADATA, Node, SCHEMA, SDN_MAC, WIRE_SERVER, WORLD, WORLD6};
pub use names::{Label, LabelError};
pub use node::{is_up as node_is_up, run_holder as run_node};
pub use paths::labs;
pub use pod::{
    Applied, ContainerState, ContainerStatus, FoundPod, Outcome, Phase, PodKey, PodPlan, PodStatus,
    apply, delete, find as find_pod, list as list_pods, run_container, run_detach, run_supervisor,
};
pub use spec::{FabricKind, MAX_LAB_FILE, Spec, SpecError};
pub use state::{OpenLab, which};
pub use up::{AKS_CONFLIST, AKS_DUAL_CONFLIST, Options, SWITCH_CONFLIST, describe, up};
pub use wire::document as wire_document;
