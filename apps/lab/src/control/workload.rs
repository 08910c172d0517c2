//! Deployments and their like: pods that come and go with them.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use watari_manifests::{MOST_REPLICAS, Manifest, Object, ObjectId, Workload, WorkloadKind};

use super::allocate::number_of;
use super::{Change, Objects, end_pods, keep, publish};
use crate::lock::{DirLock, Mode};
use crate::pod::{self, Applied, FoundPod, Outcome, Owner, Phase, PodKey, PodStatus};
use crate::state::OpenLab;

/// The label by which a Deployment's pods of one template are known, and that of the other kinds.
const TEMPLATE_HASH: &str = "pod-template-hash";
const REVISION_HASH: &str = "controller-revision-hash";
/// What generated names are made of: no vowels, no words (as in Kubernetes).
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// How many pods are made at once.
const AT_ONCE: usize = 4;
/// How long new pods may take to be ready before old ones are ended.
const PATIENCE: Duration = Duration::from_mins(1);

/// What was done for a workload.
#[derive(Debug, Default)]
pub struct Settled {
    /// The pods that were made.
    pub created: Vec<Applied>,
    /// The pods that were ended.
    pub ended: Vec<PodKey>,
}

/// How far a workload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many pods it wants.
    pub wanted: usize,
    /// How many it has.
    pub has: usize,
    /// How many of them are of its present template.
    pub current: usize,
    /// How many are ready.
    pub ready: usize,
}

/// Keeps a workload and brings its pods to what it wants.
pub fn apply(lab: &OpenLab, manifest: &Manifest) -> Result<(Change, Settled)> {
    let Object::Workload(workload) = &manifest.object else {
        bail!("{} is no workload", manifest.id());
    };
    let change = keep(&Objects::locked(lab)?, manifest)?;
    Ok((change, settle(lab, workload)?))
}

/// Changes how many pods a workload wants.
pub fn scale(lab: &OpenLab, id: &ObjectId, replicas: u32) -> Result<Settled> {
    if replicas > MOST_REPLICAS {
        bail!("want 0 to {MOST_REPLICAS} replicas, not {replicas}");
    }
    let objects = Objects::locked(lab)?;
    let Some(Manifest {
        object: Object::Workload(mut workload),
        given: Some(mut value),
        ..
    }) = objects.get(id)?
    else {
        bail!("there is no {id}");
    };
    if workload.replicas.is_none() {
        bail!("{id} has a pod on each node: it cannot be scaled");
    }
    value["spec"]["replicas"] = replicas.into();
    objects.put(id, &value)?;
    drop(objects);
    workload.replicas = Some(replicas);
    settle(lab, &workload)
}

/// Forgets a workload and ends its pods; false when there was none.
pub fn remove(lab: &OpenLab, id: &ObjectId, grace_s: Option<u64>) -> Result<bool> {
    let _lock = lock(lab)?;
    let there = Objects::locked(lab)?.remove(id)?;
    let pods = pods_of(lab, id)?;
    let any = !pods.is_empty();
    end(lab, &pods, grace_s)?;
    Ok(there || any)
}

/// How far a workload has come.
pub fn progress(lab: &OpenLab, workload: &Workload, pods: &[FoundPod]) -> Progress {
    let hash = template_hash(&workload.template);
    let mine = pods.iter().filter(|pod| is_of(pod, &workload.id));
    let mine: Vec<&FoundPod> = mine.filter(|pod| is_active(pod)).collect();
    let count = |meets: &dyn Fn(&FoundPod) -> bool| mine.iter().filter(|pod| meets(pod)).count();
    Progress {
        wanted: workload
            .replicas
            .map_or(lab.lab.nodes.len(), |wanted| wanted as usize),
        has: mine.len(),
        current: count(&|pod| revision(pod) == Some(&hash)),
        ready: count(&is_ready),
    }
}

/// One at a time makes and ends pods of workloads.
fn lock(lab: &OpenLab) -> Result<DirLock> {
    DirLock::create(&lab.dir.path().join("workloads"), Mode::Exclusive)
}

/// Brings a workload's pods to what it wants.
pub fn settle(lab: &OpenLab, workload: &Workload) -> Result<Settled> {
    let _lock = lock(lab)?;
    let mut run = Run {
        lab,
        workload,
        hash: template_hash(&workload.template),
        done: Settled::default(),
    };
    let all = pods_of(lab, &workload.id)?.into_iter();
    let (going, staying): (Vec<_>, Vec<_>) = all.partition(|pod| pod.terminating);
    // What was cut short or lost its supervisor is in the way of nobody.
    let (mine, broken): (Vec<_>, Vec<_>) = staying.into_iter().partition(is_active);
    run.end(&broken)?;
    match workload.kind {
        WorkloadKind::Deployment => run.deployment(mine)?,
        WorkloadKind::ReplicaSet => run.replicas(mine)?,
        WorkloadKind::StatefulSet => run.ordinals(mine, &going)?,
        WorkloadKind::DaemonSet => run.nodes(mine)?,
    }
    publish(lab)?;
    Ok(run.done)
}

