use watari_abi::{Connection, ConnectionKey};
use zerocopy::FromBytes;

use crate::datapath::Swept;
use crate::error::{BpfError, Doing};
use crate::map::Map;
use crate::sys::{BatchEnd, Cursor};

/// Entries that one system call reads.
const CHUNK: usize = 2048;

/// Where a sweep through the tables of connections is.
#[derive(Debug, Default)]
pub(crate) struct Sweep {
    table: usize,
    cursor: Cursor,
}

impl Sweep {
    /// Looks at up to about `limit` entries, and removes those that have expired.
    pub fn run(
        &mut self,
        tables: [&Map<ConnectionKey, Connection>; 2],
        now: u64,
        limit: usize,
    ) -> Result<Swept, BpfError> {
        let mut swept = Swept::default();
        while swept.looked_at < limit {
            let table = tables[self.table];
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            let count = CHUNK.min(limit - swept.looked_at);
            let end = table
                .fd()
                .dump(&mut self.cursor, count, &mut keys, &mut values)
                .doing(|| format!("read the map {}", table.info().name))?;
            let keys = keys.chunks_exact(size_of::<ConnectionKey>());
            let values = values.chunks_exact(size_of::<Connection>());
            for (key, value) in keys.zip(values) {
                swept.looked_at += 1;
                let (Ok(key), Ok(value)) = (
                    ConnectionKey::read_from_bytes(key),
                    Connection::read_from_bytes(value),
                ) else {
                    continue;
                };
                // Again, right before: a packet may have opened it anew meanwhile.
                if value.expires <= now
                    && table.get(&key)?.is_some_and(|again| again.expires <= now)
                {
                    swept.removed += usize::from(table.remove(&key)?);
                }
            }
            if end == BatchEnd::End {
                self.cursor = Cursor::default();
                self.table = (self.table + 1) % tables.len();
                if self.table == 0 {
                    swept.at_end = true;
                    break;
                }
            }
        }
        Ok(swept)
    }
}
