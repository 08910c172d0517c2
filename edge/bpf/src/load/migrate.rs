use std::collections::{BTreeMap, HashMap};

use watari_abi::{Connection, ConnectionKey, maps};
use zerocopy::{FromBytes, IntoBytes};

use super::convert::{Convert, conversion};
use super::merge::merge;
use super::object::Layout;
use super::{beside, rename};
use crate::error::{BpfError, Doing};
use crate::map::{Walk, put_all};
use crate::pins::PinDir;
use crate::sys::{MapFd, MapKind, Pinned};

/// The two tables of connections, those that evict nothing first.
const CONNECTIONS: [&str; 2] = [maps::ESTABLISHED, maps::TRANSIENT];

/// A generation that another one takes the place of.
#[derive(Debug, Clone)]
pub(super) struct Source {
    dir: PinDir,
    abi: u32,
}

impl Source {
    pub fn of(dir: PinDir, abi: u32) -> Self {
        Self { dir, abi }
    }
}

/// What becomes of a map.
enum Fate {
    /// The new generation uses the very same one.
    Shared,
    /// Its entries are copied.
    Copied(MapFd, Option<Convert>),
    /// It starts empty, and why.
    Lost(String),
}

/// The way of one generation's entries into another one.
pub(super) struct Migration {
    source: Source,
    target: PinDir,
    fates: BTreeMap<String, Fate>,
    /// Connections as they were copied, by table and key; in the new layout.
    copied: HashMap<(usize, ConnectionKey), Connection>,
    connections: usize,
    lost: Vec<String>,
}

impl Migration {
    pub fn new(
        source: Source,
        abi: u32,
        target: &PinDir,
        layouts: &[Layout],
    ) -> Result<Self, BpfError> {
        let mut fates = BTreeMap::new();
        for layout in layouts {
            let path = source.dir.map(&layout.name);
            // A generation that is half removed has only some.
            if !path.exists() {
                continue;
            }
            let fate = fate(&source, abi, layout, open(&source.dir, &layout.name)?);
            fates.insert(layout.name.clone(), fate);
        }
        Ok(Self {
            source,
            target: target.clone(),
            fates,
            copied: HashMap::new(),
            connections: 0,
            lost: Vec::new(),
        })
    }

    pub fn old(&self) -> &PinDir {
        &self.source.dir
    }

    /// The old generation's name, as `v1`.
    pub fn name(&self) -> String {
        format!("v{}", self.source.abi)
    }

    pub fn connections(&self) -> usize {
        self.connections
    }

    /// What could not be brought over.
    pub fn lost(&mut self) -> Vec<String> {
        let mut lost = std::mem::take(&mut self.lost);
        for (name, fate) in &self.fates {
            if let Fate::Lost(why) = fate {
                lost.push(format!("the entries of the map {name}: {why}"));
            }
        }
        lost
    }

    /// From now on the new generation is there.
    pub fn moved_to(&mut self, dir: &PinDir) {
        self.target = dir.clone();
    }

