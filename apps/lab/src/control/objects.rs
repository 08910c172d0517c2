//! The objects that were applied: a file each below the lab's directory.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use watari_manifests::{Manifest, Manifests, ObjectId};

use crate::lock::{DirLock, Mode};
use crate::paths;
use crate::state::OpenLab;

/// The objects of one lab.
#[derive(Debug)]
pub struct Objects {
    dir: PathBuf,
    lock: Option<DirLock>,
}

impl Objects {
    /// To read them, whatever else goes on.
    pub fn look(lab: &OpenLab) -> Self {
        let dir = lab.dir.path().join("objects");
        Self { dir, lock: None }
    }

    /// To change them, alone.
    pub fn locked(lab: &OpenLab) -> Result<Self> {
        let dir = lab.dir.path().join("objects");
        let lock = Some(DirLock::create(&dir, Mode::Exclusive)?);
        Ok(Self { dir, lock })
    }

    /// All of them, each as it was given too.
    pub fn all(&self) -> Result<Manifests> {
        if !self.dir.is_dir() {
            return Ok(Manifests::default());
        }
        let mut tries = 0;
        loop {
            match watari_manifests::load_whole(&self.dir) {
                Ok(found) => {
                    if let Some(error) = found.errors.first() {
                        bail!("an object that was applied cannot be read any more: {error}");
                    }
                    return Ok(found);
                }
                // One that was removed between listing and reading.
                Err(_) if self.lock.is_none() && tries < 100 => tries += 1,
                Err(error) => return Err(error).context("read the objects that were applied"),
            }
        }
    }

    /// One of them.
    pub fn get(&self, id: &ObjectId) -> Result<Option<Manifest>> {
        let path = self.path(id);
        let Some(text) = paths::read_if_there(&path)? else {
            return Ok(None);
        };
        let found = watari_manifests::parse_whole(&path, text.as_bytes());
        if let Some(error) = found.errors.first() {
            bail!("an object that was applied cannot be read any more: {error}");
        }
        Ok(found.objects.into_iter().next())
    }

    /// Writes one, whether it was there or not.
    pub fn put(&self, id: &ObjectId, value: &Value) -> Result<()> {
        let text = serde_json::to_vec_pretty(value).with_context(|| format!("write {id}"))?;
        paths::write_whole(&self.path(id), &text)
    }

    /// Removes one; false when it was not there.
    pub fn remove(&self, id: &ObjectId) -> Result<bool> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }

    /// Kinds, namespaces and names hold no `_` and no `/`: they were checked when they were read.
    fn path(&self, id: &ObjectId) -> PathBuf {
        let kind = id.kind.to_ascii_lowercase();
        let (namespace, name) = (&id.namespace, &id.name);
        self.dir.join(format!("{kind}_{namespace}_{name}.json"))
    }
}
