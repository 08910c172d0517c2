//! The schema and its versions.

use rusqlite::{Connection, TransactionBehavior};

use crate::boot::Paths;
use crate::error::StoreError;

/// `application_id`: "WTRI". Tells our file from any other SQLite file.
pub(crate) const APPLICATION: i64 = 0x5754_5249;

/// What brings a file from version n to n + 1; the length is our version. Never edited once
/// released: a change is a new entry.
///
/// Addresses are 16 bytes in network order, IPv4 as v4-mapped, so that their order is the order
/// of the blobs. Times are milliseconds of `CLOCK_BOOTTIME`.
const STEPS: &[&str] = &[
    "
-- The boot under which this file was made.
CREATE TABLE origin (boot_id TEXT NOT NULL);
-- Leased while `released` is null; else released then, and the holder is the last one.
CREATE TABLE addresses (
    scope TEXT NOT NULL,
    address BLOB NOT NULL,
    pool TEXT NOT NULL,
    network TEXT NOT NULL,
    container TEXT NOT NULL,
    ifname TEXT NOT NULL,
    leased INTEGER NOT NULL,
    released INTEGER,
    PRIMARY KEY (scope, address)
) WITHOUT ROWID;
CREATE INDEX leases_by_holder ON addresses (container, ifname, network) WHERE released IS NULL;
CREATE INDEX released_by_age ON addresses (scope, pool, released) WHERE released IS NOT NULL;
-- Never-used addresses of a pool, in spans: the watermark.
CREATE TABLE unused (
    scope TEXT NOT NULL,
    pool TEXT NOT NULL,
    first BLOB NOT NULL,
    last BLOB NOT NULL,
    PRIMARY KEY (scope, pool, first)
) WITHOUT ROWID;
-- The digest of the addresses that `unused` was built from.
CREATE TABLE pools (
    scope TEXT NOT NULL,
    pool TEXT NOT NULL,
    digest INTEGER NOT NULL,
    PRIMARY KEY (scope, pool)
) WITHOUT ROWID;
-- What a source of addresses said last.
CREATE TABLE documents (
    source TEXT PRIMARY KEY,
    fetched INTEGER NOT NULL,
    body TEXT NOT NULL
);
CREATE TABLE endpoints (
    id INTEGER PRIMARY KEY,
    container TEXT NOT NULL,
    ifname TEXT NOT NULL,
    network TEXT NOT NULL,
    netns TEXT,
    host_ifname TEXT NOT NULL,
    tables TEXT NOT NULL,
    via_host TEXT NOT NULL,
    created INTEGER NOT NULL,
    UNIQUE (container, ifname)
);
",
    "
-- Which pod an endpoint is of; both null where the runtime did not say.
ALTER TABLE endpoints ADD COLUMN pod_namespace TEXT;
ALTER TABLE endpoints ADD COLUMN pod_name TEXT;
",
];

/// The newest schema that this build knows.
pub(crate) fn version() -> i64 {
    i64::try_from(STEPS.len()).unwrap_or(i64::MAX)
}

/// The schema of the file; 0 when it has none.
pub(crate) fn found(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The boot under which the file was made, if it is a store at all.
pub(crate) fn made_under(conn: &Connection) -> rusqlite::Result<String> {
    conn.query_row("SELECT boot_id FROM origin", [], |row| row.get(0))
}

/// Makes the schema in an empty file, in one transaction.
pub(crate) fn create(
    conn: &mut Connection,
    paths: &Paths,
    boot_id: &str,
) -> Result<(), StoreError> {
    let sql = |source| StoreError::from_sql(&paths.db, "create the store", source);
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql)?;
    for step in STEPS {
        tx.execute_batch(step).map_err(sql)?;
    }
    tx.execute("INSERT INTO origin (boot_id) VALUES (?1)", [boot_id])
        .map_err(sql)?;
    tx.pragma_update(None, "application_id", APPLICATION)
        .map_err(sql)?;
    tx.pragma_update(None, "user_version", version())
        .map_err(sql)?;
    tx.commit().map_err(sql)
}

