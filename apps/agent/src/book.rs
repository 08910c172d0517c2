//! The node store as the agent reads it: whenever somebody committed, and only then.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use watari_store::{EndpointRecord, Store, StoreError};

/// An open store, and what it held when it was last read.
#[derive(Debug)]
pub struct Book {
    dir: PathBuf,
    open: Option<Open>,
    records: Vec<EndpointRecord>,
    read: bool,
}

#[derive(Debug)]
struct Open {
    store: Store,
    inode: Option<u64>,
    version: Option<i64>,
}

fn inode(dir: &Path) -> Option<u64> {
    let meta = fs::metadata(dir.join(watari_store::FILE));
    meta.ok().map(|meta| meta.ino())
}

impl Book {
    /// Nothing is opened yet.
    pub fn new(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            open: None,
            records: Vec::new(),
            read: false,
        }
    }

    /// What the store held when it was last read.
    pub fn records(&self) -> &[EndpointRecord] {
        &self.records
    }

    /// True once the store could be read.
    pub fn was_read(&self) -> bool {
        self.read
    }

    /// The store; opened if it is not, or if another file has taken its place.
    pub fn store(&mut self) -> Result<&Store, StoreError> {
        Ok(&self.opened()?.store)
    }

    fn opened(&mut self) -> Result<&mut Open, StoreError> {
        let now = inode(&self.dir);
        let same = |open: &Open| open.inode.is_some() && open.inode == now;
        let open = match self.open.take().filter(same) {
            Some(open) => open,
            None => Open {
                store: Store::open(&self.dir)?,
                inode: inode(&self.dir),
                version: None,
            },
        };
        Ok(self.open.insert(open))
    }

    /// Reads the endpoints if anybody has committed since; true if they are different.
    pub fn poll(&mut self) -> Result<bool, StoreError> {
        let open = self.opened()?;
        let version = open.store.data_version()?;
        if open.version == Some(version) {
            return Ok(false);
        }
        let records = open.store.read(|tx| tx.endpoints(None))?;
        open.version = Some(version);
        let changed = !self.read || records != self.records;
        self.read = true;
        self.records = records;
        Ok(changed)
    }

    /// Lets the next use open the file anew.
    pub fn reopen(&mut self) {
        self.open = None;
    }

    /// Lets the next [`Book::poll`] read whatever happened: after a commit of our own.
    pub fn forget(&mut self) {
        if let Some(open) = &mut self.open {
            open.version = None;
        }
    }
}
