//! Services: what is applied, completed and kept.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Service;
use serde_json::Value;
use watari_manifests::{Manifest, Object, ObjectId};

use super::allocate::{Given, complete};
use super::{Change, Objects, note, store};
use crate::state::OpenLab;

/// Gives each Service what an API server would give it, and keeps it; what became of each.
pub fn apply(lab: &OpenLab, manifests: &[&Manifest]) -> Result<Vec<Result<Change>>> {
    let objects = Objects::locked(lab)?;
    let mut giver = Giver {
        given: Given::new(&lab.lab.service_cidrs, &lab.lab.load_balancer_pools),
        known: BTreeMap::new(),
        objects,
    };
    for known in giver.objects.all()?.objects {
        if let (Object::Service(_), Some(value)) = (&known.object, &known.given) {
            let service = typed(&known)?;
            giver.given.note(&service);
            giver.known.insert(known.id(), ((**value).clone(), service));
        }
    }
    let each = manifests.iter().map(|manifest| giver.apply(manifest));
    Ok(each.collect())
}

/// Who gives, with what is given already.
struct Giver {
    objects: Objects,
    given: Given,
    known: BTreeMap<ObjectId, (Value, Service)>,
}

impl Giver {
    fn apply(&mut self, manifest: &Manifest) -> Result<Change> {
        let id = manifest.id();
        let old = self.known.remove(&id);
        let before = old.as_ref().map(|(_, service)| service);
        if let Some(before) = before {
            self.given.forget(before);
        }
        let given = &mut self.given;
        let done = complete_one(manifest, &id, before, given).and_then(|service| {
            let mut value = serde_json::to_value(&service).context("describe the Service")?;
            note(&mut value, &id, old.as_ref().map(|(value, _)| value));
            // What was said and what was given have to go together.
            let judged = watari_manifests::judge(Path::new(""), value.clone());
            if let Some(error) = judged.errors.first() {
                bail!("{}: {}", error.path, error.reason);
            }
            Ok((value, service))
        });
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                self.known.extend(old.map(|old| (id, old)));
                self.count_anew();
                return Err(error);
            }
        };
        let change = store(
            &self.objects,
            &id,
            &done.0,
            old.as_ref().map(|(value, _)| value),
        );
        self.given.note(&done.1);
        self.known.insert(id, done);
        change
    }

    /// What was refused takes nothing.
    fn count_anew(&mut self) {
        self.given = Given::new(&self.given.cidrs, &self.given.pools);
        for (_, service) in self.known.values() {
            self.given.note(service);
        }
    }
}

fn complete_one(
    manifest: &Manifest,
    id: &ObjectId,
    before: Option<&Service>,
    given: &mut Given,
) -> Result<Service> {
    let mut service = typed(manifest)?;
    service.metadata.namespace = Some(id.namespace.clone());
    complete(service, before, given).map_err(|(path, reason)| anyhow!("{path}: {reason}"))
}

fn typed(manifest: &Manifest) -> Result<Service> {
    let value = manifest.given.as_deref().cloned().unwrap_or_default();
    serde_json::from_value(value).with_context(|| format!("read {}", manifest.id()))
}
