//! A containerd of the test's own, in a node, with nothing shared with one of the machine.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use watari_testkit::{run, wait_until};

use crate::cri::{
    ContainerConfig, CreateContainerRequest, Cri, Empty, ExecSyncRequest, ExecSyncResponse, Id,
    ImageStatusRequest, ImageStatusResponse, LinuxPodSandboxConfig, ListResponse, PodSandboxConfig,
    PodSandboxMetadata, PodSandboxStatusRequest, PodSandboxStatusResponse, PortMapping,
    RunPodSandboxRequest, StatusResponse,
};
use crate::image;
use crate::node::Place;

/// How long containerd may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running containerd. It ends with this value; its pods should be removed before
/// ([`Containerd::remove_all`]), or end with the node.
#[derive(Debug)]
pub struct Containerd {
    place: Place,
    dir: PathBuf,
    daemon: Child,
    /// Its Container Runtime Interface.
    pub cri: Cri,
}

/// A pod with one container.
#[derive(Debug, Clone)]
pub struct Pod {
    /// The sandbox: what CNI calls the container.
    pub sandbox: String,
    /// The container that runs the command.
    pub container: String,
    /// Its addresses, the main one first.
    pub ips: Vec<String>,
    /// What CRI knows beyond, as JSON: the CNI result among others.
    pub info: String,
}

impl Containerd {
    /// Starts one in a node, with the CNI configurations of `conf_dir` and the plugins of `bin_dir`
    /// (paths inside the node), and gives it the test image.
    ///
    /// # Panics
    /// When it does not come up; the end of its log is shown.
    pub fn start(place: &Place, conf_dir: &Path, bin_dir: &Path) -> Self {
        let dir = place.dir.join("containerd");
        fs::create_dir_all(&dir).expect("make a folder for containerd");
        let socket = dir.join("containerd.sock");
        let config = dir.join("config.toml");
        fs::write(&config, configuration(&dir, &socket, conf_dir, bin_dir))
            .expect("write its configuration");
        let log = File::create(dir.join("log")).expect("make its log");
        let words = ["containerd", "--config", &config.to_string_lossy()];
        let daemon = place
            .command_in_cgroup("runtime", &words)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of its log"))
            .stderr(log)
            .spawn()
            .expect("start containerd");
        let this = Self {
            place: place.clone(),
            cri: Cri::new(&socket),
            dir,
            daemon,
        };
        this.wait_until_ready();
        this.import_image();
        this
    }

