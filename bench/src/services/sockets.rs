//! The programs at the socket, at a cgroup of this benchmark.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use watari_bpf::{Attachment, Clients, Datapath as _, Node, netns_cookie};
use watari_testbed::Bed;

/// Attaches those of the bed's only node, as its agent does, and says whose processes are in which of
/// its pods, as the plugin does. They stand as long as the datapath.
pub fn attach(bed: &Bed, root: &Path, cgroup: &Path) -> Result<()> {
    let clients = Clients::open(root)?;
    for pod in &bed.nodes[0].pods {
        let cookie = pod.netns.enter(netns_cookie)?;
        let cookie = cookie.context("this kernel has no cookies of namespaces")?;
        clients.set(cookie, &[pod.v4.into(), pod.v6.into()])?;
    }
    bed.nodes[0].netns.enter(|| {
        let node = Node::open(root, Attachment::Tcx)?;
        let mut node = node.with_cgroup(Some(cgroup.to_owned()));
        let observed = node.observe()?;
        let mut desired = observed.tables.clone();
        desired.sockets = Some(cgroup.to_owned());
        let applied = node.apply(&observed, &desired);
        if let Some((change, error)) = applied.failed.into_iter().next() {
            bail!("cannot {change}: {error}");
        }
        ensure!(
            node.observe()?.tables == desired,
            "the programs are not at {}",
            cgroup.display()
        );
        Ok(())
    })
}