struct Run<'a> {
    lab: &'a OpenLab,
    workload: &'a Workload,
    hash: String,
    done: Settled,
}

impl Run<'_> {
    fn wanted(&self) -> usize {
        self.workload.replicas.unwrap_or(0) as usize
    }

    /// New ones first, then, when they are ready, the old ones go; with `Recreate` the other way round.
    fn deployment(&mut self, mine: Vec<FoundPod>) -> Result<()> {
        let current = |pod: &FoundPod| revision(pod) == Some(&self.hash);
        let (current, old): (Vec<_>, Vec<_>) = mine.into_iter().partition(current);
        if self.workload.recreate {
            self.end(&old)?;
        }
        let more = self.fill(current.len())?;
        if !self.workload.recreate && !old.is_empty() {
            let mut keys: Vec<PodKey> = current.iter().map(|pod| pod.key.clone()).collect();
            keys.extend(more);
            wait_until_ready(self.lab, &keys)
                .context("the old pods stay: apply again when the new ones are mended")?;
            self.end(&old)?;
        }
        self.cut(current)
    }

    fn replicas(&mut self, mine: Vec<FoundPod>) -> Result<()> {
        self.fill(mine.len())?;
        self.cut(mine)
    }

    /// Makes as many as are missing.
    fn fill(&mut self, has: usize) -> Result<Vec<PodKey>> {
        let names = (has..self.wanted()).map(|_| (self.generated_name(), None));
        let names: Vec<_> = names.collect();
        self.create(&names)
    }

    /// Ends as many as are too many: those that are not ready first, then the youngest.
    fn cut(&mut self, mut mine: Vec<FoundPod>) -> Result<()> {
        let age = |pod: &FoundPod| pod.plan.as_ref().map_or(0, |plan| plan.created_s);
        mine.sort_by_key(|pod| (!is_ready(pod), age(pod)));
        let surplus = mine.split_off(self.wanted().min(mine.len()));
        self.end(&surplus)
    }

    /// One after the other, each ready before the next; the highest goes first. A name that is still
    /// a pod's that ends is waited for by who ends it.
    fn ordinals(&mut self, mine: Vec<FoundPod>, going: &[FoundPod]) -> Result<()> {
        let first = self.workload.first_ordinal;
        let wanted: Vec<String> = (0..self.workload.replicas.unwrap_or(0))
            .map(|at| format!("{}-{}", self.workload.id.name, first + at))
            .collect();
        let ordinal = |pod: &FoundPod| -> Option<u32> {
            let (_, number) = pod.key.name.rsplit_once('-')?;
            number.parse().ok()
        };
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for pod in mine {
            let current = revision(&pod) == Some(&self.hash);
            if current && wanted.contains(&pod.key.name) {
                kept.push(pod.key.name.clone());
            } else {
                gone.push(pod);
            }
        }
        gone.sort_by_key(ordinal);
        while let Some(pod) = gone.pop() {
            self.end(&[pod])?;
        }
        for name in wanted {
            if going.iter().any(|pod| pod.key.name == name) {
                return Ok(());
            }
            if !kept.contains(&name) {
                let made = self.create(&[(name, None)])?;
                wait_until_ready(self.lab, &made)?;
            }
        }
        Ok(())
    }

    /// One on each node.
    fn nodes(&mut self, mine: Vec<FoundPod>) -> Result<()> {
        let mut missing = Vec::new();
        let (current, old): (Vec<_>, Vec<_>) = mine
            .into_iter()
            .partition(|pod| revision(pod) == Some(&self.hash));
        self.end(&old)?;
        for node in &self.lab.lab.nodes {
            if !current.iter().any(|pod| pod.node == node.name) {
                missing.push((self.generated_name(), Some(node.name.to_string())));
            }
        }
        self.create(&missing).map(drop)
    }

    /// `NAME-HASH-SUFFIX` for a Deployment, `NAME-SUFFIX` for others.
    fn generated_name(&self) -> String {
        let (name, hash) = (&self.workload.id.name, &self.hash);
        let suffix = letters(random(), 5);
        match self.workload.kind {
            WorkloadKind::Deployment => format!("{name}-{hash}-{suffix}"),
            _ => format!("{name}-{suffix}"),
        }
    }

    /// Makes pods of these names, on these nodes. The first that cannot be made is the answer; those
    /// that could stay.
    fn create(&mut self, wanted: &[(String, Option<String>)]) -> Result<Vec<PodKey>> {
        let mut made = Vec::new();
        for some in wanted.chunks(AT_ONCE) {
            let (lab, this) = (self.lab, &*self);
            let applied: Vec<Result<Applied>> = thread::scope(|scope| {
                let start = |(name, node): &(String, Option<String>)| {
                    let pod = this.pod(name, node.clone());
                    let owner = Owner::of(&this.workload.id);
                    scope.spawn(move || pod::apply(lab, &pod, Some(owner)))
                };
                let running: Vec<_> = some.iter().map(start).collect();
                let panicked = || anyhow!("the thread that makes a pod panicked");
                let join = running.into_iter().map(thread::ScopedJoinHandle::join);
                join.map(|one| one.unwrap_or_else(|_| Err(panicked())))
                    .collect()
            });
            for one in applied {
                let one = one?;
                match one.outcome {
                    Outcome::Created { .. } => {}
                    Outcome::Failed(error) => {
                        return Err(error.context(format!("pod {} cannot be made", one.key)));
                    }
                    Outcome::Unchanged | Outcome::Differs => {
                        let id = &self.workload.id;
                        bail!(
                            "pod {} is there already, and not of {id}: delete it first",
                            one.key
                        );
                    }
                }
                made.push(one.key.clone());
                self.done.created.push(one);
            }
        }
        Ok(made)
    }

    fn pod(&self, name: &str, node: Option<String>) -> Pod {
        let workload = self.workload;
        let meta = workload.template.metadata.clone().unwrap_or_default();
        let mut labels = meta.labels.unwrap_or_default();
        let of_template = match workload.kind {
            WorkloadKind::Deployment => TEMPLATE_HASH,
            _ => REVISION_HASH,
        };
        if workload.kind != WorkloadKind::ReplicaSet {
            labels.insert(of_template.to_owned(), self.hash.clone());
        }
        if workload.kind == WorkloadKind::StatefulSet {
            let label = "statefulset.kubernetes.io/pod-name";
            labels.insert(label.to_owned(), name.to_owned());
        }
        let mut spec = workload.template.spec.clone();
        if let (Some(spec), Some(node)) = (&mut spec, node) {
            spec.node_name = Some(node);
        }
        Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                namespace: Some(workload.id.namespace.clone()),
                labels: Some(labels),
                annotations: meta.annotations,
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        }
    }

    fn end(&mut self, pods: &[FoundPod]) -> Result<()> {
        end(self.lab, pods, None)?;
        self.done
            .ended
            .extend(pods.iter().map(|pod| pod.key.clone()));
        Ok(())
    }
}

