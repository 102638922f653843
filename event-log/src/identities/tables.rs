//! The tables of one generation, each written at once and never changed.
//!
//! In: entries, a table at a time. Out: the content of an identity, looked for in the newest table
//! first.
//! Keys are the number of the table and that of a bucket, so tables lie one after another in the
//! store, and none is ever merged with others. Each table has a filter of its own, a byte an entry: the
//! generation's filter says that an identity may be here, these say in which of the tables.
//! Always true: tables are numbered from 0 without gaps; the last key of each holds how many entries it
//! has; a table is in the store, and in its filter, before it is looked into.
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

/// In place of a bucket's number: how many entries a table has.
const COUNT: u16 = u16::MAX;

/// The tables of a keyspace.
pub(super) struct Tables {
    keyspace: Keyspace,
    /// One a table, in their order.
    filters: ArcSwap<Vec<Arc<Filter>>>,
}

impl Tables {
    /// Those that are there, their filters still empty.
    pub(super) fn open(keyspace: Keyspace) -> fjall::Result<Self> {
        let last = keyspace.last_key_value().map(fjall::Guard::key).transpose()?;
        let last = last.and_then(|key| Some(u32::from_be_bytes(*key.first_chunk()?)));
        let mut filters = Vec::new();
        for table in 0..last.map_or(0, |last| last as usize + 1) {
            let count = keyspace.get(key(table, COUNT))?;
            let count = count.and_then(|count| Some(u64::from_be_bytes(*count.first_chunk()?)));
            filters.push(Arc::new(Filter::incomplete(count.unwrap_or_default(), FILTER_BITS)));
        }
        Ok(Self { keyspace, filters: ArcSwap::from_pointee(filters) })
    }

    /// Entries of all tables.
    pub(super) fn count(&self) -> u64 {
        self.filters.load().iter().map(|filter| filter.made_for()).sum()
    }

    /// The content that an identity was kept with.
    pub(super) fn get(&self, identity: &EventIdentity) -> fjall::Result<Option<ContentHash>> {
        let bucket = buckets::of(identity);
        for (table, filter) in self.filters.load().iter().enumerate().rev() {
            if filter.is_complete() && filter.absent(identity) {
                continue;
            }
            let entries = self.keyspace.get(key(table, bucket))?;
            let found = entries.and_then(|entries| buckets::find(&entries, identity));
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Writes the next table. One at a time.
    pub(super) fn write(&self, entries: &Buckets) -> fjall::Result<()> {
        let before = self.filters.load_full();
        let table = before.len();
        let mut ingestion = self.keyspace.start_ingestion()?;
        for (bucket, bytes) in entries.iter() {
            ingestion.write(key(table, bucket).as_slice(), bytes)?;
        }
        ingestion.write(key(table, COUNT).as_slice(), entries.len().to_be_bytes().as_slice())?;
        ingestion.finish()?;
        let filter = Filter::new(entries.len(), FILTER_BITS);
        filter.insert(entries.identities());
        let all = before.iter().cloned().chain([Arc::new(filter)]).collect();
        self.filters.store(Arc::new(all));
        Ok(())
    }

    /// Reads what was there when it was opened into the tables' filters and into this one; not to the
    /// end, if it is to stop.
    pub(super) fn fill(&self, all: &Filter, stop: &AtomicBool) -> fjall::Result<()> {
        for (table, filter) in self.filters.load().iter().enumerate().rev() {
            if filter.is_complete() {
                continue;
            }
            for bucket in self.keyspace.range(key(table, 0)..key(table, COUNT)) {
                if stop.load(Ordering::Acquire) {
                    return Ok(());
                }
                let bucket = bucket.value()?;
                filter.insert(buckets::identities(&bucket));
                all.insert(buckets::identities(&bucket));
            }
            filter.complete();
        }
        all.complete();
        Ok(())
    }

    pub(super) fn keyspace(&self) -> &Keyspace {
        &self.keyspace
    }
}

fn key(table: usize, bucket: u16) -> [u8; 6] {
    // A generation has less than a hundred tables.
    let table = u32::try_from(table).unwrap_or(u32::MAX);
    let ([a, b, c, d], [e, f]) = (table.to_be_bytes(), bucket.to_be_bytes());
    [a, b, c, d, e, f]
}
