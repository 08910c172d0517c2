//! The boot id beside the file, and the making of a new store.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::StoreError;
use crate::open::BUSY;

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    pub dir: PathBuf,
    pub db: PathBuf,
    /// The boot id under which `db` was made; written last when a store is made.
    pub boot: PathBuf,
    /// Locked (flock) while a store is made.
    pub lock: PathBuf,
}

impl Paths {
    pub fn new(dir: &Path) -> Self {
        let with = |suffix: &str| dir.join(format!("{}{suffix}", crate::FILE));
        Self {
            dir: dir.to_owned(),
            db: with(""),
            boot: with(".boot"),
            lock: with(".lock"),
        }
    }

    /// What SQLite may put beside the file, in any journal mode.
    pub fn companions(&self) -> [PathBuf; 3] {
        ["-journal", "-wal", "-shm"].map(|suffix| {
            let mut name = self.db.clone().into_os_string();
            name.push(suffix);
            name.into()
        })
    }
}

pub(crate) fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| {
        if source.kind() == io::ErrorKind::StorageFull {
            StoreError::Full { path, what }
        } else {
            StoreError::Io { what, path, source }
        }
    }
}

/// The id of the running kernel's boot.
pub(crate) fn boot_id(path: &Path) -> Result<String, StoreError> {
    let text = fs::read_to_string(path).map_err(io_error("read the boot id from", path))?;
    let id = text.trim();
    if id.is_empty() || id.len() > 64 || !id.is_ascii() {
        return Err(StoreError::Value {
            path: path.to_owned(),
            what: "the boot id".to_owned(),
            why: format!("{id:?} is none"),
        });
    }
    Ok(id.to_owned())
}

/// True if the store was made under this boot. An unreadable sidecar is an error, not a no: a
/// no would void leases.
pub(crate) fn is_of(paths: &Paths, boot_id: &str) -> Result<bool, StoreError> {
    match fs::read(&paths.boot) {
        Ok(text) => Ok(text.trim_ascii() == boot_id.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error("read", &paths.boot)(error)),
    }
}

/// Records that the store was made under this boot. By rename, so that the sidecar is never
/// half written; a leftover of a killed predecessor is overwritten, which the lock allows.
pub(crate) fn mark(paths: &Paths, boot_id: &str) -> Result<(), StoreError> {
    let new = paths.boot.with_extension("boot.new");
    fs::write(&new, boot_id).map_err(io_error("write", &new))?;
    fs::rename(&new, &paths.boot).map_err(io_error("move the boot id to", &paths.boot))
}

/// Removes a void store. The sidecar stays: it names another boot, or none.
pub(crate) fn remove(paths: &Paths) -> Result<(), StoreError> {
    // The companions go first: a journal must never outlive its file, or SQLite would play it
    // back into the next one.
    for path in paths.companions().iter().chain([&paths.db]) {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove the void", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Waits for the lock that the maker of a store holds; ends with the returned file, or with the
/// process however that ends.
pub(crate) fn lock(paths: &Paths) -> Result<File, StoreError> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&paths.lock)
        .map_err(io_error("open", &paths.lock))?;
    let deadline = Instant::now() + BUSY;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Busy {
                    path: paths.lock.clone(),
                    seconds: BUSY.as_secs(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &paths.lock)(error)),
        }
    }
}
