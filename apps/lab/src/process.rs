use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::SigSet;

use crate::cgroup::Cgroup;

/// The running binary, whatever mounts hide the path that it was started by.
pub const SELF: &str = "/proc/self/exe";

/// How long a started process may take until it says that it is ready.
const PATIENCE: Duration = Duration::from_mins(1);

/// The longest report of a started process, in bytes.
const MAX_REPORT: usize = 64 << 10;

/// Starts `watari lab WORDS…` on its own (it outlives this process), waits until it reports, and
/// gives what it reported. Its standard error goes to `log`.
pub fn start(words: &[&str], log: &Path) -> Result<String> {
    spawn(words, log)?.ready()
}

/// A process that was started and has not reported yet.
#[derive(Debug)]
pub struct Starting {
    what: String,
    child: Child,
    log: PathBuf,
}

/// The same without waiting.
pub fn spawn(words: &[&str], log: &Path) -> Result<Starting> {
    let what = format!("`watari lab {}`", words.join(" "));
    let errors = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let child = Command::new(SELF)
        .arg0("watari")
        .arg("lab")
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .with_context(|| format!("start {what}"))?;
    let log = log.to_owned();
    Ok(Starting { what, child, log })
}

impl Starting {
    /// Waits until it reports, and gives what it reported.
    pub fn ready(mut self) -> Result<String> {
        let (what, log) = (&self.what, &self.log);
        let output = self.child.stdout.take();
        let output = output.context("no pipe to the new process")?;
        let report = read_report(output).with_context(|| format!("wait for {what}"))?;
        if let Some(words) = report.strip_prefix("ready") {
            return Ok(words.trim().to_owned());
        }
        let _ = self.child.kill();
        let ended = self.child.wait();
        let status = ended.with_context(|| format!("wait for {what}"))?;
        match report.strip_prefix("failed ") {
            Some(why) => bail!("{}", why.trim()),
            None => bail!(
                "{what} ended early ({status}) or said nothing in {} s; it wrote to {}:\n{}",
                PATIENCE.as_secs(),
                log.display(),
                tail(log)
            ),
        }
    }
}

/// Reads until the other side says that it is ready, or closes, or the time is over; why
/// something failed may take many lines.
fn read_report(mut output: impl Read + AsFd) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    let mut report = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut set = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        match poll(&mut set, wait) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other.context("wait for a report")?,
        };
        if left.is_zero() {
            break;
        }
        let mut chunk = [0; 4096];
        let length = output.read(&mut chunk).context("read a report")?;
        report.extend_from_slice(&chunk[..length]);
        let ready = report.starts_with(b"ready") && report.contains(&b'\n');
        if length == 0 || ready || report.len() > MAX_REPORT {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&report).into_owned())
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// The started side: joins `cgroup` before it does anything else, so that a take-down finds it,
/// and leaves the session of whoever started it.
pub fn settle(cgroup: &Cgroup) -> Result<()> {
    cgroup.join()?;
    nix::unistd::setsid().context("start a session")?;
    Ok(())
}

/// The started side: tells the starter that all stands, and lets go of it.
pub fn report_ready(words: &str) -> Result<()> {
    report(&format!("ready {words}\n"))
}

/// The started side: tells the starter why it cannot go on.
pub fn report_failed(error: &anyhow::Error) -> Result<()> {
    report(&format!("failed {error:#}\n"))
}

fn report(text: &str) -> Result<()> {
    let mut output = std::io::stdout();
    // A starter that was killed has closed its end; what was started goes on without it.
    let _ = output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush());
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .context("open /dev/null")?;
    nix::unistd::dup2_stdout(&null).context("let go of standard output")
}

/// Does nothing until killed: for a process that only keeps namespaces.
pub fn hold() -> Result<()> {
    let all = SigSet::all();
    all.thread_block().context("block signals")?;
    loop {
        all.wait().context("wait for signals")?;
    }
}

/// The namespaces of a lab's node, pod or fabric, open.
#[derive(Debug)]
pub struct Namespaces {
    net: File,
    mnt: File,
    uts: File,
}

impl Namespaces {
    /// Those of the process that keeps them: the only one in `cgroup`. None when it is not there.
    pub fn of(cgroup: &Cgroup) -> Result<Option<Self>> {
        let Some(&pid) = cgroup.processes()?.first() else {
            return Ok(None);
        };
        let open = |kind: &str| File::open(format!("/proc/{pid}/ns/{kind}"));
        let found = (open("net"), open("mnt"), open("uts"));
        // Only if it is still there was the process id its own until now.
        if cgroup.processes()?.first() != Some(&pid) {
            return Ok(None);
        }
        let what = || format!("open the namespaces of process {pid}");
        Ok(Some(Self {
            net: found.0.with_context(what)?,
            mnt: found.1.with_context(what)?,
            uts: found.2.with_context(what)?,
        }))
    }

    /// The network namespace as a path that this process can open.
    pub fn net_path(&self) -> String {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Moves this process into all of them. It must have one thread only.
    pub fn enter(&self) -> Result<()> {
        let enter = |file: &File, kind, name: &str| {
            setns(file, kind).with_context(|| format!("enter the {name} namespace"))
        };
        enter(&self.uts, CloneFlags::CLONE_NEWUTS, "UTS")?;
        enter(&self.net, CloneFlags::CLONE_NEWNET, "network")?;
        enter(&self.mnt, CloneFlags::CLONE_NEWNS, "mount")?;
        std::env::set_current_dir("/").context("go to /")
    }

    /// Moves this process into the network and UTS namespaces only.
    pub fn enter_but_mounts(&self) -> Result<()> {
        setns(&self.uts, CloneFlags::CLONE_NEWUTS)
            .and_then(|()| setns(&self.net, CloneFlags::CLONE_NEWNET))
            .map_err(|errno| anyhow!("enter the namespaces: {errno}"))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn report(text: &str) -> (UnixStream, UnixStream) {
        let (mut writer, reader) = UnixStream::pair().expect("a pair of sockets");
        writer.write_all(text.as_bytes()).expect("write a report");
        (writer, reader)
    }

    #[test]
    fn who_is_ready_need_not_close_its_output() {
        let begun = Instant::now();
        let (_open, reader) = report("ready 10.0.0.1\n");
        assert_eq!(read_report(reader).expect("a report"), "ready 10.0.0.1\n");
        assert!(begun.elapsed() < PATIENCE / 2);
    }

    #[test]
    fn why_something_failed_is_read_to_its_end() {
        let (open, reader) = report("failed one\n");
        let late = std::thread::spawn(move || {
            let mut open = open;
            open.write_all(b"two\n").expect("write the rest");
        });
        assert_eq!(read_report(reader).expect("a report"), "failed one\ntwo\n");
        late.join().expect("the writer ends");
    }
}
