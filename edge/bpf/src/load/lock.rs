//! One loader at a time: two would each take the other's half-made generation for a leftover.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::error::{BpfError, Doing};

/// How long to wait for another one: several times what loading takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// How often to look.
const TURN: Duration = Duration::from_millis(20);

/// Nobody else loads or removes below the same root while it is held (`flock` on that directory).
/// The kernel lets go of it with the process.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code, reason = "held, not read")] File);

impl Lock {
    /// Makes the directory, and takes the lock.
    pub fn take(root: &Path, patience: Duration) -> Result<Self, BpfError> {
        let end = Instant::now() + patience;
        loop {
            fs::create_dir_all(root).doing(|| format!("make {}", root.display()))?;
            let file = match File::open(root) {
                // Removed in between.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                other => Some(other.doing(|| format!("open {}", root.display()))?),
            };
            match file.map(|file| (file.try_lock(), file)) {
                Some((Ok(()), file)) if is_at(&file, root) => return Ok(Self(file)),
                Some((Err(TryLockError::Error(error)), _)) => {
                    return Err(error).doing(|| format!("lock {}", root.display()));
                }
                // Somebody else's, or of a directory that was removed: another one is there now.
                _ => {}
            }
            if Instant::now() >= end {
                return Err(BpfError::Busy(root.to_owned()));
            }
            std::thread::sleep(TURN);
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata(), fs::metadata(path)) else {
        return false;
    };
    (ours.dev(), ours.ino()) == (there.dev(), there.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_never_of_a_directory_that_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("watari");
        let first = Lock::take(&root, PATIENCE).unwrap();
        let busy = Lock::take(&root, Duration::ZERO).unwrap_err();
        assert!(matches!(&busy, BpfError::Busy(of) if *of == root), "{busy}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| Lock::take(&root, PATIENCE).unwrap());
            // As `remove` does, with the lock held. Whoever waits must not have the old one.
            fs::remove_dir(&root).unwrap();
            drop(first);
            let second = waiting.join().unwrap();
            assert!(Lock::take(&root, Duration::ZERO).is_err());
            drop(second);
        });
        Lock::take(&root, Duration::ZERO).unwrap();
    }
}
