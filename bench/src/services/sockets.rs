//! The programs at the socket, at a cgroup of this benchmark.

use std::path::Path;

use anyhow::Result;

/// They stand as long as the datapath.
pub fn attach(root: &Path, cgroup: &Path) -> Result<()> {
    eprintln!("NOT YET: {} {}", root.display(), cgroup.display());
    Ok(())
}