fn end(lab: &OpenLab, pods: &[FoundPod], grace_s: Option<u64>) -> Result<()> {
    if pods.is_empty() {
        return Ok(());
    }
    for (pod, ended) in pods.iter().zip(end_pods(lab, pods, grace_s)?) {
        ended.with_context(|| format!("end pod {}", pod.key))?;
    }
    Ok(())
}

fn pods_of(lab: &OpenLab, id: &ObjectId) -> Result<Vec<FoundPod>> {
    let mut pods = pod::list(lab)?;
    pods.retain(|pod| is_of(pod, id));
    Ok(pods)
}

fn is_of(pod: &FoundPod, id: &ObjectId) -> bool {
    let owner = pod.plan.as_ref().and_then(|plan| plan.owner.as_ref());
    owner.is_some_and(|owner| owner.id(&pod.key.namespace) == *id)
}

fn is_active(pod: &FoundPod) -> bool {
    let phase = pod.status.as_ref().map(|status| status.phase);
    !pod.terminating && matches!(phase, Some(Phase::Running | Phase::Pending))
}

fn is_ready(pod: &FoundPod) -> bool {
    is_active(pod) && pod.status.as_ref().is_some_and(PodStatus::is_ready)
}

fn revision(pod: &FoundPod) -> Option<&String> {
    let labels = &pod.plan.as_ref()?.labels;
    labels
        .get(TEMPLATE_HASH)
        .or_else(|| labels.get(REVISION_HASH))
}

/// Ten letters that come of the template.
fn template_hash(template: &PodTemplateSpec) -> String {
    let text = serde_json::to_string(template).unwrap_or_default();
    letters(number_of(&text), 10)
}

fn letters(mut number: u64, count: usize) -> String {
    let base = LETTERS.len() as u64;
    let mut text = String::with_capacity(count);
    for _ in 0..count {
        let at = usize::try_from(number % base).unwrap_or(0);
        text.push(char::from(LETTERS[at]));
        number /= base;
    }
    text
}

/// A number that nobody can tell beforehand.
fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(Instant::now())
}

fn wait_until_ready(lab: &OpenLab, keys: &[PodKey]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for key in keys {
        loop {
            let found = pod::get(lab, key)?;
            let found = found.with_context(|| format!("pod {key} is gone"))?;
            if is_ready(&found) {
                break;
            }
            if Instant::now() >= deadline {
                bail!("pod {key} is not ready after {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_the_template_alone_and_a_suffix_is_new_each_time() {
        let template = |image: &str| -> PodTemplateSpec {
            let container = serde_json::json!({"name": "c", "image": image});
            let value = serde_json::json!({"spec": {"containers": [container]}});
            serde_json::from_value(value).unwrap()
        };
        let hash = template_hash(&template("a"));
        assert_eq!(hash.len(), 10);
        assert_eq!(hash, template_hash(&template("a")));
        assert_ne!(hash, template_hash(&template("b")));
        assert_ne!(letters(random(), 5), letters(random(), 5));
    }
}
