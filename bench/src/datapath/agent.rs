//! What the agent of an idle node takes: memory and time.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::row::Row;

/// What it may have resident, in KiB.
const RESIDENT: f64 = 25.0 * 1024.0;
/// What it may work: 0.5 % of a CPU, in microseconds a second.
const WORK: f64 = 5000.0;
/// Until the agent is idle: some 20 s for what is left to the plugin at first, and programs that
/// are attached otherwise at five a second.
const SETTLED: Duration = Duration::from_mins(3);
/// Between two questions for it, and before the first look.
const SETTLE: Duration = Duration::from_secs(2);

/// A lab of one node with an agent; down with this value.
struct Lab {
    name: String,
    watari: PathBuf,
    dir: TempDir,
}

impl Lab {
    fn up() -> Result<Self> {
        let here = std::env::current_exe().context("cannot find this program")?;
        let lab = Self {
            name: format!("bench-{}", std::process::id()),
            watari: here.with_file_name("watari"),
            dir: tempfile::tempdir()?,
        };
        let spec = json!({"fabric": "l2", "nodes": 1, "ipv6": true, "agent": true});
        let file = lab.write("lab.yaml", &spec.to_string())?;
        lab.run(&["up", "-f", &file])?;
        Ok(lab)
    }

    fn write(&self, name: &str, text: &str) -> Result<String> {
        let file = self.dir.path().join(name);
        std::fs::write(&file, text)?;
        Ok(file.to_string_lossy().into_owned())
    }

    /// Whether the agent has nothing more to do about that many pods.
    fn is_idle(&self, pods: usize) -> Result<bool> {
        let words = ["status", "--json", "--node", "node1", "--lab", &self.name];
        let output = Command::new(&self.watari).args(words).output()?;
        let status: Value = serde_json::from_slice(&output.stdout).context("no status")?;
        let kept = status["kept"].as_array().map_or(0, Vec::len);
        Ok(status["healthy"] == true && status["toPromote"] == 0 && kept >= pods)
    }

    fn until_idle(&self, pods: usize) -> Result<()> {
        let start = Instant::now();
        while !self.is_idle(pods)? {
            ensure!(start.elapsed() < SETTLED, "the agent did not come to rest");
            std::thread::sleep(SETTLE);
        }
        std::thread::sleep(SETTLE);
        Ok(())
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let watari = self.watari.display();
        let mut command = Command::new(&self.watari);
        command.arg("lab").args(words).args(["--lab", &self.name]);
        let output = command.output();
        let output = output.with_context(|| format!("cannot execute {watari}; build it first"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "watari lab {words:?}: {said}");
        Ok(())
    }

    fn pods(&self, count: usize) -> Result<()> {
        let pod = |number: usize| {
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": format!("pod-{number}")},
                "spec": {"nodeName": "node1", "containers": [{"name": "main", "image": "none"}]}})
        };
        let all: Vec<_> = (0..count).map(|number| pod(number).to_string()).collect();
        let file = self.write("pods.yaml", &all.join("\n---\n"))?;
        self.run(&["apply", "-f", &file])
    }

    /// The agent's directory under `/proc`, found by its cgroup.
    fn agent(&self) -> Result<PathBuf> {
        let suffix = format!("/watari/{}/node1/agent", self.name);
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let cgroup = std::fs::read_to_string(path.join("cgroup")).unwrap_or_default();
            if cgroup.lines().any(|line| line.ends_with(&suffix)) {
                return Ok(path);
            }
        }
        anyhow::bail!("there is no process in the cgroup {suffix}")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["down"]) {
            eprintln!("cannot take the lab {} down: {error:#}", self.name);
        }
    }
}

/// Resident memory in KiB.
fn resident(process: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(process.join("status")).context("the agent is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let line = line.context("the kernel does not say what is resident")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Time that its threads have had a CPU, in microseconds.
fn work(process: &Path) -> Result<f64> {
    let mut sum = 0.0;
    for task in std::fs::read_dir(process.join("task")).context("the agent is gone")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"));
        // A thread that has just ended.
        let Ok(text) = text else { continue };
        let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
        sum += nanoseconds / 1000.0;
    }
    Ok(sum)
}

/// The rows: so many pods, looked at for so long.
pub fn rows(pods: usize, looks: usize, each: Duration) -> Result<Vec<Row>> {
    let lab = Lab::up()?;
    lab.pods(pods)?;
    lab.until_idle(pods)?;
    let agent = lab.agent()?;
    let (mut memory, mut time) = (Vec::new(), Vec::new());
    for _ in 0..looks {
        let (start, before) = (Instant::now(), work(&agent)?);
        std::thread::sleep(each);
        time.push((work(&agent)? - before) / start.elapsed().as_secs_f64());
        memory.push(resident(&agent)?);
    }
    // Of the time the mean: a look may fall between two looks of the agent's.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 looks")]
    let mean = time.iter().sum::<f64>() / time.len() as f64;
    Ok(vec![
        Row::limited(format!("agent/rss/pods={pods}"), "KiB", &memory, RESIDENT),
        Row::limited(format!("agent/cpu/pods={pods}"), "us/s", &[mean], WORK),
    ])
}
