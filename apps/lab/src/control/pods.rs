//! Pods that end: first the nodes are told, then the pod.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Result, anyhow};
use watari_manifests::Object;

use super::{Objects, publish, workload};
use crate::pod::{self, FoundPod, Owner};
use crate::state::OpenLab;

/// What became of each pod that was to end, in their order.
pub type Ended = Vec<Result<()>>;

/// Ends pods, all at once. Their endpoints are terminating from before they are told, and gone after
/// they are.
pub fn end_pods(lab: &OpenLab, pods: &[FoundPod], grace_s: Option<u64>) -> Result<Ended> {
    mark(lab, pods)?;
    let ended = end(lab, pods, grace_s);
    publish(lab)?;
    Ok(ended)
}

/// The same for pods that a person wants gone: workloads that had them make others.
pub fn delete_pods(lab: &OpenLab, pods: &[FoundPod], grace_s: Option<u64>) -> Result<Ended> {
    mark(lab, pods)?;
    let owned = pods.iter().filter_map(|pod| {
        let owner = pod.plan.as_ref()?.owner.clone()?;
        Some((pod.key.namespace.clone(), owner))
    });
    let owners: BTreeSet<(String, Owner)> = owned.collect();
    let mut failed = settle(lab, &owners);
    let mut ended = end(lab, pods, grace_s);
    // A StatefulSet's pods have their names again only now.
    failed.extend(settle(lab, &owners));
    publish(lab)?;
    ended.extend(failed.into_iter().map(Err));
    Ok(ended)
}

fn mark(lab: &OpenLab, pods: &[FoundPod]) -> Result<()> {
    for pod in pods {
        pod::mark_terminating(pod)?;
    }
    publish(lab)
}

fn end(lab: &OpenLab, pods: &[FoundPod], grace_s: Option<u64>) -> Ended {
    thread::scope(|scope| {
        let running: Vec<_> = pods
            .iter()
            .map(|pod| scope.spawn(move || pod::delete(lab, pod, grace_s)))
            .collect();
        let panicked = || anyhow!("the thread that deletes a pod panicked");
        running
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(panicked())))
            .collect()
    })
}

fn settle(lab: &OpenLab, owners: &BTreeSet<(String, Owner)>) -> Vec<anyhow::Error> {
    let mut failed = Vec::new();
    for (namespace, owner) in owners {
        let known = Objects::look(lab).get(&owner.id(namespace));
        match known {
            Ok(Some(manifest)) => {
                if let Object::Workload(one) = &manifest.object {
                    failed.extend(workload::settle(lab, one).err());
                }
            }
            Ok(None) => {}
            Err(error) => failed.push(error),
        }
    }
    failed
}
