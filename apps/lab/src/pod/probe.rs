//! Readiness: what a container is asked, how often, and what follows from the answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::process::SELF;

use super::plan::{PlanError, refuse};

/// How often a probe looks whether its container runs.
const LOOK: Duration = Duration::from_millis(100);
/// How often at most a container is asked that is not ready, so that it is known soon.
const HASTE: Duration = Duration::from_millis(500);

/// A readiness probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbePlan {
    /// What is asked.
    pub ask: Ask,
    /// Seconds from the container's start to the first question.
    pub initial_delay_s: u32,
    /// Seconds between questions.
    pub period_s: u32,
    /// Seconds that an answer may take.
    pub timeout_s: u32,
    /// So many good answers in turn make it ready.
    pub successes: u32,
    /// So many bad ones make it not ready.
    pub failures: u32,
}

/// What a probe asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ask {
    /// A connection to a port.
    Tcp {
        /// The host; the pod's own address when absent.
        host: Option<String>,
        /// The port.
        port: u16,
    },
    /// A page that is answered with a status from 200 to 399.
    Http {
        /// The host; the pod's own address when absent.
        host: Option<String>,
        /// The port.
        port: u16,
        /// The path, with its first `/`.
        path: String,
    },
    /// A program that ends well.
    Exec(Vec<String>),
}

/// The readiness probe of a container.
pub fn plan(container: &Container, path: &str) -> Result<Option<ProbePlan>, PlanError> {
    let Some(probe) = &container.readiness_probe else {
        return Ok(None);
    };
    let path = format!("{path}.readinessProbe");
    let at_least = |field: &str, value: Option<i32>, least: i32, usual: u32| match value {
        None | Some(0) if least > 0 => Ok(usual),
        None => Ok(usual),
        Some(value) if value >= least => Ok(u32::try_from(value).unwrap_or(usual)),
        Some(value) => refuse(
            format!("{path}.{field}"),
            format!("want {least} at least, not {value}"),
        ),
    };
    let port =
        |field: &str, given: &IntOrString| port_of(container, &format!("{path}.{field}"), given);
    let host = |given: &Option<String>| given.clone().filter(|host| !host.is_empty());
    let ask = if let Some(tcp) = &probe.tcp_socket {
        Ask::Tcp {
            host: host(&tcp.host),
            port: port("tcpSocket.port", &tcp.port)?,
        }
    } else if let Some(http) = &probe.http_get {
        if http
            .scheme
            .as_deref()
            .is_some_and(|scheme| scheme != "HTTP" && !scheme.is_empty())
        {
            return refuse(format!("{path}.httpGet.scheme"), "only HTTP is asked here");
        }
        let page = http.path.clone().unwrap_or_default();
        Ask::Http {
            host: host(&http.host),
            port: port("httpGet.port", &http.port)?,
            path: format!("/{}", page.trim_start_matches('/')),
        }
    } else if let Some(exec) = &probe.exec {
        let words = exec.command.clone().unwrap_or_default();
        if words.is_empty() {
            return refuse(format!("{path}.exec.command"), "missing");
        }
        Ask::Exec(words)
    } else {
        return refuse(path, "want one of tcpSocket, httpGet and exec");
    };
    Ok(Some(ProbePlan {
        ask,
        initial_delay_s: at_least("initialDelaySeconds", probe.initial_delay_seconds, 0, 0)?,
        period_s: at_least("periodSeconds", probe.period_seconds, 1, 10)?,
        timeout_s: at_least("timeoutSeconds", probe.timeout_seconds, 1, 1)?,
        successes: at_least("successThreshold", probe.success_threshold, 1, 1)?,
        failures: at_least("failureThreshold", probe.failure_threshold, 1, 3)?,
    }))
}

fn port_of(container: &Container, path: &str, given: &IntOrString) -> Result<u16, PlanError> {
    let number = match given {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            match ports.find(|port| port.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => return refuse(path, format!("the container has no port {name:?}")),
            }
        }
    };
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => refuse(path, format!("{number} is no port")),
    }
}

/// `lifecycle.preStop.sleep.seconds`.
pub fn linger_s(container: &Container) -> u64 {
    let hook = container.lifecycle.as_ref();
    let hook = hook.and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let sleep = hook.and_then(|hook| hook.sleep.as_ref());
    sleep.map_or(0, |sleep| u64::try_from(sleep.seconds).unwrap_or(0))
}

/// The children of probes, which the supervisor reaps for them.
#[derive(Debug, Clone, Default)]
pub struct Children(Arc<Mutex<BTreeMap<i32, mpsc::Sender<i32>>>>);

impl Children {
    /// A child ended.
    pub fn ended(&self, pid: i32, code: i32) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = known.remove(&pid) {
            // Who asked may have given up.
            let _ = asker.send(code);
        }
    }

    /// Starts a child, and waits for its end at most so long.
    fn run(&self, command: &mut Command, timeout: Duration) -> Result<i32> {
        let (sender, receiver) = mpsc::channel();
        let pid = {
            // Held over the start: the child may end, and be reaped, at once.
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let pid = i32::try_from(command.spawn().context("start the probe")?.id())?;
            known.insert(pid, sender);
            pid
        };
        if let Ok(code) = receiver.recv_timeout(timeout) {
            return Ok(code);
        }
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        bail!("no answer in {timeout:?}")
    }
}

/// What a probe and the supervisor share.
#[derive(Debug)]
pub struct Watched {
    /// The container's process; 0 while it does not run.
    pub pid: AtomicI32,
    /// What the probe found.
    pub ready: AtomicBool,
}

