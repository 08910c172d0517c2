//! Pods: from a manifest to processes in namespaces of their own.

mod apply;
mod container;
mod delete;
mod env;
mod files;
mod honoured;
mod network;
mod plan;
mod status;
mod store;
mod supervisor;

pub use apply::{Applied, Outcome, apply};
pub use container::{become_program, run as run_container};
pub use delete::{delete, run_detach};
pub use plan::{PodKey, PodPlan};
pub use status::{ContainerState, ContainerStatus, Phase, PodStatus};
pub use store::{FoundPod, find, list};
pub use supervisor::run as run_supervisor;
