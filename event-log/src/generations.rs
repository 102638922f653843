//! An index of seen events that forgets by dropping whole generations.
//!
//! In: identities with the content they were acknowledged with. Out: the content of those that are
//! within the horizon.
//! Always true: an entry lives for one to two spans (it is written into the newest generation, and
//! a generation goes when all of it is older than what was asked); dropping costs no rewriting.
//! Not here: durability (whoever owns the store's batch) and threads.

use std::time::Duration;

use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use parking_lot::RwLock;

const PREFIX: &str = "seen-";

/// The generations of one store, oldest first.
pub(crate) struct Generations {
    db: Database,
    span_ms: u64,
    live: RwLock<Vec<Generation>>,
}

#[derive(Clone)]
struct Generation {
    number: u64,
    entries: Keyspace,
}

impl Generations {
    /// Opens what generations there are. Without a span there is one, which never ends.
    pub(crate) fn open(db: &Database, span: Option<Duration>) -> fjall::Result<Self> {
        let span_ms = span
            .map_or(u64::MAX, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX).max(1));
        let mut live = Vec::new();
        for name in db.list_keyspace_names() {
            if let Some(number) = name.strip_prefix(PREFIX).and_then(|text| text.parse().ok()) {
                live.push(Generation { number, entries: db.keyspace(&name, options)? });
            }
        }
        live.sort_by_key(|generation| generation.number);
        Ok(Self { db: db.clone(), span_ms, live: RwLock::new(live) })
    }

    /// The generation to write into at this time. Time that runs backwards stays in the newest.
    pub(crate) fn current(&self, now_ms: u64) -> fjall::Result<Keyspace> {
        let number = now_ms / self.span_ms;
        if let Some(newest) = self.live.read().last()
            && newest.number >= number
        {
            return Ok(newest.entries.clone());
        }
        let entries = self.db.keyspace(&format!("{PREFIX}{number}"), options)?;
        self.live.write().push(Generation { number, entries: entries.clone() });
        Ok(entries)
    }

    /// Adds one entry to a batch that goes into [`current`](Self::current).
    pub(crate) fn add(
        batch: &mut OwnedWriteBatch,
        into: &Keyspace,
        identity: &EventIdentity,
        entry: &[u8],
    ) {
        batch.insert(into, identity.as_bytes().as_slice(), entry);
    }

    /// What was kept first with each identity, in the order given.
    pub(crate) fn lookup(
        &self,
        identities: &[EventIdentity],
    ) -> fjall::Result<Vec<Option<fjall::Slice>>> {
        let live = self.live.read().clone();
        identities
            .iter()
            .map(|identity| {
                for generation in live.iter().rev() {
                    if let Some(entry) = generation.entries.get(identity.as_bytes())? {
                        return Ok(Some(entry));
                    }
                }
                Ok(None)
            })
            .collect()
    }

    /// Forgets generations that hold nothing written at `before_ms` or later.
    pub(crate) fn drop_before(&self, before_ms: u64) -> fjall::Result<usize> {
        let mut dropped = 0;
        loop {
            let oldest = {
                let mut live = self.live.write();
                let ended = live.first().is_some_and(|oldest| {
                    (oldest.number + 1).saturating_mul(self.span_ms) <= before_ms
                });
                if !ended {
                    return Ok(dropped);
                }
                live.remove(0)
            };
            self.db.delete_keyspace(oldest.entries)?;
            dropped += 1;
        }
    }
}

impl std::fmt::Debug for Generations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let numbers: Vec<u64> = self.live.read().iter().map(|live| live.number).collect();
        f.debug_struct("Generations")
            .field("span_ms", &self.span_ms)
            .field("live", &numbers)
            .finish_non_exhaustive()
    }
}

/// Reads the content hash at the head of an entry; `None` if the entry is cut short.
pub(crate) fn content_of(entry: &[u8]) -> Option<ContentHash> {
    entry.first_chunk().map(|bytes| ContentHash::from_bytes(*bytes))
}

fn options() -> KeyspaceCreateOptions {
    // Hashes do not compress, and most look-ups are for what is not there: the filters answer.
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(fjall::config::CompressionPolicy::disabled())
        .expect_point_read_hits(false)
}
