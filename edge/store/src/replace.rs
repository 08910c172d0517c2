//! A new store in the place of a damaged one, from what is known otherwise.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use rusqlite::OpenFlags;
use watari_ipam::{Holder, Millis};

use crate::boot::{self, Paths, io_error};
use crate::error::StoreError;
use crate::open::{Options, Store, connect};
use crate::schema;
use crate::tx::{Tx, blob, holder_key, millis};

impl Store {
    /// Puts a new store in the place of a damaged one, in one step: `fill` writes all that is known
    /// of its leases and endpoints. The damaged file stays beside it as `node.db.damaged`. A store
    /// that is not damaged (any more) is opened as it is; false then.
    pub fn replace_damaged(
        dir: &Path,
        options: &Options,
        fill: impl FnOnce(&Tx<'_>) -> Result<(), StoreError>,
    ) -> Result<(Self, bool), StoreError> {
        let paths = Paths::new(dir);
        let lock = boot::lock(&paths)?;
        let found = Self::open_with(dir, options).and_then(|store| {
            store.verify()?;
            Ok(store)
        });
        match found {
            Err(StoreError::Damaged { .. }) => {}
            other => return Ok((other?, false)),
        }
        let id = boot::boot_id(&options.boot_id)?;
        let beside = Paths {
            db: dir.join(format!("{}.new", crate::FILE)),
            ..paths.clone()
        };
        // Of one that was killed at this.
        boot::remove(&beside)?;
        let mut conn = connect(&beside, OpenFlags::SQLITE_OPEN_CREATE)?;
        schema::create(&mut conn, &beside, &id)?;
        let new = Self::from_parts(conn, beside.db.clone());
        new.write(fill)?;
        drop(new);
        for companion in beside.companions() {
            absent_is_fine(fs::remove_file(&companion))
                .map_err(io_error("remove the new store's", &companion))?;
        }
        let kept = dir.join(format!("{}.damaged", crate::FILE));
        if paths.db.exists() {
            absent_is_fine(fs::remove_file(&kept)).map_err(io_error("remove", &kept))?;
            fs::hard_link(&paths.db, &kept).map_err(io_error("keep", &kept))?;
        }
        // A journal must not be played back into the new file.
        for companion in paths.companions() {
            absent_is_fine(fs::remove_file(&companion))
                .map_err(io_error("remove the damaged store's", &companion))?;
        }
        fs::rename(&beside.db, &paths.db).map_err(io_error("replace", &paths.db))?;
        boot::mark(&paths, &id)?;
        drop(lock);
        Ok((Self::open_with(dir, options)?, true))
    }
}

impl Tx<'_> {
    /// Leases an address that a holder is known to have, of whatever pool of the scope holds it.
    /// Nothing happens if it is leased already.
    pub fn adopt(
        &self,
        scope: &str,
        address: IpAddr,
        holder: &Holder,
        now: Millis,
    ) -> Result<(), StoreError> {
        let (container, ifname, network) = holder_key(holder);
        self.execute(
            "adopt a lease",
            "INSERT OR IGNORE INTO addresses \
             (scope, address, pool, container, ifname, network, leased) \
             VALUES (?1, ?2, '', ?3, ?4, ?5, ?6)",
            (
                scope,
                blob(address),
                container,
                ifname,
                network,
                millis(now),
            ),
        )
        .map(drop)
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