    /// Pins the maps that both generations use.
    pub fn share(&self) -> Result<(), BpfError> {
        for (name, fate) in &self.fates {
            let path = self.target.map(name);
            if matches!(fate, Fate::Shared) && !path.exists() {
                let map = open(&self.source.dir, name)?;
                map.pin(&path)
                    .doing(|| format!("pin at {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Copies what is there, or what has changed since the last time.
    pub fn copy(&mut self) -> Result<(), BpfError> {
        for (name, fate) in &self.fates {
            let Fate::Copied(old, convert) = fate else {
                continue;
            };
            let new = open(&self.target, name)?;
            if let Some(table) = CONNECTIONS.iter().position(|table| table == name) {
                let copied = &mut self.copied;
                copy_connections(table, (old, *convert), &new, copied)
                    .doing(|| format!("copy the map {name}"))?;
            } else {
                copy_plain((old, *convert), &new, true).doing(|| format!("copy the map {name}"))?;
            }
        }
        Ok(())
    }

    /// Out of the plugin's sight.
    pub fn retire(&mut self) -> Result<(), BpfError> {
        if self.source.dir.path().to_string_lossy().ends_with(":old") {
            return Ok(());
        }
        let retired = beside(&self.source.dir, ":old");
        retired.remove()?;
        rename(self.source.dir.path(), retired.path())?;
        self.source.dir = retired;
        Ok(())
    }

    /// Brings over what the old programs did until the last was replaced.
    pub fn catch_up(&mut self) -> Result<(), BpfError> {
        for (name, fate) in &self.fates {
            let Fate::Copied(old, convert) = fate else {
                continue;
            };
            let new = open(&self.target, name)?;
            if !CONNECTIONS.contains(&name.as_str()) {
                copy_plain((old, *convert), &new, false)
                    .doing(|| format!("copy the map {name}"))?;
            }
        }
        self.connections = self.catch_up_connections()?;
        Ok(())
    }

    /// Gives how many connections the old generation had.
    fn catch_up_connections(&self) -> Result<usize, BpfError> {
        let mut tables = Vec::new();
        for name in CONNECTIONS {
            tables.push(open(&self.target, name)?);
        }
        let mut seen = 0;
        for (table, name) in CONNECTIONS.iter().enumerate() {
            let Some(Fate::Copied(old, convert)) = self.fates.get(*name) else {
                continue;
            };
            let what = || format!("bring the map {name} up to date");
            let mut walk = Walk::new(old);
            while let Some(chunk) = walk.next_chunk().doing(what)? {
                for (key, value) in chunk {
                    seen += 1;
                    self.bring_over(table, &tables, key, value, *convert)
                        .doing(what)?;
                }
            }
        }
        Ok(seen)
    }

    fn bring_over(
        &self,
        table: usize,
        tables: &[MapFd],
        key: &[u8],
        value: &[u8],
        convert: Option<Convert>,
    ) -> std::io::Result<()> {
        let Some(mut value) = converted(value, convert) else {
            return Ok(());
        };
        let (Ok(typed), Some(old)) = (ConnectionKey::read_from_bytes(key), prefix(&value)) else {
            return Ok(());
        };
        let copied = self.copied.get(&(table, typed));
        // Where it is now: the new programs may have moved it to the other table.
        let mut now = vec![0; tables[table].value_bytes()];
        let place = if tables[table].lookup(key, &mut now)? {
            Some(table)
        } else if tables[1 - table].lookup(key, &mut now)? {
            Some(1 - table)
        } else {
            None
        };
        let new = place.and_then(|_| prefix(&now));
        let Some(merged) = merge(&old, copied, new.as_ref()) else {
            return Ok(());
        };
        // The bytes behind what both layouts have are the new programs' own.
        if place.is_some() {
            value.copy_from_slice(&now);
        }
        value[..size_of::<Connection>()].copy_from_slice(merged.as_bytes());
        // One that the old programs moved is in two places: the table that evicts nothing wins.
        let to = place.unwrap_or(table).min(table);
        if tables[to].update(key, &value).is_err() {
            return tables[1].update(key, &value);
        }
        if to != 1 {
            tables[1].delete(key)?;
        }
        Ok(())
    }
}

fn open(dir: &PinDir, name: &str) -> Result<MapFd, BpfError> {
    let path = dir.map(name);
    MapFd::open(&path).doing(|| format!("open the map {}", path.display()))
}

fn fate(source: &Source, abi: u32, layout: &Layout, map: MapFd) -> Fate {
    let convert = conversion(source.abi, abi, &layout.name);
    // Programs of both write to it until the last one is replaced.
    if map.info().kind == Some(MapKind::RingBuf) && source.abi != abi {
        return Fate::Lost("their events are of another layout".to_owned());
    }
    if convert.is_none() && layout.is_of(&map) {
        return Fate::Shared;
    }
    if convert.is_none() && !layout.has_entries_of(&map) {
        let why = format!("version {abi} keeps others than version {}", source.abi);
        return Fate::Lost(why);
    }
    if map.info().kind == Some(MapKind::RingBuf) {
        return Fate::Lost("the ring has another size".to_owned());
    }
    Fate::Copied(map, convert)
}

/// The part of a value that both layouts have.
fn prefix(value: &[u8]) -> Option<Connection> {
    Connection::read_from_prefix(value)
        .ok()
        .map(|(connection, _)| connection)
}

fn converted(value: &[u8], convert: Option<Convert>) -> Option<Vec<u8>> {
    match convert {
        Some(convert) => convert(value),
        None => Some(value.to_vec()),
    }
}

/// Copies entries that are no connections: `over` those there, or only what is missing.
fn copy_plain(
    (old, convert): (&MapFd, Option<Convert>),
    new: &MapFd,
    over: bool,
) -> std::io::Result<()> {
    let is_array = matches!(new.info().kind, Some(MapKind::Array | MapKind::PerCpuArray));
    let mut walk = Walk::new(old);
    while let Some(chunk) = walk.next_chunk()? {
        for (key, value) in chunk {
            let Some(value) = converted(value, convert) else {
                continue;
            };
            let result = match (over, is_array) {
                (true, _) => new.update(key, &value),
                (false, false) => new.insert_new(key, &value).map(drop),
                // Every entry of an array is there, and the new programs count in it.
                (false, true) => Ok(()),
            };
            match result {
                // The new one is smaller.
                Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// Copies the connections that are not copied yet as they are.
fn copy_connections(
    table: usize,
    (old, convert): (&MapFd, Option<Convert>),
    new: &MapFd,
    copied: &mut HashMap<(usize, ConnectionKey), Connection>,
) -> std::io::Result<()> {
    let mut walk = Walk::new(old);
    while let Some(chunk) = walk.next_chunk()? {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for (key, value) in chunk {
            let Some(value) = converted(value, convert) else {
                continue;
            };
            let (Ok(typed), Some(now)) = (ConnectionKey::read_from_bytes(key), prefix(&value))
            else {
                continue;
            };
            if copied.insert((table, typed), now) != Some(now) {
                keys.extend_from_slice(key);
                values.extend_from_slice(&value);
            }
        }
        match put_all(new, &keys, &values) {
            // The new one is smaller: it holds what fits.
            Err(error) if error.raw_os_error() == Some(libc::E2BIG) => {}
            other => other?,
        }
    }
    Ok(())
}
