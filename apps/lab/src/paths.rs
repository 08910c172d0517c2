use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::names::Label;

/// Where the labs of this machine keep what is not in the kernel.
pub const LABS: &str = "/run/watari/labs";

/// The directory of one lab.
#[derive(Debug, Clone)]
pub struct LabDir(PathBuf);

/// The directory of one node, inside its lab's.
#[derive(Debug, Clone)]
pub struct NodeDir(PathBuf);

impl LabDir {
    /// Of that name, whether it exists or not.
    pub fn of(name: &Label) -> Self {
        Self(Path::new(LABS).join(name.as_str()))
    }

    /// Itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The [`crate::Lab`].
    pub fn description(&self) -> PathBuf {
        self.0.join("lab.json")
    }

    /// Exists when `up` came to its end.
    pub fn ready(&self) -> PathBuf {
        self.0.join("ready")
    }

    /// The lab's copies of the binaries.
    pub fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// What the fabric's process wrote.
    pub fn fabric_log(&self) -> PathBuf {
        self.0.join("fabric.log")
    }

    /// One node's directory.
    pub fn node(&self, name: &Label) -> NodeDir {
        NodeDir(self.0.join("nodes").join(name.as_str()))
    }
}

impl NodeDir {
    /// Itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What the node sees as `/etc/cni`.
    pub fn etc_cni(&self) -> PathBuf {
        self.0.join("etc-cni")
    }

    /// What the node sees as `/opt/cni`.
    pub fn opt_cni(&self) -> PathBuf {
        self.0.join("opt-cni")
    }

    /// What the node sees as `/var/lib/cni`.
    pub fn var_lib_cni(&self) -> PathBuf {
        self.0.join("var-lib-cni")
    }

    /// Where mounts are put together before they are moved to their place.
    pub fn stage(&self) -> PathBuf {
        self.0.join("stage")
    }

    /// What the node's holder wrote.
    pub fn log(&self) -> PathBuf {
        self.0.join("node.log")
    }

    /// What the node's agents wrote.
    pub fn agent_log(&self) -> PathBuf {
        self.0.join("agent.log")
    }

    /// The node's pods, a directory each.
    pub fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }
}

/// The names of the labs that have a directory, in order.
pub fn labs() -> Result<Vec<Label>> {
    let mut names: Vec<Label> = names_in(Path::new(LABS))?
        .into_iter()
        .filter_map(|name| Label::new(name).ok())
        .collect();
    names.sort();
    Ok(names)
}

/// The names of the directories in `directory`; none when it does not exist.
pub fn names_in(directory: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.with_context(|| format!("list {}", directory.display()))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", directory.display()))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

/// Creates a directory and those above it; one that another lab's take-down removes at the same
/// moment is created again.
pub fn create_dir(path: &Path) -> Result<()> {
    let mut tries = 0;
    loop {
        match fs::create_dir_all(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 100 => tries += 1,
            other => return other.with_context(|| format!("create {}", path.display())),
        }
    }
}

/// Replaces a file in one step, so that a reader sees the old or the new one whole.
pub fn write_whole(path: &Path, contents: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = File::create(&temporary)?;
        file.write_all(contents)?;
        drop(file);
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("write {}", path.display()))
}

/// Writes a small file, with the path in the error.
pub fn write(path: &Path, contents: &str) -> Result<()> {
    fs::write(path, contents).with_context(|| format!("write {contents:?} to {}", path.display()))
}

/// Reads a small text file; none when it does not exist.
pub fn read_if_there(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other
            .map(Some)
            .with_context(|| format!("read {}", path.display())),
    }
}
