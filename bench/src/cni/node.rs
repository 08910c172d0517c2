//! Nodes to attach pods to: a network namespace with an uplink, directories, and one network.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tempfile::TempDir;
use watari_cni_spec::{Capabilities, CniArgs, ConfList};
use watari_model::{Attachment, ContainerId, IfName};
use watari_netlink::Netns;
use watari_runtime::{NetworkList, Runtime};
use watari_testkit::{Netns as OwnNetns, wait_until};

/// Where the reference plugins are on Debian.
const REFERENCE: &str = "/usr/lib/cni";
/// The network's name.
pub const NETWORK: &str = "bench";
/// The MTU of the node's uplink, in bytes.
pub const MTU: u32 = 1500;

/// Directories of plugins.
pub struct Plugins {
    /// Ours under their names, and the program that does nothing as `null`.
    pub ours: TempDir,
    /// Programs that note the memory of the plugin behind them.
    pub peak: TempDir,
}

impl Plugins {
    /// Installs the programs that lie beside this one, by hard links as on a node.
    pub fn install() -> Result<Self> {
        let here = std::env::current_exe().context("cannot find this program")?;
        let here = here.parent().context("this program has no directory")?;
        let dir = || {
            let mut builder = tempfile::Builder::new();
            let made = builder.prefix("bench-plugins-").tempdir_in(here);
            made.with_context(|| format!("cannot make a directory in {}", here.display()))
        };
        let plugins = Self {
            ours: dir()?,
            peak: dir()?,
        };
        let (ours, peak) = (plugins.ours.path(), plugins.peak.path());
        let names = ["azure-vnet", "azure-vnet-ipam", "portmap"];
        install(&here.join("watari-cni"), ours, &names)?;
        install(&here.join("watari-bench-null"), ours, &["null"])?;
        install(
            &here.join("watari-bench-peak"),
            peak,
            &["azure-vnet", "portmap"],
        )?;
        Ok(plugins)
    }
}

/// One copy under all names, as an installation writes it: the linker's own file lies in the page
/// cache in single pages and takes 0.6 ms longer to execute.
fn install(program: &Path, dir: &Path, names: &[&str]) -> Result<()> {
    let mut first: Option<PathBuf> = None;
    for name in names {
        let name = dir.join(name);
        let made = match &first {
            None => std::fs::copy(program, &name).map(drop),
            Some(first) => std::fs::hard_link(first, &name),
        };
        made.with_context(|| {
            let (program, name) = (program.display(), name.display());
            format!("cannot install {program} as {name}; build watari-cni and watari-bench first")
        })?;
        first.get_or_insert(name);
    }
    Ok(())
}

