//! The lab as control plane: what an API server, the controllers of workloads and of EndpointSlices,
//! and a cloud's load balancer would do for the objects that are applied.
//!
//! There is no process for it. Whoever changes something does what follows from it: a command that
//! applies, scales or deletes, and the supervisor of a pod whose readiness changed.

mod allocate;
mod objects;
mod pods;
mod publish;
mod service;
mod slices;
mod workload;

pub use objects::Objects;
pub use pods::{delete_pods, end_pods};
pub use publish::{publish, published, run_publish};
pub use service::apply as apply_services;
pub use workload::{
    Progress, Settled, apply as apply_workload, progress, remove as remove_workload, scale,
};

use anyhow::Result;
use serde_json::Value;
use watari_manifests::{Manifest, ObjectId};

use crate::state::OpenLab;

/// The cgroup of what tells the nodes, beside those of the nodes, whose names all end in a number.
pub const CONTROL: &str = "control";

/// What an object cannot be, with the field.
pub type Refusal = (String, String);

fn refuse<T>(path: impl Into<String>, reason: impl Into<String>) -> Result<T, Refusal> {
    Err((path.into(), reason.into()))
}

/// What became of an object that was applied, in the words of `kubectl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is another one now.
    Configured,
    /// It was the same already.
    Unchanged,
}

impl Change {
    /// `created`, `configured`, `unchanged`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Keeps an object as it was given, with what an API server notes on it.
pub fn keep(objects: &Objects, manifest: &Manifest) -> Result<Change> {
    let id = manifest.id();
    let mut value = manifest.given.as_deref().cloned().unwrap_or_default();
    let old = objects.get(&id)?.and_then(|old| old.given);
    note(&mut value, &id, old.as_deref());
    store(objects, &id, &value, old.as_deref())
}

fn store(objects: &Objects, id: &ObjectId, value: &Value, old: Option<&Value>) -> Result<Change> {
    if old == Some(value) {
        return Ok(Change::Unchanged);
    }
    objects.put(id, value)?;
    Ok(if old.is_some() {
        Change::Configured
    } else {
        Change::Created
    })
}

/// `metadata.namespace` and `metadata.creationTimestamp`, the latter as it was before.
fn note(value: &mut Value, id: &ObjectId, old: Option<&Value>) {
    let created = old.and_then(|old| old.pointer("/metadata/creationTimestamp"));
    let created = created.cloned();
    let created = created.unwrap_or_else(|| timestamp(crate::pod::now_s()).into());
    if let Some(Value::Object(meta)) = value.get_mut("metadata") {
        meta.insert("namespace".to_owned(), id.namespace.clone().into());
        meta.insert("creationTimestamp".to_owned(), created);
    }
}

/// Seconds since 1970 in the form of RFC 3339. The calendar is Howard Hinnant's `civil_from_days`.
pub fn timestamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Removes a Service or a slice, and tells the nodes; false when there was none.
pub fn remove_object(lab: &OpenLab, id: &ObjectId) -> Result<bool> {
    Objects::locked(lab)?.remove(id)
}

/// Keeps an EndpointSlice that was given by hand.
pub fn apply_slice(lab: &OpenLab, manifest: &Manifest) -> Result<Change> {
    keep(&Objects::locked(lab)?, manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_dates() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_323_045, "2026-01-02T03:04:05Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(timestamp(seconds), text);
        }
    }
}
