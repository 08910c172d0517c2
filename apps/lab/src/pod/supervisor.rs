use std::fs;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use watari_netlink::Netns;

use crate::cgroup::Cgroup;
use crate::node::HOLDER;
use crate::paths::{self, LabDir};
use crate::process::{self, Namespaces};
use crate::{Label, mounts, state};

use super::env::Addresses;
use super::network::Sandbox;
use super::plan::{PodKey, PodPlan, Restart};
use super::status::{ContainerState, ContainerStatus, Phase, PodStatus};
use super::store::{PodDir, now_s};
use super::{container, files};

/// The wait before the second start of a container that ended; doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(1);
/// A container that ran this long starts again without a wait.
const STEADY: Duration = Duration::from_mins(1);

/// The process that makes a pod, keeps its namespaces and looks after its containers.
pub fn run(lab: &Label, node: &Label, key: &PodKey) -> Result<()> {
    let group = Cgroup::node(lab, node)?.child(&key.cgroup());
    process::settle(&group.child(HOLDER))?;
    let started = Supervisor::make(lab, node, key, group);
    match started {
        Ok(mut supervisor) => {
            let addresses = supervisor.status.pod_ips.join(" ");
            process::report_ready(&addresses)?;
            supervisor.watch()
        }
        Err(error) => {
            process::report_failed(&error)?;
            Err(error)
        }
    }
}

/// What one container is doing, for the supervisor alone.
struct Slot {
    pid: Option<i32>,
    start_at: Option<Instant>,
    started: Instant,
    wait: Duration,
}

struct Supervisor {
    plan: PodPlan,
    dir: PodDir,
    cgroup: Cgroup,
    addresses: Addresses,
    status: PodStatus,
    slots: Vec<Slot>,
    signals: SignalFd,
    /// When what still runs is killed.
    stop_at: Option<Instant>,
}

impl Supervisor {
    fn make(lab: &Label, node: &Label, key: &PodKey, cgroup: Cgroup) -> Result<Self> {
        let lab_dir = LabDir::of(lab);
        let lab = state::read(&lab_dir)?.context("the lab is being taken down")?;
        let path = lab_dir.node(node).pods().join(key.directory());
        // Opened now: from inside the node its path leads elsewhere.
        let dir = PodDir::open(&path)?;
        let plan = dir.plan()?.context("the pod is being deleted")?;
        let home = lab.node(node.as_str()).context("no such node")?;
        let host: Vec<IpAddr> = home.primaries();
        Namespaces::of(&Cgroup::node(&lab.name, node)?.child(HOLDER))?
            .with_context(|| format!("node {node} has no namespaces"))?
            .enter()?;
        let pod = if plan.host_network {
            host.clone()
        } else {
            let sandbox = Sandbox::new(&lab, &plan)?;
            sandbox.make()?;
            let addresses = match sandbox.add() {
                Ok(addresses) => addresses,
                Err(error) => {
                    sandbox.unpin()?;
                    return Err(error.context("attach the pod to its network"));
                }
            };
            Netns::open(&sandbox.pin())?.enter()?;
            own_view(&plan, &addresses)?;
            addresses
        };
        let text = |all: &[IpAddr]| all.iter().map(ToString::to_string).collect::<Vec<_>>();
        let addresses = Addresses {
            pod: text(&pod),
            host: text(&host),
        };
        Self::new(plan, dir, cgroup, addresses)
    }

