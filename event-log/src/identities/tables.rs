//! The tables of one generation, each written at once and never changed.
//!
//! In: entries, a table at a time. Out: the content of an identity, looked for in the newest table
//! first.
//! Keys are the number of the table and that of a bucket, so tables lie one after another in the
//! store, and none is ever merged with others. Each table has a filter of its own, a byte an entry: the
//! generation's filter says that an identity may be here, these say in which of the tables.
//! Always true: tables are numbered from 0 without gaps; the last key of each holds how many entries it
//! has and the seed of its buckets; a table is in the store, and in its filter, before it is looked into.
//! Not here: which generation, and what is in none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::Keyspace;

use super::buckets::{self, Buckets};
use super::filter::Filter;

/// Of 8 bits an entry about 3 in 100 others seem present.
const FILTER_BITS: u64 = 8;

/// In place of a bucket's number: what is to be known of the table as a whole.
const ABOUT: u16 = u16::MAX;

/// The tables of a keyspace.
pub(super) struct Tables {
    keyspace: Keyspace,
    /// In their order.
    list: ArcSwap<Vec<Arc<Table>>>,
}

/// What memory keeps of a table.
struct Table {
    seed: u64,
    filter: Filter,
}

impl Tables {
    /// Those that are there, their filters still empty.
    pub(super) fn open(keyspace: Keyspace) -> fjall::Result<Self> {
        let last = keyspace.last_key_value().map(fjall::Guard::key).transpose()?;
        let last = last.and_then(|key| Some(u32::from_be_bytes(*key.first_chunk()?)));
        let mut tables = Vec::new();
        for table in 0..last.map_or(0, |last| last as usize + 1) {
            let about = keyspace.get(key(table, ABOUT))?;
            let (count, seed) = about.and_then(|about| parse_about(&about)).unwrap_or_default();
            let filter = Filter::incomplete(count, FILTER_BITS);
            tables.push(Arc::new(Table { seed, filter }));
        }
        Ok(Self { keyspace, list: ArcSwap::from_pointee(tables) })
    }

    /// Entries of all tables.
    pub(super) fn count(&self) -> u64 {
        self.list.load().iter().map(|table| table.filter.made_for()).sum()
    }

    /// The content that an identity was kept with.
    pub(super) fn get(&self, identity: &EventIdentity) -> fjall::Result<Option<ContentHash>> {
        for (number, table) in self.list.load().iter().enumerate().rev() {
            if table.filter.is_complete() && table.filter.absent(identity) {
                continue;
            }
            let bucket = buckets::of(identity, table.seed);
            let entries = self.keyspace.get(key(number, bucket))?;
            let found = entries.and_then(|entries| buckets::find(&entries, identity));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Writes the next table. One at a time.
    pub(super) fn write(&self, entries: &Buckets) -> fjall::Result<()> {
        let before = self.list.load_full();
        let number = before.len();
        let mut ingestion = self.keyspace.start_ingestion()?;
        for (bucket, bytes) in entries.iter() {
            ingestion.write(key(number, bucket).as_slice(), bytes)?;
        }
        let about = [entries.len().to_be_bytes(), entries.seed().to_be_bytes()].concat();
        ingestion.write(key(number, ABOUT).as_slice(), about)?;
        ingestion.finish()?;
        let filter = Filter::new(entries.len(), FILTER_BITS);
        filter.insert(entries.identities());
        let table = Arc::new(Table { seed: entries.seed(), filter });
        self.list.store(Arc::new(before.iter().cloned().chain([table]).collect()));
        Ok(())
    }

    /// Reads what was there when it was opened into the tables' filters and into this one; not to the
    /// end, if it is to stop.
    pub(super) fn fill(&self, all: &Filter, stop: &AtomicBool) -> fjall::Result<()> {
        for (number, table) in self.list.load().iter().enumerate().rev() {
            if table.filter.is_complete() {
                continue;
            }
            for bucket in self.keyspace.range(key(number, 0)..key(number, ABOUT)) {
                if stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                let bucket = bucket.value()?;
                table.filter.insert(buckets::identities(&bucket));
                all.insert(buckets::identities(&bucket));
            }
            table.filter.complete();
        }
        all.complete();
        Ok(())
    }

    pub(super) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }
}

/// How many entries a table has, and its seed.
fn parse_about(about: &[u8]) -> Option<(u64, u64)> {
    let (count, seed) = about.split_first_chunk()?;
    Some((u64::from_be_bytes(*count), u64::from_be_bytes(*seed.first_chunk()?)))
}

fn key(table: usize, bucket: u16) -> [u8; 6] {
    // A generation has less than a hundred tables.
    let table = u32::try_from(table).unwrap_or(u32::MAX);
    let ([a, b, c, d], [e, f]) = (table.to_be_bytes(), bucket.to_be_bytes());
    [a, b, c, d, e, f]
}
