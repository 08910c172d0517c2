//! Services: what is applied, completed and kept.

use std::path::Path;

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Service;
use watari_manifests::{Manifest, Object};

use super::allocate::{Given, complete};
use super::{Change, Objects, note, store};
use crate::state::OpenLab;

/// Gives a Service what an API server would give it, and keeps it.
pub fn apply(lab: &OpenLab, manifest: &Manifest) -> Result<Change> {
    let objects = Objects::locked(lab)?;
    let id = manifest.id();
    let mut given = Given::new(&lab.lab.service_cidrs, &lab.lab.load_balancer_pools);
    let mut old = None;
    for known in objects.all()?.objects {
        if !matches!(known.object, Object::Service(_)) {
            continue;
        }
        let service = typed(&known)?;
        if known.id() == id {
            old = known.given.map(|value| (value, service));
        } else {
            given.note(&service);
        }
    }
    let mut service = typed(manifest)?;
    service.metadata.namespace = Some(id.namespace.clone());
    let before = old.as_ref().map(|(_, service)| service);
    let done = match complete(service, before, &mut given) {
        Ok(done) => done,
        Err((path, reason)) => bail!("{path}: {reason}"),
    };
    let mut value = serde_json::to_value(&done).context("describe the Service")?;
    let old = old.map(|(value, _)| value);
    note(&mut value, &id, old.as_deref());
    // What was said and what was given have to go together.
    let judged = watari_manifests::judge(Path::new(""), value.clone());
    if let Some(error) = judged.errors.first() {
        bail!("{}: {}", error.path, error.reason);
    }
    store(&objects, &id, &value, old.as_deref())
}

fn typed(manifest: &Manifest) -> Result<Service> {
    let value = manifest.given.as_deref().cloned().unwrap_or_default();
    serde_json::from_value(value).with_context(|| format!("read {}", manifest.id()))
}
