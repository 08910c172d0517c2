use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use watari_cni_spec::{Capabilities, CniArgs};
use watari_model::{Attachment, ContainerId};
use watari_runtime::{NetworkList, Runtime};

use crate::{Lab, mounts, node, paths};

use super::plan::PodPlan;

/// Where a node keeps its network configurations.
const CONFIGURATIONS: &str = "/etc/cni/net.d";
/// Where a node keeps its plugins.
const PLUGINS: &str = "/opt/cni/bin";
/// Where a node pins its pods' network namespaces.
const PINS: &str = "/run/netns";

/// What the plugins are told about one pod. Everything here runs in the node's namespaces.
pub struct Sandbox<'a> {
    plan: &'a PodPlan,
    runtime: Runtime,
    attachment: Attachment,
}

impl<'a> Sandbox<'a> {
    /// Of a pod on a node of `lab`.
    pub fn new(lab: &Lab, plan: &'a PodPlan) -> Result<Self> {
        let mut path = vec![PathBuf::from(PLUGINS)];
        path.extend(lab.cni_path.iter().cloned());
        Ok(Self {
            plan,
            runtime: Runtime::new(path),
            attachment: Attachment {
                container: ContainerId::new(plan.sandbox.clone())?,
                ifname: node::eth0()?,
            },
        })
    }

    /// The pin of the pod's network namespace.
    pub fn pin(&self) -> PathBuf {
        Path::new(PINS).join(&self.plan.netns)
    }

    /// Makes the network namespace, with its loopback up, and pins it.
    pub fn make(&self) -> Result<()> {
        let pin = self.pin();
        paths::create_dir(Path::new(PINS))?;
        File::create(&pin).with_context(|| format!("create {}", pin.display()))?;
        // On a thread of its own: this one stays in the node's namespace, from which the
        // plugins are executed.
        thread::scope(|scope| scope.spawn(|| new_netns(&pin)).join())
            .map_err(|_| anyhow!("the thread that makes a network namespace panicked"))?
    }

    /// Attaches the pod and answers its addresses.
    pub fn add(&self) -> Result<Vec<IpAddr>> {
        let list = NetworkList::load(Path::new(CONFIGURATIONS), None)?;
        let result = self.runtime.add(
            &list,
            &self.attachment,
            &self.pin(),
            &self.args(),
            &self.capabilities(),
        )?;
        Ok(result.ips.iter().map(|ip| ip.address.addr()).collect())
    }

    /// Detaches the pod; well when it is not attached.
    pub fn del(&self) -> Result<()> {
        let list = NetworkList::load(Path::new(CONFIGURATIONS), None)?;
        let pin = self.pin();
        let netns = pin.exists().then_some(pin.as_path());
        let args = self.args();
        self.runtime
            .del(&list, &self.attachment, netns, &args, &self.capabilities())?;
        Ok(())
    }

    /// Lets the network namespace go.
    pub fn unpin(&self) -> Result<()> {
        let pin = self.pin();
        mounts::detach(&pin)?;
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", pin.display()))
            }
            _ => Ok(()),
        }
    }

    /// `CNI_ARGS` as Kubernetes runtimes give them.
    fn args(&self) -> CniArgs {
        let key = &self.plan.key;
        [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &key.namespace),
            ("K8S_POD_NAME", &key.name),
            ("K8S_POD_INFRA_CONTAINER_ID", &self.plan.sandbox),
            ("K8S_POD_UID", &self.plan.uid),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
    }

    fn capabilities(&self) -> Capabilities {
        let mut all = Capabilities::new();
        if !self.plan.ports.is_empty() {
            all.insert("portMappings".to_owned(), json!(self.plan.ports));
        }
        all
    }
}

fn new_netns(pin: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    if node::has_ipv6() {
        // The plugin's addresses are usable at once, and so is the link-local one.
        node::set_all(&[("ipv6/conf/default/accept_dad", "0")])?;
    }
    node::up_loopback()?;
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), pin, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("pin a network namespace at {}", pin.display()))
}
