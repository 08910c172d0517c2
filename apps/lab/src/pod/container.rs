use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Error, Result};
use nix::sys::signal::SigSet;

use crate::cgroup::Cgroup;
use crate::process::SELF;

use super::env::{self, Addresses};
use super::plan::{ContainerPlan, PodPlan};
use super::store::PodDir;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts a container's program in the calling process's namespaces and in `cgroup`, its output
/// to its log; answers its process id. Nobody waits for it here: the supervisor reaps.
pub fn start(
    pod: &PodPlan,
    container: &ContainerPlan,
    dir: &PodDir,
    cgroup: &Cgroup,
    addresses: &Addresses,
) -> Result<i32> {
    let log = dir.log(&container.name);
    let output = File::options()
        .create(true)
        .append(true)
        .open(&log)
        .with_context(|| format!("open the log of container {}", container.name))?;
    let errors = output.try_clone().context("share the log")?;
    let variables = env::resolve(&container.env, pod, addresses);
    let words = container
        .command
        .iter()
        .map(|word| env::expand(word, &variables));
    // The program starts through this binary: it joins the cgroup before it is the program.
    let child = Command::new(SELF)
        .arg0("watari")
        .args(["lab", "container-init"])
        .arg(cgroup.path())
        .arg("--")
        .args(words)
        .env_clear()
        .env("PATH", PATH)
        .env("HOME", "/root")
        .env("HOSTNAME", &pod.hostname)
        .env("WATARI_NAME", pod.key.to_string())
        .env("WATARI_NODE", &pod.node)
        .envs(&variables)
        .current_dir(container.working_dir.as_deref().unwrap_or("/"))
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start container {}", container.name))?;
    i32::try_from(child.id()).context("a process id out of range")
}

/// The started side: joins the cgroup and becomes the program. Comes back only with an error.
pub fn run(cgroup: &Path, words: &[String]) -> Error {
    match Cgroup::at(cgroup).join() {
        Ok(()) => {}
        Err(error) => return error,
    }
    // The supervisor blocks the signals that it reads; a program expects none blocked.
    if let Err(error) = SigSet::empty().thread_set_mask() {
        return Error::new(error).context("unblock signals");
    }
    // A session of its own, as a container has.
    let _ = nix::unistd::setsid();
    become_program(words)
}

/// Replaces this process by a program. The word `watari` is this binary, wherever it lies.
pub fn become_program(words: &[String]) -> Error {
    let Some((program, arguments)) = words.split_first() else {
        return Error::msg("no program is named");
    };
    let file = if program == "watari" { SELF } else { program };
    let error = Command::new(file).arg0(program).args(arguments).exec();
    Error::new(error).context(format!("start {program}"))
}
