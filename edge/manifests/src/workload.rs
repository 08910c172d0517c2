//! `apps/v1`: what keeps a number of pods.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use crate::check::{none_of, refuse, shown};
use crate::object::{ObjectId, Refusal};

/// More replicas than this are a mistake.
pub const MOST_REPLICAS: u32 = 10_000;

/// Which kind of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadKind {
    /// A number of pods, renewed when the template changes.
    Deployment,
    /// A number of pods.
    ReplicaSet,
    /// A number of pods with names that stay.
    StatefulSet,
    /// A pod on each node.
    DaemonSet,
}

impl WorkloadKind {
    /// As `kind` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::ReplicaSet => "ReplicaSet",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
        }
    }
}

/// A Deployment, ReplicaSet, StatefulSet or DaemonSet.
#[derive(Debug, Clone, PartialEq)]
pub struct Workload {
    /// Which kind.
    pub kind: WorkloadKind,
    /// Kind, namespace, name.
    pub id: ObjectId,
    /// How many pods it wants; none for a DaemonSet, which wants one on each node.
    pub replicas: Option<u32>,
    /// Its pods are those with these labels; each of them is in the template.
    pub selector: LabelSelector,
    /// What they are like.
    pub template: PodTemplateSpec,
    /// The old ones go before the new ones come (`Recreate`).
    pub recreate: bool,
    /// The number of a StatefulSet's first pod.
    pub first_ordinal: u32,
}

pub(crate) fn deployment(id: &ObjectId, given: Deployment) -> Result<Workload, Refusal> {
    let Some(spec) = given.spec else {
        return refuse("spec", "missing");
    };
    let strategy = spec.strategy.and_then(|strategy| strategy.type_);
    let recreate = match strategy.as_deref() {
        None | Some("" | "RollingUpdate") => false,
        Some("Recreate") => true,
        Some(other) => {
            let right = ["RollingUpdate", "Recreate"];
            return none_of("spec.strategy.type", other, &right);
        }
    };
    let workload = Workload {
        recreate,
        ..workload(id, WorkloadKind::Deployment, spec.selector, spec.template)
    };
    checked(workload, spec.replicas)
}

pub(crate) fn replica_set(id: &ObjectId, given: ReplicaSet) -> Result<Workload, Refusal> {
    let Some(spec) = given.spec else {
        return refuse("spec", "missing");
    };
    let template = spec.template.unwrap_or_default();
    let workload = workload(id, WorkloadKind::ReplicaSet, spec.selector, template);
    checked(workload, spec.replicas)
}

pub(crate) fn stateful_set(id: &ObjectId, given: StatefulSet) -> Result<Workload, Refusal> {
    let Some(spec) = given.spec else {
        return refuse("spec", "missing");
    };
    let start = spec.ordinals.and_then(|ordinals| ordinals.start);
    let start = start.unwrap_or(0);
    let Ok(first_ordinal) = u32::try_from(start) else {
        return refuse("spec.ordinals.start", format!("{start} is negative"));
    };
    let workload = Workload {
        first_ordinal,
        ..workload(id, WorkloadKind::StatefulSet, spec.selector, spec.template)
    };
    checked(workload, spec.replicas)
}

pub(crate) fn daemon_set(id: &ObjectId, given: DaemonSet) -> Result<Workload, Refusal> {
    let Some(spec) = given.spec else {
        return refuse("spec", "missing");
    };
    let mut workload = workload(id, WorkloadKind::DaemonSet, spec.selector, spec.template);
    workload = checked(workload, None)?;
    workload.replicas = None;
    Ok(workload)
}

fn workload(
    id: &ObjectId,
    kind: WorkloadKind,
    selector: LabelSelector,
    template: PodTemplateSpec,
) -> Workload {
    Workload {
        kind,
        id: id.clone(),
        replicas: None,
        selector,
        template,
        recreate: false,
        first_ordinal: 0,
    }
}

fn checked(mut workload: Workload, replicas: Option<i32>) -> Result<Workload, Refusal> {
    let replicas = replicas.unwrap_or(1);
    workload.replicas = match u32::try_from(replicas) {
        Ok(count) if count <= MOST_REPLICAS => Some(count),
        _ => {
            let reason = format!("want 0 to {MOST_REPLICAS}, not {replicas}");
            return refuse("spec.replicas", reason);
        }
    };
    let Some(spec) = &workload.template.spec else {
        return refuse("spec.template.spec", "missing");
    };
    if spec.containers.is_empty() {
        let reason = "missing; a pod has one at least";
        return refuse("spec.template.spec.containers", reason);
    }
    if let Some(policy) = spec.restart_policy.as_deref()
        && policy != "Always"
    {
        let path = "spec.template.spec.restartPolicy";
        return none_of(path, policy, &["Always"]);
    }
    let selector = &workload.selector;
    if says_nothing(selector) {
        let reason = "empty: it would be every pod of the namespace";
        return refuse("spec.selector", reason);
    }
    let none = BTreeMap::new();
    let meta = workload.template.metadata.as_ref();
    let labels = meta.and_then(|meta| meta.labels.as_ref()).unwrap_or(&none);
    if let Some(path) = unmet(selector, labels)? {
        let reason = format!("spec.template.metadata.labels do not meet {path}");
        return refuse("spec.selector", reason);
    }
    Ok(workload)
}

fn says_nothing(selector: &LabelSelector) -> bool {
    let expressions = selector.match_expressions.as_ref();
    let labels = selector.match_labels.as_ref();
    expressions.is_none_or(Vec::is_empty) && labels.is_none_or(BTreeMap::is_empty)
}

/// The part of a selector that labels do not meet.
fn unmet(
    selector: &LabelSelector,
    labels: &BTreeMap<String, String>,
) -> Result<Option<String>, Refusal> {
    for (key, value) in selector.match_labels.iter().flatten() {
        if labels.get(key) != Some(value) {
            return Ok(Some(format!("matchLabels: {key}={}", shown(value))));
        }
    }
    for (at, wanted) in selector.match_expressions.iter().flatten().enumerate() {
        if !meets(at, wanted, labels)? {
            let (key, operator) = (&wanted.key, &wanted.operator);
            return Ok(Some(format!("matchExpressions[{at}]: {key} {operator}")));
        }
    }
    Ok(None)
}

fn meets(
    at: usize,
    wanted: &LabelSelectorRequirement,
    labels: &BTreeMap<String, String>,
) -> Result<bool, Refusal> {
    let path = format!("spec.selector.matchExpressions[{at}]");
    let values = wanted.values.as_deref().unwrap_or_default();
    let has = labels.get(&wanted.key);
    let among = has.is_some_and(|value| values.contains(value));
    let operator = wanted.operator.as_str();
    if matches!(operator, "In" | "NotIn") == values.is_empty() {
        let reason = "want values with In and NotIn, and none with Exists and DoesNotExist";
        return refuse(format!("{path}.values"), reason);
    }
    match operator {
        "In" => Ok(among),
        "NotIn" => Ok(!among),
        "Exists" => Ok(has.is_some()),
        "DoesNotExist" => Ok(has.is_none()),
        other => {
            let right = ["In", "NotIn", "Exists", "DoesNotExist"];
            none_of(&format!("{path}.operator"), other, &right)
        }
    }
}
