use std::io;
use std::path::PathBuf;

use rusqlite::ErrorCode;

/// The store cannot do what was asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation around the store failed.
    #[error("node store: cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Others held the store for too long.
    #[error(
        "node store {0}: still locked by other processes after {seconds} s; see which hang (fuser {0}) and try again",
        path.display()
    )]
    Busy {
        /// The file.
        path: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// The file is not what was written under this boot.
    #[error(
        "node store {0}: {why}. It holds the leases of running pods and is not replaced by an empty one: \
         delete the node's pods (DEL takes their links away even now), then remove {0}* (or reboot)",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A newer plugin has upgraded the file.
    #[error(
        "node store {}: its schema is version {found}, this plugin knows versions up to {ours}; \
         install the newer plugin again (a reboot also starts a new store)",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// Ours.
        ours: i64,
    },
    /// No space.
    #[error("node store {}: no space left while trying to {what}; free some and try again", path.display())]
    Full {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
    },
    /// It cannot be written.
    #[error(
        "node store {}: cannot be written while trying to {what} ({why}); the directory and its files \
         must be writable (read-only file system? permissions?)",
        path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite says.
        why: String,
    },
    /// A stored value is not what this version writes.
    #[error("node store {}: {what} cannot be read: {why}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// Which value.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// Anything else that SQLite reports.
    #[error("node store {}: cannot {what}: {source}", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    /// True if trying again later may help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Full { .. })
    }

    /// Sorts a failure of SQLite by whose fault it is.
    pub(crate) fn from_sql(
        path: &std::path::Path,
        what: &'static str,
        source: rusqlite::Error,
    ) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy {
                path,
                seconds: crate::open::BUSY.as_secs(),
            },
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged {
                path,
                why: source.to_string(),
            },
            Some(ErrorCode::DiskFull) => Self::Full { path, what },
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                Self::NotWritable {
                    path,
                    what,
                    why: source.to_string(),
                }
            }
            _ => Self::Sql { path, what, source },
        }
    }
}

impl From<StoreError> for watari_cni_spec::CniError {
    fn from(error: StoreError) -> Self {
        use watari_cni_spec::Code;
        let code = if error.is_temporary() {
            Code::TRY_AGAIN
        } else {
            Code::STORE
        };
        Self::new(code, error.to_string())
    }
}