    fn wait_until_ready(&self) {
        let ready = || {
            let status: Result<StatusResponse, _> = self.cri.runtime("Status", &Empty {});
            let conditions = status.ok().and_then(|s| s.status).map(|s| s.conditions);
            conditions.is_some_and(|c| c.len() >= 2 && c.iter().all(|c| c.status))
        };
        let came_up = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_until(
                PATIENCE,
                "containerd to say it and its network are ready",
                ready,
            );
        }));
        if let Err(panic) = came_up {
            eprintln!("{}", self.end_of_log());
            std::panic::resume_unwind(panic);
        }
    }

    /// The last lines it logged.
    pub fn end_of_log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn import_image(&self) {
        let archive = image::write(&self.dir);
        let socket = self.dir.join("containerd.sock");
        let (socket, archive) = (socket.to_string_lossy(), archive.to_string_lossy());
        run(&[
            "ctr", "-a", &socket, "-n", "k8s.io", "images", "import", &archive,
        ]);
        let image = Some(Id {
            id: image::NAME.to_owned(),
        });
        let request = ImageStatusRequest { image };
        wait_until(PATIENCE, "the CRI plugin to see the imported image", || {
            let known: Result<ImageStatusResponse, _> = self.cri.image("ImageStatus", &request);
            known.is_ok_and(|k| k.image.is_some())
        });
    }

    /// Makes a pod whose one container runs `command`.
    ///
    /// # Panics
    /// When a step fails; says which, and shows the end of the log.
    pub fn run_pod(&self, name: &str, ports: Vec<PortMapping>, command: &[&str]) -> Pod {
        self.try_run_pod(name, ports, command)
            .unwrap_or_else(|e| panic!("pod {name}: {e}\n{}", self.end_of_log()))
    }

    /// As [`Containerd::run_pod`], for pods that may be refused.
    pub fn try_run_pod(
        &self,
        name: &str,
        ports: Vec<PortMapping>,
        command: &[&str],
    ) -> Result<Pod, crate::cri::CallError> {
        let config = self.sandbox_config(name, ports);
        let request = RunPodSandboxRequest {
            config: Some(config.clone()),
        };
        let sandbox: Id = self.cri.runtime("RunPodSandbox", &request)?;
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.id.clone(),
            config: Some(ContainerConfig {
                metadata: Some(Id {
                    id: "main".to_owned(),
                }),
                image: Some(Id {
                    id: image::NAME.to_owned(),
                }),
                command: command.iter().map(ToString::to_string).collect(),
                log_path: format!("{name}.log"),
            }),
            sandbox_config: Some(config),
        };
        let container: Id = self.cri.runtime("CreateContainer", &request)?;
        let _: Empty = self.cri.runtime("StartContainer", &container)?;
        let request = PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            verbose: true,
        };
        let mut answer: PodSandboxStatusResponse =
            self.cri.runtime("PodSandboxStatus", &request)?;
        let network = answer.status.and_then(|s| s.network).unwrap_or_default();
        let others = network.additional_ips.into_iter().map(|ip| ip.id);
        Ok(Pod {
            sandbox: sandbox.id,
            container: container.id,
            ips: std::iter::once(network.ip).chain(others).collect(),
            info: answer.info.remove("info").unwrap_or_default(),
        })
    }

    fn sandbox_config(&self, name: &str, port_mappings: Vec<PortMapping>) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
            }),
            hostname: name.to_owned(),
            log_directory: self.dir.join("pods").to_string_lossy().into_owned(),
            port_mappings,
            labels: std::collections::HashMap::new(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pods", self.place.cgroup),
            }),
        }
    }

    /// Runs a command in a pod's container and gives its output.
    ///
    /// # Panics
    /// When it fails; shows what it printed.
    pub fn exec(&self, pod: &Pod, command: &[&str]) -> String {
        let answer = self.try_exec(pod, command);
        let (out, err) = (
            String::from_utf8_lossy(&answer.stdout),
            String::from_utf8_lossy(&answer.stderr),
        );
        assert_eq!(
            answer.exit_code, 0,
            "in pod {}: {command:?}\n{out}{err}",
            pod.sandbox
        );
        out.into_owned()
    }

    /// Runs a command in a pod's container, whatever comes of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn try_exec(&self, pod: &Pod, command: &[&str]) -> ExecSyncResponse {
        let request = ExecSyncRequest {
            container_id: pod.container.clone(),
            cmd: command.iter().map(ToString::to_string).collect(),
            timeout: 10,
        };
        self.cri
            .runtime("ExecSync", &request)
            .unwrap_or_else(|e| panic!("{command:?}: {e}"))
    }

    /// Stops a pod: its containers end and its network goes (CNI DEL).
    ///
    /// # Panics
    /// When containerd cannot.
    pub fn stop(&self, sandbox: &str) {
        let id = Id {
            id: sandbox.to_owned(),
        };
        let _: Empty = self
            .cri
            .runtime("StopPodSandbox", &id)
            .unwrap_or_else(|e| panic!("{e}\n{}", self.end_of_log()));
    }

    /// Removes a stopped pod.
    ///
    /// # Panics
    /// When containerd cannot.
    pub fn remove(&self, sandbox: &str) {
        let id = Id {
            id: sandbox.to_owned(),
        };
        let _: Empty = self
            .cri
            .runtime("RemovePodSandbox", &id)
            .unwrap_or_else(|e| panic!("{e}\n{}", self.end_of_log()));
    }

    /// The sandboxes it knows, running or not.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn sandboxes(&self) -> Vec<String> {
        let list: ListResponse = self
            .cri
            .runtime("ListPodSandbox", &Empty {})
            .unwrap_or_else(|e| panic!("{e}"));
        list.items.into_iter().map(|item| item.id).collect()
    }

    /// Stops and removes every pod.
    ///
    /// # Panics
    /// When containerd cannot.
    pub fn remove_all(&self) {
        for sandbox in self.sandboxes() {
            self.stop(&sandbox);
            self.remove(&sandbox);
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // The process started is containerd itself: each program on the way became the next.
        let pid = Pid::from_raw(self.daemon.id().cast_signed());
        if let Err(error) = kill(pid, Signal::SIGTERM) {
            eprintln!("cannot end containerd: {error}");
        }
        let end = std::time::Instant::now() + PATIENCE;
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if std::time::Instant::now() > end {
                eprintln!("containerd did not end within {PATIENCE:?}: killed");
                let _ = self.daemon.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The traps of a container inside a container: no raising of out-of-memory scores, no `AppArmor`.
fn configuration(dir: &Path, socket: &Path, conf_dir: &Path, bin_dir: &Path) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    let (conf_dir, bin_dir, image) = (conf_dir.display(), bin_dir.display(), image::NAME);
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
restrict_oom_score_adj = true
disable_apparmor = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "{conf_dir}"
bin_dir = "{bin_dir}"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}
