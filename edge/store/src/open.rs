use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use crate::boot::{self, Paths, io_error};
use crate::error::StoreError;
use crate::schema;
use crate::tx::{Lease, Tx};

/// How long to wait for other processes.
pub(crate) const BUSY: Duration = Duration::from_secs(10);

/// What tests and other roots set.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the kernel says its boot id.
    pub boot_id: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            boot_id: "/proc/sys/kernel/random/boot_id".into(),
        }
    }
}

/// An open node store.
#[derive(Debug)]
pub struct Store {
    conn: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the store in `dir`; makes it, and the directory, if there is none of this boot.
    ///
    /// If `node.db.boot` names this boot, `node.db` is opened as it is. If not, under a lock:
    /// a `node.db` that was itself made under this boot is kept (its maker was killed before
    /// the mark, or the mark was removed by hand); any other is removed and made anew, and the
    /// mark is written last. A process killed in between leaves no mark, so the next one starts
    /// over; nobody can use `node.db` before the mark is there.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Self::open_with(dir, &Options::default())
    }

    /// [`Store::open`] with options.
    pub fn open_with(dir: &Path, options: &Options) -> Result<Self, StoreError> {
        let paths = Paths::new(dir);
        let id = boot::boot_id(&options.boot_id)?;
        if !boot::is_of(&paths, &id)? {
            make(&paths, &id)?;
        }
        let mut conn = connect(&paths, OpenFlags::empty())?;
        schema::upgrade(&mut conn, &paths)?;
        Ok(Self {
            conn,
            path: paths.db,
        })
    }

    pub(crate) fn from_parts(conn: Connection, path: PathBuf) -> Self {
        Self { conn, path }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `work` in one transaction that excludes all other writers from its start, and
    /// commits it; an error (or a panic) undoes it all.
    pub fn write<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run("BEGIN IMMEDIATE", work)
    }

    /// Runs `work` over one consistent view; it must not write.
    pub fn read<T, E: From<StoreError>>(
        &self,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.run("BEGIN", work)
    }

    /// A number that another process's commit changes (`PRAGMA data_version`); commits of this
    /// handle do not.
    pub fn data_version(&self) -> Result<i64, StoreError> {
        self.conn
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .map_err(|source| StoreError::from_sql(&self.path, "read the data version", source))
    }

    /// Every lease, by scope and address.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        Tx::new(&self.conn, &self.path).leases()
    }

    /// Holds the whole file against SQLite's own rules (`PRAGMA integrity_check`): slow, for
    /// tools and tests.
    pub fn verify(&self) -> Result<(), StoreError> {
        let said: String = self
            .conn
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|source| StoreError::from_sql(&self.path, "verify the store", source))?;
        if said == "ok" {
            return Ok(());
        }
        Err(StoreError::Damaged {
            path: self.path.clone(),
            why: said,
        })
    }

    fn run<T, E: From<StoreError>>(
        &self,
        begin: &str,
        work: impl FnOnce(&Tx<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let sql = |what| move |source| StoreError::from_sql(&self.path, what, source);
        self.conn
            .execute_batch(begin)
            .map_err(sql("begin a transaction"))?;
        let guard = Rollback(&self.conn);
        let value = work(&Tx::new(&self.conn, &self.path))?;
        self.conn.execute_batch("COMMIT").map_err(sql("commit"))?;
        drop(guard);
        Ok(value)
    }
}

/// Ends a transaction that was not committed.
struct Rollback<'a>(&'a Connection);

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        if !self.0.is_autocommit() {
            // Failing, it is undone when the file is closed, or by the next process.
            let _ = self.0.execute_batch("ROLLBACK");
        }
    }
}

pub(crate) fn connect(paths: &Paths, create: OpenFlags) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | create;
    let sql = |source| StoreError::from_sql(&paths.db, "open the store", source);
    let mut conn = Connection::open_with_flags(&paths.db, flags).map_err(|error| {
        if create.is_empty() && !paths.db.exists() {
            StoreError::Damaged {
                path: paths.db.clone(),
                why: "the file is gone, though it was made under this boot".to_owned(),
            }
        } else {
            sql(error)
        }
    })?;
    conn.busy_handler(Some(wait)).map_err(sql)?;
    conn.execute_batch(
        "PRAGMA journal_mode = TRUNCATE; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY; \
         PRAGMA cache_size = 64",
    )
    .map_err(sql)?;
    Ok(conn)
}

/// Called by SQLite while others hold the file, with the number of calls before; false gives
/// up. A transaction takes well under a millisecond, so the waits start short; they add up to
/// [`BUSY`].
fn wait(calls: i32) -> bool {
    let calls = u32::try_from(calls).unwrap_or(u32::MAX);
    let pause = match calls {
        0..100 => Duration::from_micros(100),
        100..1090 => Duration::from_millis(1),
        1090..1990 => Duration::from_millis(10),
        _ => return false,
    };
    std::thread::sleep(pause);
    true
}

/// The slow way, once a boot: makes a store under the lock, unless another process has.
fn make(paths: &Paths, boot_id: &str) -> Result<(), StoreError> {
    fs::create_dir_all(&paths.dir).map_err(io_error("create", &paths.dir))?;
    let lock = boot::lock(paths)?;
    if !boot::is_of(paths, boot_id)? {
        if !usable(paths, boot_id)? {
            boot::remove(paths)?;
            let mut conn = connect(paths, OpenFlags::SQLITE_OPEN_CREATE)?;
            schema::create(&mut conn, paths, boot_id)?;
        }
        boot::mark(paths, boot_id)?;
    }
    drop(lock);
    Ok(())
}

/// True for a whole store that was made under this boot but is not marked so. What cannot be
/// read is of another boot: under this one, writes are never torn.
fn usable(paths: &Paths, boot_id: &str) -> Result<bool, StoreError> {
    if !paths.db.exists() {
        return Ok(false);
    }
    match connect(paths, OpenFlags::empty()).and_then(|conn| {
        schema::made_under(&conn)
            .map_err(|source| StoreError::from_sql(&paths.db, "read the store's boot id", source))
    }) {
        Ok(made) => Ok(made == boot_id),
        // A failing disk says nothing about the file.
        Err(StoreError::Sql { source, .. })
            if source.sqlite_error_code() != Some(rusqlite::ErrorCode::SystemIoFailure) =>
        {
            Ok(false)
        }
        Err(StoreError::Damaged { .. }) => Ok(false),
        Err(other) => Err(other),
    }
}
