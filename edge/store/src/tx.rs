use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension, Params, Row};
use watari_ipam::{Holder, LeaseError, Millis, Pool, Wish};
use watari_model::{Attachment, NetworkName, PodName};

use crate::endpoint::EndpointRecord;
use crate::error::StoreError;
use crate::ledger::Books;

/// A transaction: see [`Store::write`](crate::Store::write) and [`Store::read`](crate::Store::read).
#[derive(Debug)]
pub struct Tx<'a> {
    conn: &'a Connection,
    path: &'a Path,
}

/// A leased address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The scope in which it is leased once.
    pub scope: String,
    /// The pool that it came from.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub holder: Holder,
    /// Since when.
    pub since: Millis,
}

impl<'a> Tx<'a> {
    pub(crate) fn new(conn: &'a Connection, path: &'a Path) -> Self {
        Self { conn, path }
    }

    /// Leases one address of `pool`; see [`watari_ipam::lease`] for the rules.
    pub fn lease(&self, pool: &Pool, wish: Wish<'_>) -> Result<IpAddr, LeaseError<StoreError>> {
        watari_ipam::lease(pool, &mut Books::new(self, pool.id()), wish)
    }

    /// The addresses that a holder has, in any scope, ascending.
    pub fn held(&self, holder: &Holder) -> Result<Vec<Lease>, StoreError> {
        self.rows(
            "read the leases of an attachment",
            "SELECT scope, pool, address, network, container, ifname, leased FROM addresses \
             WHERE container = ?1 AND ifname = ?2 AND network = ?3 AND released IS NULL \
             ORDER BY address",
            holder_key(holder),
            lease_row,
        )
    }

    /// Every lease, by scope and address.
    pub fn leases(&self) -> Result<Vec<Lease>, StoreError> {
        self.rows(
            "read the leases",
            "SELECT scope, pool, address, network, container, ifname, leased FROM addresses \
             WHERE released IS NULL ORDER BY scope, address",
            [],
            lease_row,
        )
    }

    /// Ends the leases of an attachment; their addresses start to cool down. None is fine.
    /// Returns how many there were.
    pub fn release(
        &self,
        network: &NetworkName,
        attachment: &Attachment,
        now: Millis,
    ) -> Result<usize, StoreError> {
        self.execute(
            "release the leases of an attachment",
            "UPDATE addresses SET released = ?4 \
             WHERE container = ?1 AND ifname = ?2 AND network = ?3 AND released IS NULL",
            (
                attachment.container.as_str(),
                attachment.ifname.as_str(),
                network.as_str(),
                millis(now),
            ),
        )
    }

    /// Ends the leases of a network whose attachment is not among `valid`; returns whose.
    pub fn release_others(
        &self,
        network: &NetworkName,
        valid: &BTreeSet<Attachment>,
        now: Millis,
    ) -> Result<BTreeSet<Attachment>, StoreError> {
        let gone: BTreeSet<Attachment> = self
            .leases()?
            .into_iter()
            .filter(|lease| lease.holder.network == *network)
            .map(|lease| lease.holder.attachment)
            .filter(|attachment| !valid.contains(attachment))
            .collect();
        for attachment in &gone {
            self.release(network, attachment, now)?;
        }
        Ok(gone)
    }