/// Which plugins a node has.
#[derive(Clone, Copy)]
pub enum Chain<'a> {
    /// azure-vnet with azure-vnet-ipam, and portmap.
    Ours(&'a Plugins),
    /// The same, with the memory of each noted.
    OursNoted(&'a Plugins),
    /// ptp with host-local, and portmap.
    Reference,
    /// As many executions as ours, of a program that does nothing.
    Null(&'a Plugins),
}

impl Chain<'_> {
    fn path(&self) -> Vec<PathBuf> {
        match self {
            Self::Ours(plugins) | Self::Null(plugins) => vec![plugins.ours.path().into()],
            Self::OursNoted(plugins) => {
                vec![plugins.peak.path().into(), plugins.ours.path().into()]
            }
            Self::Reference => vec![REFERENCE.into()],
        }
    }

    /// Both have the same addresses to give, and keep them in the same kind of place.
    fn plugins(&self, data: &Path) -> Value {
        let ipam = |kind| {
            json!({"type": kind, "dataDir": data,
                "ranges": [[{"subnet": "10.241.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]})
        };
        let portmap =
            json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
        match self {
            Self::Ours(_) | Self::OursNoted(_) => json!([{"type": "azure-vnet",
                "mode": "transparent", "ipam": ipam("azure-vnet-ipam")}, portmap]),
            Self::Reference => json!([{"type": "ptp", "ipam": ipam("host-local")}, portmap]),
            Self::Null(_) => json!([{"type": "null", "ipam": ipam("null")},
                {"type": "null", "capabilities": {"portMappings": true}, "snat": true}]),
        }
    }
}

/// A node and its only network.
pub struct Node {
    netns: OwnNetns,
    runtime: Runtime,
    list: NetworkList,
    // Removed last.
    dir: TempDir,
}

impl Node {
    /// A node with an uplink, a default route and forwarding, as a cloud makes them.
    pub fn new(chain: Chain<'_>) -> Result<Self> {
        let dir = directory()?;
        let netns = OwnNetns::new("node");
        netns.enter(|| {
            let forward = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];
            forward
                .iter()
                .try_for_each(|key| std::fs::write(format!("/proc/sys/net/{key}"), "1"))
        })?;
        for command in [
            "ip link add eth0 mtu 1500 type veth peer fabric",
            "ip link set eth0 up",
            "ip link set fabric up",
            "ip address add 10.240.0.4/16 dev eth0",
            "ip route add default via 10.240.0.1",
        ] {
            netns.run(&command.split(' ').collect::<Vec<_>>());
        }
        let bytes = json!({"cniVersion": "1.0.0", "name": NETWORK,
            "plugins": chain.plugins(&dir.path().join("data"))})
        .to_string()
        .into_bytes();
        Ok(Self {
            netns,
            runtime: Runtime {
                cache_dir: dir.path().join("cache"),
                ..Runtime::new(chain.path())
            },
            list: NetworkList {
                file: dir.path().join("10-bench.conflist"),
                conf: ConfList::parse(&bytes).map_err(|error| anyhow!("{error}"))?,
                bytes,
            },
            dir,
        })
    }

    /// A directory of the node's.
    pub fn dir(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Moves the calling thread into the node for good.
    pub fn enter(&self) -> Result<()> {
        Ok(Netns::open(self.netns.path())?.enter()?)
    }

    /// ADD on the whole chain.
    pub fn add(&self, pod: &Pod) -> Result<()> {
        let args = CniArgs::new();
        let (runtime, netns) = (&self.runtime, pod.netns.path());
        runtime.add(&self.list, &pod.attachment, netns, &args, &pod.capabilities)?;
        Ok(())
    }

    /// DEL on the whole chain.
    pub fn del(&self, pod: &Pod) -> Result<()> {
        let args = CniArgs::new();
        let (runtime, netns) = (&self.runtime, Some(pod.netns.path()));
        match runtime.del(&self.list, &pod.attachment, netns, &args, &pod.capabilities)? {
            None => Ok(()),
            Some(warning) => Err(warning.into()),
        }
    }

    /// Waits until the kernel has closed what plugins left to it to close: for so long the next
    /// transaction of nftables would wait.
    pub fn settle(&self) {
        let left = || {
            let table = std::fs::read_to_string("/proc/thread-self/net/netlink");
            let netfilter = |line: &str| {
                let mut fields = line.split_whitespace().skip(1);
                fields.next() == Some("12") && fields.next() != Some("0")
            };
            table.is_ok_and(|table| table.lines().any(netfilter))
        };
        self.netns.enter(|| {
            wait_until(
                Duration::from_secs(10),
                "netfilter sockets to close",
                || !left(),
            );
        });
    }

    /// The directories that hold the plugins.
    pub fn path(&self) -> &[PathBuf] {
        &self.runtime.path
    }
}

/// In memory where there is such a place, as `/run` on a node is; leases, results and stores of
/// both sides lie there.
fn directory() -> Result<TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let made = tempfile::Builder::new()
        .prefix("watari-bench-")
        .tempdir_in(&parent);
    made.with_context(|| format!("cannot make a directory in {}", parent.display()))
}

/// A pod that waits to be attached: a fresh network namespace, and one port to be mapped.
pub struct Pod {
    /// Its namespace.
    pub netns: OwnNetns,
    /// A container of its own, and `eth0`.
    pub attachment: Attachment,
    /// One host port, its own.
    pub capabilities: Capabilities,
    /// That port.
    pub port: u16,
}

impl Pod {
    /// A new one.
    pub fn new() -> Result<Self> {
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let port = u16::try_from(10_000 + serial % 50_000)?;
        let mapping = json!([{"hostPort": port, "containerPort": 80, "protocol": "tcp"}]);
        Ok(Self {
            netns: OwnNetns::new("pod"),
            attachment: Attachment {
                // As long as a runtime's.
                container: ContainerId::new(format!("{serial:064x}"))?,
                ifname: IfName::new("eth0")?,
            },
            capabilities: [("portMappings".to_owned(), mapping)].into_iter().collect(),
            port,
        })
    }

    /// Many.
    pub fn some(count: usize) -> Result<Vec<Self>> {
        (0..count).map(|_| Self::new()).collect()
    }
}
