//! The datapath on the nodes of a bed.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tempfile::TempDir;
use watari_abi::{Counter, Reason, Tally};
use watari_bpf::{Attachment, Datapath, LoadOptions, load};
use watari_model::IfName;
use watari_tables::{Datapath as Tables, Hook, HookAt, LocalEndpoint};

use crate::bed::{Bed, Node, UPLINK};

/// Enough for all that a bed has.
const ALL: usize = 1000;

/// How to load it.
#[derive(Debug, Clone, Copy)]
pub struct Loading {
    /// How programs are attached.
    pub attachment: Attachment,
    /// Entries of the table of established connections, if not what a node has.
    pub established: Option<u32>,
    /// Entries of the table of other connections.
    pub transient: Option<u32>,
}

impl From<Attachment> for Loading {
    fn from(attachment: Attachment) -> Self {
        Self {
            attachment,
            established: None,
            transient: None,
        }
    }
}

/// The datapaths of all nodes of a bed. Gone with this value.
pub struct Datapaths {
    // In the order of the nodes; closed before the file system goes.
    nodes: Vec<watari_bpf::Node>,
    roots: Vec<PathBuf>,
    fs: BpfFs,
}

impl Datapaths {
    /// Loads and attaches it on every node.
    pub fn load(bed: &Bed, loading: Loading) -> Result<Self> {
        let mut all = Self {
            nodes: Vec::new(),
            roots: Vec::new(),
            fs: BpfFs::mount()?,
        };
        for node in &bed.nodes {
            let root = all.fs.0.path().join(format!("node{}", node.number));
            let options = LoadOptions {
                attachment: Some(loading.attachment),
                established: loading.established,
                transient: loading.transient,
                ..LoadOptions::at(&root)
            };
            let desired = desired(bed, node)?;
            let opened = node.netns.enter(|| -> Result<_> {
                load(&options).context("cannot load the datapath")?;
                let mut node = watari_bpf::Node::open(&root, loading.attachment)?;
                let observed = node.observe()?;
                let applied = node.apply(&observed, &desired);
                if let Some((change, error)) = applied.failed.into_iter().next() {
                    bail!("cannot {change}: {error}");
                }
                node.promote(ALL)?;
                ensure!(node.observe()?.tables == desired, "something is missing");
                Ok(node)
            })?;
            all.nodes.push(opened);
            all.roots.push(root);
        }
        Ok(all)
    }

    /// Where a node's datapath is pinned.
    pub fn root(&self, node: usize) -> &PathBuf {
        &self.roots[node]
    }

    /// Does this with a node's datapath, inside of the node.
    pub fn with<R: Send>(
        &mut self,
        bed: &Bed,
        node: usize,
        work: impl FnOnce(&mut watari_bpf::Node) -> R + Send,
    ) -> R {
        let datapath = &mut self.nodes[node];
        bed.nodes[node].netns.enter(|| work(datapath))
    }

    /// What a node has counted so far.
    pub fn counter(&mut self, bed: &Bed, node: usize, counter: Counter) -> Result<Tally> {
        let all = self.with(bed, node, Datapath::counters)?;
        let found = all.into_iter().find(|(of, _)| *of == counter);
        Ok(found.map_or_else(Tally::default, |(_, tally)| tally))
    }

    /// Packets that a node has dropped for a reason: of all, and of one link at its hook.
    pub fn dropped(
        &mut self,
        bed: &Bed,
        node: usize,
        reason: Reason,
        link: &str,
    ) -> Result<(u64, u64)> {
        let drops = self.with(bed, node, Datapath::drops)?;
        let total = drops.totals.iter().find(|(of, _)| *of == reason);
        let at_link = drops.by_link.iter().filter(|at| {
            at.reason == Some(reason) && at.link.as_ref().is_some_and(|name| name.as_str() == link)
        });
        Ok((
            total.map_or(0, |(_, tally)| tally.packets),
            at_link.map(|at| at.tally.packets).sum(),
        ))
    }
}

/// What a node of the bed should hold.
fn desired(bed: &Bed, node: &Node) -> Result<Tables> {
    let mut tables = Tables::default();
    for pod in &node.pods {
        let link = pod.tables.host.name.clone();
        let endpoint = LocalEndpoint {
            link: link.clone(),
            mac: pod.tables.pod.mac,
            host_mac: pod.tables.host.mac,
        };
        for address in [pod.v4.into(), pod.v6.into()] {
            tables.endpoints.insert(address, endpoint.clone());
        }
        for hook in [Hook::FromPod, Hook::ToPod] {
            let link = link.clone();
            tables.hooks.insert(HookAt { link, hook });
        }
    }
    for other in &bed.nodes {
        if other.number == node.number {
            continue;
        }
        for (range, address) in other.ranges().iter().zip(other.addresses()) {
            tables.remotes.insert(range.parse()?, address);
        }
        tables.hooks.insert(HookAt {
            link: IfName::new(UPLINK)?,
            hook: Hook::FromUplink,
        });
    }
    Ok(tables)
}

/// A bpffs in a temporary directory.
struct BpfFs(TempDir);

impl BpfFs {
    fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix(&format!("watari-testbed-{}-", std::process::id()))
            .tempdir()?;
        let (kind, data) = (Some("bpf"), None::<&str>);
        mount(kind, dir.path(), kind, MsFlags::empty(), data)
            .context("cannot mount a bpffs (needs root)")?;
        Ok(Self(dir))
    }
}

impl Drop for BpfFs {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.0.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {error}", self.0.path().display());
        }
    }
}