    fn new(plan: PodPlan, dir: PodDir, cgroup: Cgroup, addresses: Addresses) -> Result<Self> {
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
        ] {
            mask.add(signal);
        }
        mask.thread_block().context("block signals")?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context("watch signals")?;
        // What a container leaves behind becomes this process's, as it would that of the
        // sandbox's own process.
        nix::sys::prctl::set_child_subreaper(true).context("adopt orphans")?;
        let now = Instant::now();
        let (mut slots, mut containers) = (Vec::new(), Vec::new());
        for container in &plan.containers {
            slots.push(Slot {
                pid: None,
                start_at: Some(now),
                started: now,
                wait: Duration::ZERO,
            });
            containers.push(ContainerStatus {
                name: container.name.clone(),
                state: waiting("ContainerCreating", None),
                restarts: 0,
            });
        }
        let status = PodStatus {
            phase: Phase::Running,
            pod_ips: addresses.pod.clone(),
            host_ips: addresses.host.clone(),
            containers,
        };
        let mut supervisor = Self {
            plan,
            dir,
            cgroup,
            addresses,
            status,
            slots,
            signals,
            stop_at: None,
        };
        supervisor.start_due();
        supervisor.publish()?;
        Ok(supervisor)
    }

    /// Starts, reaps and stops until the pod is to end.
    fn watch(&mut self) -> Result<()> {
        loop {
            self.wait()?;
            while let Some(signal) = self.signals.read_signal().context("read a signal")? {
                let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
                if number != Signal::SIGCHLD as i32 && self.stop_at.is_none() {
                    self.stop();
                }
            }
            self.reap();
            match self.stop_at {
                Some(_) if self.slots.iter().all(|slot| slot.pid.is_none()) => {
                    return self.publish();
                }
                Some(at) if Instant::now() >= at => self.kill_all(),
                Some(_) => {}
                None => self.start_due(),
            }
            self.publish()?;
        }
    }

    /// Sleeps until a signal or the next thing to do.
    fn wait(&self) -> Result<()> {
        let now = Instant::now();
        let due = self.slots.iter().filter_map(|slot| slot.start_at);
        let next = match self.stop_at {
            Some(at) => Some(at),
            None => due.min(),
        };
        let timeout = match next {
            None => PollTimeout::NONE,
            // One more millisecond: the timeout is cut to whole ones.
            Some(at) => {
                let left = at.saturating_duration_since(now) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let mut set = [PollFd::new(
            std::os::fd::AsFd::as_fd(&self.signals),
            PollFlags::POLLIN,
        )];
        match poll(&mut set, timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error).context("wait for signals"),
        }
    }

    fn start_due(&mut self) {
        let now = Instant::now();
        for at in 0..self.slots.len() {
            if self.slots[at].start_at.is_some_and(|due| due <= now) {
                self.start(at);
            }
        }
    }

    fn start(&mut self, at: usize) {
        let container = &self.plan.containers[at];
        let group = self.group(&container.name);
        let started = container::start(&self.plan, container, &self.dir, &group, &self.addresses);
        let slot = &mut self.slots[at];
        slot.start_at = None;
        match started {
            Ok(pid) => {
                slot.pid = Some(pid);
                slot.started = Instant::now();
                self.status.containers[at].state = ContainerState::Running {
                    pid,
                    started_s: now_s(),
                };
            }
            Err(error) => {
                eprintln!("{error:#}");
                self.ended(at, 128);
            }
        }
    }

    /// Takes the exit status of every child that ended.
    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            let found = self
                .slots
                .iter()
                .position(|slot| slot.pid == Some(pid.as_raw()));
            if let Some(at) = found {
                self.slots[at].pid = None;
                // What it started ends with it, as with a container's own process namespace.
                self.kill_group(at);
                self.ended(at, code);
            }
        }
    }

    fn ended(&mut self, at: usize, exit_code: i32) {
        let again = match self.plan.restart {
            Restart::Always => true,
            Restart::OnFailure => exit_code != 0,
            Restart::Never => false,
        };
        let (slot, status) = (&mut self.slots[at], &mut self.status.containers[at]);
        if !again || self.stop_at.is_some() {
            status.state = ContainerState::Terminated {
                exit_code,
                finished_s: now_s(),
            };
            return;
        }
        if slot.started.elapsed() >= STEADY {
            slot.wait = Duration::ZERO;
        }
        status.restarts += 1;
        status.state = waiting("CrashLoopBackOff", Some(exit_code));
        slot.start_at = Some(Instant::now() + slot.wait);
        slot.wait = (slot.wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT);
    }

    /// Asks every container to end, and sets the time when they are made to.
    fn stop(&mut self) {
        let given = fs::read_to_string(self.dir.grace()).unwrap_or_default();
        let grace = given.trim().parse().unwrap_or(self.plan.grace_s);
        // A day is as good as for ever, and can be added to any time.
        self.stop_at = Some(Instant::now() + Duration::from_secs(grace.min(86_400)));
        for at in 0..self.slots.len() {
            self.slots[at].start_at = None;
            match self.slots[at].pid {
                Some(pid) => {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
                None => {
                    if let ContainerState::Waiting { last_exit, .. } =
                        self.status.containers[at].state
                    {
                        self.ended(at, last_exit.unwrap_or(0));
                    }
                }
            }
        }
    }

    fn kill_all(&mut self) {
        for at in 0..self.slots.len() {
            self.kill_group(at);
        }
        // The exits are still to come: look again soon.
        self.stop_at = Some(Instant::now() + Duration::from_millis(100));
    }

    fn kill_group(&self, at: usize) {
        let group = self.group(&self.plan.containers[at].name);
        let _ = fs::write(group.path().join("cgroup.kill"), "1");
    }

    fn group(&self, container: &str) -> Cgroup {
        self.cgroup.child(&container_group(container))
    }

    fn publish(&mut self) -> Result<()> {
        self.status.settle();
        self.dir.write_status(&self.status)
    }
}

/// The cgroup of a container below its pod's.
pub fn container_group(container: &str) -> String {
    format!("c-{container}")
}

fn waiting(reason: &str, last_exit: Option<i32>) -> ContainerState {
    ContainerState::Waiting {
        reason: reason.to_owned(),
        last_exit,
    }
}

/// Mount and UTS namespaces of the pod's own. The network namespace is entered already.
fn own_view(plan: &PodPlan, addresses: &[IpAddr]) -> Result<()> {
    let stage = Path::new("/run/watari/lab/stage");
    paths::create_dir(stage)?;
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)
        .context("make the pod's namespaces")?;
    nix::unistd::sethostname(&plan.hostname).context("set the host name")?;
    mounts::detach_from_parent()?;
    mounts::fresh_sys(stage)?;
    // With the node's `/run` go the pins of other pods' namespaces, which would outlive them here.
    mounts::detach(Path::new("/run"))?;
    mounts::tmpfs(Path::new("/run"))?;
    let keep = Path::new("/run/watari/pod");
    paths::create_dir(keep)?;
    let text: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    mounts::own_file(keep, Path::new("/etc/resolv.conf"), &plan.resolver)?;
    mounts::own_file(keep, Path::new("/etc/hosts"), &files::hosts(plan, &text))?;
    let hostname = format!("{}\n", plan.hostname);
    mounts::own_file(keep, Path::new("/etc/hostname"), &hostname)
}