/// All that a probe needs.
pub struct Probe {
    /// What it asks.
    pub plan: ProbePlan,
    /// Where it asks unless the plan says.
    pub address: IpAddr,
    /// The container's cgroup, for programs.
    pub cgroup: Cgroup,
    /// Its variables, for programs.
    pub variables: BTreeMap<String, String>,
    /// Children of probes.
    pub children: Children,
    /// The container.
    pub watched: Arc<Watched>,
    /// Written to when readiness changes.
    pub wake: UnixStream,
}

impl Probe {
    /// Asks until the process ends, on a thread of its own.
    pub fn start(mut self) {
        thread::spawn(move || self.watch());
    }

    fn watch(&mut self) {
        loop {
            let pid = self.watched.pid.load(Ordering::Acquire);
            if pid == 0 {
                thread::sleep(LOOK);
                continue;
            }
            self.one_run(pid);
            self.say(false);
        }
    }

    /// Asks as long as this process runs.
    fn one_run(&mut self, pid: i32) {
        let mut due = Instant::now() + Duration::from_secs(self.plan.initial_delay_s.into());
        let (mut good, mut bad) = (0, 0);
        loop {
            while Instant::now() < due {
                if self.watched.pid.load(Ordering::Acquire) != pid {
                    return;
                }
                thread::sleep(LOOK.min(due.saturating_duration_since(Instant::now())));
            }
            let ready = self.watched.ready.load(Ordering::Acquire);
            // As the kubelet: what is not ready is asked more often at first.
            let period = Duration::from_secs(self.plan.period_s.into());
            let haste = if ready { period } else { HASTE };
            due = Instant::now() + period.min(haste);
            (good, bad) = if self.ask().is_ok() {
                (good + 1, 0)
            } else {
                (0, bad + 1)
            };
            if self.watched.pid.load(Ordering::Acquire) != pid {
                return;
            }
            if !ready && good >= self.plan.successes {
                self.say(true);
            } else if ready && bad >= self.plan.failures {
                self.say(false);
            }
        }
    }

    fn say(&mut self, ready: bool) {
        if self.watched.ready.swap(ready, Ordering::AcqRel) != ready {
            let _ = self.wake.write_all(&[1]);
        }
    }

    fn ask(&self) -> Result<()> {
        let timeout = Duration::from_secs(self.plan.timeout_s.into());
        match &self.plan.ask {
            Ask::Tcp { host, port } => {
                let address = self.resolve(host.as_deref(), *port)?;
                TcpStream::connect_timeout(&address, timeout)?;
                Ok(())
            }
            Ask::Http { host, port, path } => {
                let address = self.resolve(host.as_deref(), *port)?;
                let agent: ureq::Agent = ureq::Agent::config_builder()
                    .timeout_global(Some(timeout))
                    .max_redirects(0)
                    .proxy(None)
                    .build()
                    .into();
                let answer = agent.get(format!("http://{address}{path}")).call()?;
                match answer.status().as_u16() {
                    200..=399 => Ok(()),
                    other => bail!("status {other}"),
                }
            }
            Ask::Exec(words) => {
                let mut command = Command::new(SELF);
                command.args(["lab", "container-init"]);
                command.arg(self.cgroup.path()).arg("--").args(words);
                command.env_clear().envs(&self.variables);
                command
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null());
                match self.children.run(&mut command, timeout)? {
                    0 => Ok(()),
                    code => bail!("exit status {code}"),
                }
            }
        }
    }

    fn resolve(&self, host: Option<&str>, port: u16) -> Result<SocketAddr> {
        match host {
            None => Ok(SocketAddr::new(self.address, port)),
            Some(host) => (host, port)
                .to_socket_addrs()?
                .next()
                .context("the host has no address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(probe: &serde_json::Value) -> Result<Option<ProbePlan>, PlanError> {
        let container = serde_json::json!({
            "name": "c", "ports": [{"name": "web", "containerPort": 8080}], "readinessProbe": probe,
        });
        plan(&serde_json::from_value(container).unwrap(), "c")
    }

    #[test]
    fn probes_are_read_with_the_usual_times() {
        let probe = planned(&serde_json::json!({"httpGet": {"port": "web", "path": "x"}}));
        let probe = probe.unwrap().unwrap();
        let ask = Ask::Http {
            host: None,
            port: 8080,
            path: "/x".to_owned(),
        };
        assert_eq!(probe.ask, ask);
        let times = (
            probe.period_s,
            probe.timeout_s,
            probe.successes,
            probe.failures,
        );
        assert_eq!(times, (10, 1, 1, 3));
        let probe = planned(&serde_json::json!({"tcpSocket": {"port": 9}, "periodSeconds": 1}));
        assert_eq!(probe.unwrap().unwrap().period_s, 1);
    }

    #[test]
    fn what_they_cannot_be_is_told_with_its_path() {
        for (probe, path) in [
            (serde_json::json!({}), "c.readinessProbe"),
            (
                serde_json::json!({"tcpSocket": {"port": "db"}}),
                "c.readinessProbe.tcpSocket.port",
            ),
            (
                serde_json::json!({"tcpSocket": {"port": 0}}),
                "c.readinessProbe.tcpSocket.port",
            ),
            (
                serde_json::json!({"exec": {}}),
                "c.readinessProbe.exec.command",
            ),
            (
                serde_json::json!({"tcpSocket": {"port": 1}, "periodSeconds": -1}),
                "c.readinessProbe.periodSeconds",
            ),
        ] {
            assert_eq!(planned(&probe).unwrap_err().path, path);
        }
    }
}