    /// Remembers an endpoint, in place of what was known of its attachment.
    pub fn put_endpoint(&self, endpoint: &EndpointRecord) -> Result<(), StoreError> {
        let tables = self.json("an endpoint's tables", &endpoint.tables)?;
        let via_host = self.json("ipsToRouteViaHost", &endpoint.ips_to_route_via_host)?;
        let netns = endpoint.netns.as_ref().map(|path| path.to_string_lossy());
        self.execute(
            "write an endpoint",
            "INSERT OR REPLACE INTO endpoints \
             (container, ifname, network, netns, host_ifname, tables, via_host, created, \
             pod_namespace, pod_name) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            (
                endpoint.attachment.container.as_str(),
                endpoint.attachment.ifname.as_str(),
                endpoint.network.as_str(),
                netns,
                endpoint.host_ifname.as_str(),
                tables,
                via_host,
                millis(endpoint.created),
                endpoint.pod.as_ref().map(|pod| pod.namespace.as_str()),
                endpoint.pod.as_ref().map(|pod| pod.name.as_str()),
            ),
        )
        .map(|_| ())
    }

    /// The endpoint of an attachment.
    pub fn endpoint(&self, attachment: &Attachment) -> Result<Option<EndpointRecord>, StoreError> {
        let found = self.rows(
            "read an endpoint",
            "SELECT network, container, ifname, netns, host_ifname, tables, via_host, created, \
             pod_namespace, pod_name FROM endpoints WHERE container = ?1 AND ifname = ?2",
            (attachment.container.as_str(), attachment.ifname.as_str()),
            endpoint_row,
        )?;
        Ok(found.into_iter().next())
    }

    /// The endpoints of a network, in the order of their making; of all when `None`.
    pub fn endpoints(
        &self,
        network: Option<&NetworkName>,
    ) -> Result<Vec<EndpointRecord>, StoreError> {
        self.rows(
            "read the endpoints",
            "SELECT network, container, ifname, netns, host_ifname, tables, via_host, created, \
             pod_namespace, pod_name FROM endpoints WHERE ?1 IS NULL OR network = ?1 ORDER BY id",
            [network.map(NetworkName::as_str)],
            endpoint_row,
        )
    }

    /// Forgets an endpoint; false if there was none.
    pub fn remove_endpoint(&self, attachment: &Attachment) -> Result<bool, StoreError> {
        self.execute(
            "remove an endpoint",
            "DELETE FROM endpoints WHERE container = ?1 AND ifname = ?2",
            (attachment.container.as_str(), attachment.ifname.as_str()),
        )
        .map(|rows| rows > 0)
    }

    /// What a source of addresses said last, and when.
    pub fn document(&self, source: &str) -> Result<Option<(String, Millis)>, StoreError> {
        let found = self.rows(
            "read a cached document",
            "SELECT body, fetched FROM documents WHERE source = ?1",
            [source],
            |row| Ok((row.get(0)?, time(row, 1)?)),
        )?;
        Ok(found.into_iter().next())
    }

    /// Remembers what a source said.
    pub fn put_document(&self, source: &str, body: &str, now: Millis) -> Result<(), StoreError> {
        self.execute(
            "cache a document",
            "INSERT OR REPLACE INTO documents (source, fetched, body) VALUES (?1, ?2, ?3)",
            (source, millis(now), body),
        )
        .map(|_| ())
    }

    pub(crate) fn execute(
        &self,
        what: &'static str,
        sql: &str,
        values: impl Params,
    ) -> Result<usize, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.execute(values))
            .map_err(|source| self.error(what, source))
    }

    pub(crate) fn row<T>(
        &self,
        what: &'static str,
        sql: &str,
        values: impl Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_row(values, read).optional())
            .map_err(|source| self.error(what, source))
    }

    pub(crate) fn rows<T>(
        &self,
        what: &'static str,
        sql: &str,
        values: impl Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, StoreError> {
        self.conn
            .prepare_cached(sql)
            .and_then(|mut statement| statement.query_map(values, read)?.collect())
            .map_err(|source| self.error(what, source))
    }

    fn error(&self, what: &'static str, source: rusqlite::Error) -> StoreError {
        if let rusqlite::Error::FromSqlConversionFailure(_, _, why) = &source {
            return StoreError::Value {
                path: self.path.to_owned(),
                what: format!("a value met while trying to {what}"),
                why: why.to_string(),
            };
        }
        StoreError::from_sql(self.path, what, source)
    }

    pub(crate) fn damaged(&self, why: String) -> StoreError {
        StoreError::Damaged {
            path: self.path.to_owned(),
            why,
        }
    }

    fn json(&self, what: &str, value: &impl serde::Serialize) -> Result<String, StoreError> {
        serde_json::to_string(value).map_err(|error| StoreError::Value {
            path: self.path.to_owned(),
            what: what.to_owned(),
            why: error.to_string(),
        })
    }
}

pub(crate) fn holder_key(holder: &Holder) -> (&str, &str, &str) {
    (
        holder.attachment.container.as_str(),
        holder.attachment.ifname.as_str(),
        holder.network.as_str(),
    )
}

/// SQLite has signed integers; a node is not up for 292 million years.
pub(crate) fn millis(time: Millis) -> i64 {
    i64::try_from(time.0).unwrap_or(i64::MAX)
}

pub(crate) fn time(row: &Row<'_>, at: usize) -> rusqlite::Result<Millis> {
    Ok(Millis(u64::try_from(row.get::<_, i64>(at)?).unwrap_or(0)))
}

/// 16 bytes, IPv4 as v4-mapped: the blobs sort as the addresses do.
pub(crate) fn blob(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

pub(crate) fn address(row: &Row<'_>, at: usize) -> rusqlite::Result<IpAddr> {
    Ok(Ipv6Addr::from(row.get::<_, [u8; 16]>(at)?).to_canonical())
}

/// A text column as a domain type.
pub(crate) fn parsed<T>(row: &Row<'_>, at: usize) -> rusqlite::Result<T>
where
    T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>,
{
    row.get_ref(at)?
        .as_str()?
        .parse()
        .map_err(|error| conversion(at, error))
}

fn from_json<T: serde::de::DeserializeOwned>(row: &Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?).map_err(|error| conversion(at, error))
}

fn conversion(at: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error))
}

/// Columns scope, pool, address, network, container, ifname, leased.
fn lease_row(row: &Row<'_>) -> rusqlite::Result<Lease> {
    Ok(Lease {
        scope: row.get(0)?,
        pool: row.get(1)?,
        address: address(row, 2)?,
        holder: holder(row, 3)?,
        since: time(row, 6)?,
    })
}

/// Columns network, container, ifname from `at` on.
pub(crate) fn holder(row: &Row<'_>, at: usize) -> rusqlite::Result<Holder> {
    Ok(Holder {
        network: parsed(row, at)?,
        attachment: Attachment {
            container: parsed(row, at + 1)?,
            ifname: parsed(row, at + 2)?,
        },
    })
}

/// Columns network, container, ifname, netns, `host_ifname`, tables, `via_host`, created,
/// `pod_namespace`, `pod_name`.
fn endpoint_row(row: &Row<'_>) -> rusqlite::Result<EndpointRecord> {
    let Holder {
        network,
        attachment,
    } = holder(row, 0)?;
    let pod = match (row.get(8)?, row.get(9)?) {
        (Some(namespace), Some(name)) => Some(PodName { namespace, name }),
        _ => None,
    };
    Ok(EndpointRecord {
        network,
        attachment,
        pod,
        netns: row.get::<_, Option<String>>(3)?.map(PathBuf::from),
        host_ifname: parsed(row, 4)?,
        tables: from_json(row, 5)?,
        ips_to_route_via_host: from_json(row, 6)?,
        created: time(row, 7)?,
    })
}