/// Brings an existing file to our version; refuses one that is newer or none of ours.
pub(crate) fn upgrade(conn: &mut Connection, paths: &Paths) -> Result<(), StoreError> {
    upgrade_to(conn, paths, STEPS)
}

fn upgrade_to(conn: &mut Connection, paths: &Paths, steps: &[&str]) -> Result<(), StoreError> {
    let sql = |source| StoreError::from_sql(&paths.db, "read the schema version", source);
    let ours = i64::try_from(steps.len()).unwrap_or(i64::MAX);
    let check = |found: i64| {
        if found == 0 {
            return Err(StoreError::Damaged {
                path: paths.db.clone(),
                why: "the file is empty, though it was made under this boot".to_owned(),
            });
        }
        if found > ours {
            return Err(StoreError::Newer {
                path: paths.db.clone(),
                found,
                ours,
            });
        }
        Ok(found == ours)
    };
    if check(found(conn).map_err(sql)?)? {
        return Ok(());
    }
    let sql = |source| StoreError::from_sql(&paths.db, "upgrade the store", source);
    let tx = conn
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sql)?;
    // Another process may have upgraded it meanwhile.
    let found = found(&tx).map_err(sql)?;
    if !check(found)? {
        for step in steps.iter().skip(usize::try_from(found).unwrap_or(0)) {
            tx.execute_batch(step).map_err(sql)?;
        }
        tx.pragma_update(None, "user_version", ours).map_err(sql)?;
    }
    tx.commit().map_err(sql)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_plugin_upgrades_and_an_older_one_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut conn = Connection::open(&paths.db).unwrap();
        create(&mut conn, &paths, "boot").unwrap();
        conn.execute("INSERT INTO documents VALUES ('kept', 1, 'body')", [])
            .unwrap();

        let newer = [STEPS, &["ALTER TABLE documents ADD COLUMN extra TEXT"]].concat();
        upgrade_to(&mut conn, &paths, &newer).unwrap();
        upgrade_to(&mut conn, &paths, &newer).unwrap();
        let extra: Option<String> = conn
            .query_row(
                "SELECT extra FROM documents WHERE source = 'kept'",
                [],
                |row| row.get(0),
            )
            .unwrap();
        assert_eq!(extra, None);

        let error = upgrade_to(&mut conn, &paths, STEPS)
            .unwrap_err()
            .to_string();
        let (found, known) = (newer.len(), STEPS.len());
        let (found, known) = (format!("version {found}"), format!("up to {known}"));
        assert!(error.contains(&found) && error.contains(&known), "{error}");
    }

    #[test]
    fn an_endpoint_of_the_first_version_stays_and_has_no_pod() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut conn = Connection::open(&paths.db).unwrap();
        conn.execute_batch(STEPS[0]).unwrap();
        conn.pragma_update(None, "user_version", 1).unwrap();
        let side = r#"{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"alias":"","addresses":[],
            "routes":[],"neighbours":[],"proxies":[],"sysctls":[]}"#;
        let tables = format!(r#"{{"host":{side},"pod":{side}}}"#);
        conn.execute(
            "INSERT INTO endpoints \
             (container, ifname, network, netns, host_ifname, tables, via_host, created) \
             VALUES ('c1', 'eth0', 'azure', NULL, 'azv0', ?1, '[]', 5)",
            [tables],
        )
        .unwrap();
        upgrade(&mut conn, &paths).unwrap();
        let kept = crate::Tx::new(&conn, &paths.db).endpoints(None).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].attachment.to_string(), "c1/eth0");
        assert_eq!(kept[0].pod, None);
    }

    #[test]
    fn an_upgrade_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::new(dir.path());
        let mut conn = Connection::open(&paths.db).unwrap();
        create(&mut conn, &paths, "boot").unwrap();
        let bad = [STEPS, &["CREATE TABLE more (x)", "NONSENSE"]].concat();
        upgrade_to(&mut conn, &paths, &bad).unwrap_err();
        assert_eq!(found(&conn).unwrap(), version());
        assert!(conn.prepare("SELECT * FROM more").is_err());
    }
}
