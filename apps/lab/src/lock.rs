use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::paths;

/// How long a command waits for another one that is at work on the same lab or pod. Longer than
/// a usual grace period.
const PATIENCE: Duration = Duration::from_mins(1);

/// A lock on a directory, held until dropped or until the process ends in whatever way.
#[derive(Debug)]
pub struct DirLock {
    _directory: File,
}

/// How a directory is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Alone.
    Exclusive,
    /// With others of this mode.
    Shared,
}

impl DirLock {
    /// Locks `path`, creating it when it is not there.
    pub fn create(path: &Path, mode: Mode) -> Result<Self> {
        loop {
            paths::create_dir(path)?;
            if let Some(lock) = Self::existing(path, mode)? {
                return Ok(lock);
            }
        }
    }

    /// Locks `path`; none when it is not there, or goes while waiting.
    pub fn existing(path: &Path, mode: Mode) -> Result<Option<Self>> {
        let directory = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("open {}", path.display()))?,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let tried = match mode {
                Mode::Exclusive => directory.try_lock(),
                Mode::Shared => directory.try_lock_shared(),
            };
            match tried {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => bail!(
                    "{} is in use by another `watari lab` command since {} s: wait for it, or end it",
                    path.display(),
                    PATIENCE.as_secs()
                ),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("lock {}", path.display()));
                }
            }
        }
        // Whoever held the lock may have removed the directory, and somebody made another.
        let held = directory
            .metadata()
            .with_context(|| format!("look at {}", path.display()))?;
        let same =
            fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino()));
        Ok(same.then_some(Self {
            _directory: directory,
        }))
    }
}
