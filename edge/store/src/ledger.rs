use std::net::IpAddr;

use watari_ipam::{Holder, Ledger, Millis, Pool, PoolId, Standing};

use crate::error::StoreError;
use crate::tx::{Tx, address, blob, holder, holder_key, millis, time};

/// The books of one pool inside a transaction.
pub(crate) struct Books<'a> {
    tx: &'a Tx<'a>,
    scope: &'a str,
    pool: &'a str,
}

impl<'a> Books<'a> {
    pub fn new(tx: &'a Tx<'a>, id: &'a PoolId) -> Self {
        Self {
            tx,
            scope: &id.scope,
            pool: &id.name,
        }
    }
}

impl Ledger for Books<'_> {
    type Error = StoreError;

    fn built_from(&mut self) -> Result<Option<u64>, StoreError> {
        self.tx.row(
            "read a pool",
            "SELECT digest FROM pools WHERE scope = ?1 AND pool = ?2",
            (self.scope, self.pool),
            |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()),
        )
    }

    fn rebuild(&mut self, pool: &Pool) -> Result<(), StoreError> {
        let what = "build a pool";
        self.tx.execute(
            what,
            "DELETE FROM unused WHERE scope = ?1 AND pool = ?2",
            (self.scope, self.pool),
        )?;
        let known = self.tx.rows(
            what,
            "SELECT address FROM addresses WHERE scope = ?1 ORDER BY address",
            [self.scope],
            |row| address(row, 0),
        )?;
        for known in known.iter().filter(|known| pool.contains(**known)) {
            self.tx.execute(
                what,
                "UPDATE addresses SET pool = ?3 WHERE scope = ?1 AND address = ?2",
                (self.scope, blob(*known), self.pool),
            )?;
        }
        for span in pool.without(known) {
            self.tx.execute(
                what,
                "INSERT INTO unused (scope, pool, first, last) VALUES (?1, ?2, ?3, ?4)",
                (self.scope, self.pool, blob(span.first()), blob(span.last())),
            )?;
        }
        self.tx.execute(
            what,
            "INSERT OR REPLACE INTO pools (scope, pool, digest) VALUES (?1, ?2, ?3)",
            (self.scope, self.pool, pool.digest().cast_signed()),
        )?;
        Ok(())
    }

    fn held(&mut self, who: &Holder) -> Result<Vec<IpAddr>, StoreError> {
        let (container, ifname, network) = holder_key(who);
        self.tx.rows(
            "read the leases of an attachment",
            "SELECT address FROM addresses WHERE container = ?1 AND ifname = ?2 \
             AND network = ?3 AND scope = ?4 AND released IS NULL ORDER BY address",
            (container, ifname, network, self.scope),
            |row| address(row, 0),
        )
    }

    fn standing(&mut self, of: IpAddr) -> Result<Standing, StoreError> {
        let found = self.tx.row(
            "look an address up",
            "SELECT released, network, container, ifname FROM addresses \
             WHERE scope = ?1 AND address = ?2",
            (self.scope, blob(of)),
            |row| {
                Ok(match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Null => Standing::Leased(holder(row, 1)?),
                    _ => Standing::Released(time(row, 0)?),
                })
            },
        )?;
        Ok(found.unwrap_or(Standing::Unknown))
    }

    fn first_unused(&mut self) -> Result<Option<IpAddr>, StoreError> {
        self.tx.row(
            "look for an unused address",
            "SELECT first FROM unused WHERE scope = ?1 AND pool = ?2 ORDER BY first LIMIT 1",
            (self.scope, self.pool),
            |row| address(row, 0),
        )
    }

    fn pass_unused(&mut self, lowest: IpAddr) -> Result<(), StoreError> {
        let what = "take an unused address";
        // A span of one goes; a longer one starts after the address.
        let removed = self.tx.execute(
            what,
            "DELETE FROM unused WHERE scope = ?1 AND pool = ?2 AND first = ?3 AND last = ?3",
            (self.scope, self.pool, blob(lowest)),
        )?;
        if let (0, Some(after)) = (removed, watari_ipam::next(lowest)) {
            self.tx.execute(
                what,
                "UPDATE unused SET first = ?4 WHERE scope = ?1 AND pool = ?2 AND first = ?3",
                (self.scope, self.pool, blob(lowest), blob(after)),
            )?;
        }
        Ok(())
    }

    fn longest_released(&mut self) -> Result<Option<(IpAddr, Millis)>, StoreError> {
        self.tx.row(
            "look for the longest released address",
            "SELECT address, released FROM addresses WHERE scope = ?1 AND pool = ?2 \
             AND released IS NOT NULL ORDER BY released LIMIT 1",
            (self.scope, self.pool),
            |row| Ok((address(row, 0)?, time(row, 1)?)),
        )
    }

    fn set_aside(&mut self, released: IpAddr) -> Result<(), StoreError> {
        self.tx
            .execute(
                "set an address aside",
                "UPDATE addresses SET pool = '' \
                 WHERE scope = ?1 AND address = ?2 AND released IS NOT NULL",
                (self.scope, blob(released)),
            )
            .map(|_| ())
    }

    fn lease(&mut self, leased: IpAddr, to: &Holder, now: Millis) -> Result<(), StoreError> {
        let (container, ifname, network) = holder_key(to);
        // A lease in force is never overwritten: then the row stays, and no row is changed.
        let changed = self.tx.execute(
            "write a lease",
            "INSERT INTO addresses (scope, address, pool, container, ifname, network, leased) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (scope, address) DO UPDATE SET \
             pool = ?3, container = ?4, ifname = ?5, network = ?6, leased = ?7, released = NULL \
             WHERE released IS NOT NULL",
            (
                self.scope,
                blob(leased),
                self.pool,
                container,
                ifname,
                network,
                millis(now),
            ),
        )?;
        if changed == 0 {
            return Err(self.tx.damaged(format!("{leased} would be leased twice")));
        }
        Ok(())
    }

    fn keep_only(&mut self, kept: IpAddr, of: &Holder, now: Millis) -> Result<(), StoreError> {
        let (container, ifname, network) = holder_key(of);
        self.tx
            .execute(
                "end the leases that a pool has lost",
                "UPDATE addresses SET released = ?7 WHERE container = ?1 AND ifname = ?2 \
                 AND network = ?3 AND scope = ?4 AND pool = ?5 AND address <> ?6 \
                 AND released IS NULL",
                (
                    container,
                    ifname,
                    network,
                    self.scope,
                    self.pool,
                    blob(kept),
                    millis(now),
                ),
            )
            .map(|_| ())
    }

    fn census(&mut self) -> Result<(u64, u64), StoreError> {
        let counts = self.tx.row(
            "count the leases",
            "SELECT count(*) FILTER (WHERE released IS NULL), \
             count(*) FILTER (WHERE released IS NOT NULL) \
             FROM addresses WHERE scope = ?1 AND pool = ?2",
            (self.scope, self.pool),
            |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)),
        )?;
        let (leased, released) = counts.unwrap_or_default();
        Ok((leased.unsigned_abs(), released.unsigned_abs()))
    }
}
