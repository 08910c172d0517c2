//! `watari lab apply`, `delete` and `logs`.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watari_lab::{Applied, Label, OpenLab};
use watari_manifests::{Manifests, Object};

use crate::{Outcome, told};

/// Make the pods of manifests that are not there yet.
#[derive(Debug, clap::Args)]
pub struct Apply {
    /// A file or a folder of manifests; `-` for standard input. May be repeated.
    #[arg(short, long, required = true)]
    file: Vec<PathBuf>,
}

/// End pods and remove all of them.
#[derive(Debug, clap::Args)]
pub struct Delete {
    /// Pods, as `[NAMESPACE/]NAME`; the word `pod` before them is allowed.
    #[arg(required_unless_present = "file")]
    pods: Vec<String>,
    /// The pods of a file or a folder of manifests; `-` for standard input.
    #[arg(short, long)]
    file: Vec<PathBuf>,
    /// Seconds that a pod may take to end, instead of its own grace period.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<u64>,
    /// The namespace of pods that are named without one.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

/// Print what a pod's container wrote.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The pod, as `[NAMESPACE/]NAME`.
    pod: String,
    /// The container; the first when absent.
    #[arg(short, long)]
    container: Option<String>,
    /// Go on printing until the pod is deleted.
    #[arg(short, long)]
    follow: bool,
    /// The namespace, when the pod is named without one.
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
        for manifest in &found.objects {
            let Object::Pod(pod) = &manifest.object else {
                println!("{}: left alone (the lab runs pods)", manifest.id());
                continue;
            };
            match watari_lab::apply(&lab, pod) {
                Ok(applied) => {
                    if !tell(&applied) {
                        outcome = Outcome::Wrong;
                    }
                }
                Err(error) => {
                    eprintln!("watari: {}: {}", manifest.id(), told(&error));
                    outcome = Outcome::Wrong;
                }
            }
        }
        Ok(outcome)
    }
}

/// Prints what became of a pod; false when that is not what was asked for.
fn tell(applied: &Applied) -> bool {
    let key = &applied.key;
    if !applied.not_honoured.is_empty() {
        let fields = applied.not_honoured.join(", ");
        println!("pod {key}: has no effect here: {fields}");
    }
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

fn listed(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    names.join(", ")
}

/// Reads the manifests of all files as one set.
fn load(files: &[PathBuf]) -> anyhow::Result<Manifests> {
    let mut all = Manifests::default();
    for file in files {
        all.append(if file.as_os_str() == "-" {
            let mut text = Vec::new();
            io::stdin()
                .take(watari_manifests::MAX_FILE as u64 + 1)
                .read_to_end(&mut text)
                .context("read manifests from standard input")?;
            watari_manifests::parse(Path::new("standard input"), &text)
        } else {
            watari_manifests::load(file)?
        });
    }
    Ok(all.unique())
}

fn report(found: &Manifests) -> Outcome {
    for note in &found.notes {
        eprintln!("watari: note: {note}");
    }
    for error in &found.errors {
        eprintln!("watari: {error}");
    }
    if found.errors.is_empty() {
        Outcome::Well
    } else {
        Outcome::Wrong
    }
}

impl Delete {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::locked(lab)?;
        let manifests = load(&self.file)?;
        let mut outcome = report(&manifests);
        let mut names: Vec<String> = match self.pods.split_first() {
            Some((word, rest)) if matches!(word.as_str(), "pod" | "pods") && !rest.is_empty() => {
                rest.to_vec()
            }
            _ => self.pods,
        };
        for manifest in &manifests.objects {
            if let Object::Pod(_) = manifest.object {
                let id = manifest.id();
                names.push(format!("{}/{}", id.namespace, id.name));
            }
        }
        // All at once: grace periods run side by side.
        let results: Vec<_> = thread::scope(|scope| {
            let start = |name: &String| {
                let (lab, namespace, grace) = (&lab, &self.namespace, self.grace_period);
                let name = name.clone();
                scope.spawn(move || delete(lab, namespace, &name, grace))
            };
            let running: Vec<_> = names.iter().map(start).collect();
            running
                .into_iter()
                .map(thread::ScopedJoinHandle::join)
                .collect()
        });
        for (name, result) in names.iter().zip(results) {
            match result {
                Ok(Ok(key)) => println!("pod {key}: deleted"),
                Ok(Err(error)) => {
                    eprintln!("watari: pod {name}: {}", told(&error));
                    outcome = Outcome::Wrong;
                }
                Err(_) => bail!("the thread that deletes pod {name} panicked"),
            }
        }
        Ok(outcome)
    }
}

fn delete(
    lab: &OpenLab,
    namespace: &str,
    name: &str,
    grace: Option<u64>,
) -> anyhow::Result<String> {
    let pod = watari_lab::find_pod(lab, namespace, name)?;
    watari_lab::delete(lab, &pod, grace)?;
    Ok(pod.key.to_string())
}

impl Logs {
    /// Does it.
    pub fn run(self, lab: Option<&Label>) -> anyhow::Result<Outcome> {
        let lab = OpenLab::look(lab)?;
        let pod = watari_lab::find_pod(&lab, &self.namespace, &self.pod)?;
        let plan = pod.plan.as_ref();
        let plan = plan.with_context(|| format!("pod {} never came up", pod.key))?;
        let names: Vec<&str> = plan.containers.iter().map(|c| c.name.as_str()).collect();
        let name = match &self.container {
            Some(name) if names.contains(&name.as_str()) => name.as_str(),
            Some(name) => bail!(
                "pod {} has no container {name:?}: {}",
                pod.key,
                names.join(", ")
            ),
            None => *names.first().context("the pod has no container")?,
        };
        let path = pod.dir.log(name);
        let mut log = File::open(&path).with_context(|| format!("open {}", path.display()))?;
        loop {
            let copied = io::copy(&mut log, &mut io::stdout());
            match copied {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                other => other.with_context(|| format!("print {}", path.display()))?,
            };
            if !self.follow || !path.exists() {
                break;
            }
            io::stdout().flush().context("print")?;
            thread::sleep(Duration::from_millis(100));
            // A log that was cut is read from its new start.
            let (at, length) = (log.stream_position()?, log.metadata()?.len());
            if length < at {
                log.seek(SeekFrom::Start(0))?;
            }
        }
        Ok(Outcome::Well)
    }
}
