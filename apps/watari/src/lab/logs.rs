//! `watari lab logs`.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use watari_lab::{Label, OpenLab};

use crate::Outcome;

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
