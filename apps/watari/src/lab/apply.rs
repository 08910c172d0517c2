//! `watari lab apply` and `scale`.

use std::path::PathBuf;

use anyhow::bail;
use watari_lab::{Applied, Change, Label, OpenLab, Settled};
use watari_manifests::{Manifest, Object, ObjectId};

use super::files::{listed, load, report};
use super::kinds::{self, Kind};
use crate::{Outcome, told};

/// Bring the lab to what manifests say: Pods, Deployments, Services, EndpointSlices.
#[derive(Debug, clap::Args)]
pub struct Apply {
    /// A file or a folder of manifests; `-` for standard input. May be repeated.
    #[arg(short, long, required = true)]
    file: Vec<PathBuf>,
}

/// Change how many pods a Deployment, ReplicaSet or StatefulSet has.
#[derive(Debug, clap::Args)]
pub struct Scale {
    /// `[KIND/][NAMESPACE/]NAME`; a Deployment when no kind is said.
    workload: String,
    /// How many.
    #[arg(long)]
    replicas: u32,
    /// The namespace when it is named without one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

impl Apply {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::locked(lab)?;
        let found = load(&self.file)?;
        let mut outcome = report(&found);
        if found.objects.is_empty() && found.errors.is_empty() {
            eprintln!("watari: there are no manifests in {}", listed(&self.file));
            outcome = Outcome::Wrong;
        }
        // Pods find the Services of their file there already.
        let is_pods =
            |manifest: &&Manifest| matches!(manifest.object, Object::Pod(_) | Object::Workload(_));
        let (pods, others): (Vec<_>, Vec<_>) = found.objects.iter().partition(is_pods);
        let mut well = true;
        let is_service = |manifest: &&Manifest| matches!(manifest.object, Object::Service(_));
        let (services, rest): (Vec<_>, Vec<_>) = others.iter().partition(|one| is_service(one));
        let changes = watari_lab::apply_services(&lab, &services)?;
        for (manifest, change) in services.iter().zip(changes) {
            well &= changed(&manifest.id(), change);
        }
        for manifest in rest {
            well &= other(&lab, manifest);
        }
        if !others.is_empty() {
            watari_lab::publish(&lab)?;
        }
        for manifest in &pods {
            well &= pod(&lab, manifest);
        }
        if !pods.is_empty() {
            watari_lab::publish(&lab)?;
        }
        Ok(if well { outcome } else { Outcome::Wrong })
    }
}

/// A slice, or what a lab has none of; false when it went wrong.
fn other(lab: &OpenLab, manifest: &Manifest) -> bool {
    let id = manifest.id();
    if matches!(manifest.object, Object::EndpointSlice(_)) {
        return changed(&id, watari_lab::apply_slice(lab, manifest));
    }
    println!("{id}: left alone (the lab has pods, workloads, Services and EndpointSlices)");
    true
}

fn changed(id: &ObjectId, change: anyhow::Result<Change>) -> bool {
    match change {
        Ok(change) => {
            said(id, change);
            true
        }
        Err(error) => complain(id, &error),
    }
}

fn pod(lab: &OpenLab, manifest: &Manifest) -> bool {
    let id = manifest.id();
    match &manifest.object {
        Object::Pod(pod) => match watari_lab::apply(lab, pod, None) {
            Ok(applied) => tell(&applied),
            Err(error) => complain(&id, &error),
        },
        _ => match watari_lab::apply_workload(lab, manifest) {
            Ok((change, settled)) => {
                not_honoured(&id, &settled);
                settled_is(&settled);
                said(&id, change);
                true
            }
            Err(error) => complain(&id, &error),
        },
    }
}

fn said(id: &ObjectId, change: Change) {
    println!("{}: {}", name_of(id), change.as_str());
}

fn complain(id: &ObjectId, error: &anyhow::Error) -> bool {
    eprintln!("watari: {}: {}", name_of(id), told(error));
    false
}

/// As `pod default/web` is said: `service default/web`.
pub fn name_of(id: &ObjectId) -> String {
    let kind = id.kind.to_ascii_lowercase();
    format!("{kind} {}/{}", id.namespace, id.name)
}

/// Prints what of a workload's template has no effect, if pods were made of it.
fn not_honoured(id: &ObjectId, settled: &Settled) {
    if let Some(first) = settled.created.first()
        && !first.not_honoured.is_empty()
    {
        let fields = first.not_honoured.join(", ");
        println!("{}: has no effect here: {fields}", name_of(id));
    }
}

/// Prints what became of a workload's pods.
fn settled_is(settled: &Settled) {
    for applied in &settled.created {
        tell_outcome(applied);
    }
    for key in &settled.ended {
        println!("pod {key}: deleted");
    }
}

/// Prints what became of a pod; false when that is not what was asked for.
fn tell(applied: &Applied) -> bool {
    if !applied.not_honoured.is_empty() {
        let fields = applied.not_honoured.join(", ");
        println!("pod {}: has no effect here: {fields}", applied.key);
    }
    tell_outcome(applied)
}

fn tell_outcome(applied: &Applied) -> bool {
    let key = &applied.key;
    match &applied.outcome {
        watari_lab::Outcome::Created { node, addresses } => {
            println!("pod {key}: created on {node} with {addresses}");
            true
        }
        watari_lab::Outcome::Unchanged => {
            println!("pod {key}: unchanged");
            true
        }
        watari_lab::Outcome::Differs => {
            eprintln!("watari: pod {key} is there with another spec: delete it first");
            false
        }
        watari_lab::Outcome::Failed(error) => {
            eprintln!("watari: pod {key} cannot be made: {}", told(error));
            false
        }
    }
}

impl Scale {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::locked(lab)?;
        let (kind, id) = kinds::object(&self.workload, Kind::Deployments, &self.namespace);
        kinds::check(&id)?;
        if !kind.is_workload() {
            bail!("{} cannot be scaled", name_of(&id));
        }
        let settled = watari_lab::scale(&lab, &id, self.replicas)?;
        settled_is(&settled);
        println!("{}: scaled to {}", name_of(&id), self.replicas);
        Ok(Outcome::Well)
    }
}
