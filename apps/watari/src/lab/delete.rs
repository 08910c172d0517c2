//! `watari lab delete`.

use std::path::PathBuf;

use watari_lab::{FoundPod, Label, OpenLab};
use watari_manifests::{Object, ObjectId};

use super::apply::name_of;
use super::files::{load, report};
use super::kinds::{self, Kind};
use crate::{Outcome, told};

/// End pods, and remove workloads, Services and EndpointSlices.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// What: `[KIND/][NAMESPACE/]NAME`, or a kind and then names of it; pods when no kind is said.
    #[arg(required_unless_present = "file", value_name = "OBJECT")]
    objects: Vec<String>,
    /// The objects of a file or a folder of manifests; `-` for standard input.
    #[arg(short, long)]
    file: Vec<PathBuf>,
    /// Seconds that a pod may take to end, instead of its own grace period.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u64>,
    /// The namespace of objects that are named without one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Delete {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::locked(lab)?;
        let found = load(&self.file)?;
        let outcome = report(&found);
        let (usual, words) = match self.objects.split_first() {
            Some((word, rest)) if !rest.is_empty() => match Kind::find(word) {
                Some(kind) => (kind, rest),
                None => (Kind::Pods, &self.objects[..]),
            },
            _ => (Kind::Pods, &self.objects[..]),
        };
        let named = words.iter();
        let mut ids: Vec<(Kind, ObjectId)> = named
            .map(|text| kinds::object(text, usual, &self.namespace))
            .collect();
        for manifest in &found.objects {
            let id = manifest.id();
            match Kind::find(&id.kind).filter(|_| !matches!(manifest.object, Object::Other { .. }))
            {
                Some(kind) if kind != Kind::Nodes => ids.push((kind, id)),
                _ => println!("{id}: left alone"),
            }
        }
        let mut well = true;
        // What makes pods goes before the pods.
        let is_workload = |(kind, _): &(Kind, ObjectId)| kind.is_workload();
        let (workloads, others): (Vec<_>, Vec<_>) = ids.into_iter().partition(is_workload);
        for (_, id) in &workloads {
            let removed = kinds::check(id)
                .and_then(|()| watari_lab::remove_workload(&lab, id, self.grace_period));
            well &= removed_is(&lab, id, removed);
        }
        let (pods, objects): (Vec<_>, Vec<_>) = others
            .into_iter()
            .partition(|(kind, _)| *kind == Kind::Pods);
        for (_, id) in &objects {
            let removed = kinds::check(id).and_then(|()| watari_lab::remove_object(&lab, id));
            well &= removed_is(&lab, id, removed);
        }
        if !objects.is_empty() {
            watari_lab::publish(&lab)?;
        }
        let pods: Vec<ObjectId> = pods.into_iter().map(|(_, id)| id).collect();
        well &= delete_pods(&lab, &pods, self.grace_period)?;
        Ok(if well { outcome } else { Outcome::Wrong })
    }
}

fn removed_is(lab: &OpenLab, id: &ObjectId, removed: anyhow::Result<bool>) -> bool {
    let name = name_of(id);
    match removed {
        Ok(true) => println!("{name}: deleted"),
        Ok(false) => eprintln!("watari: lab {} has no {name}", lab.lab.name),
        Err(ref error) => eprintln!("watari: {name}: {}", told(error)),
    }
    removed.unwrap_or(false)
}

fn delete_pods(lab: &OpenLab, ids: &[ObjectId], grace_s: Option<u64>) -> anyhow::Result<bool> {
    let mut well = true;
    let mut pods: Vec<FoundPod> = Vec::new();
    for id in ids {
        match watari_lab::find_pod(lab, &id.namespace, &id.name) {
            Ok(pod) => pods.push(pod),
            Err(error) => {
                eprintln!("watari: pod {}: {}", id.name, told(&error));
                well = false;
            }
        }
    }
    if pods.is_empty() {
        return Ok(well);
    }
    let ended = watari_lab::delete_pods(lab, &pods, grace_s)?;
    for (at, result) in ended.iter().enumerate() {
        let key = pods.get(at).map(|pod| &pod.key);
        match (result, key) {
            (Ok(()), Some(key)) => println!("pod {key}: deleted"),
            (Ok(()), None) => {}
            (Err(error), key) => {
                let what = key.map_or("what follows".to_owned(), |key| format!("pod {key}"));
                eprintln!("watari: {what}: {}", told(error));
                well = false;
            }
        }
    }
    Ok(well)
}
