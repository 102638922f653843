//! One partition's part of the index: a write buffer in memory over a keyspace on disk.
//!
//! Always true: an identity's entries stand in order of their offsets, each one an event that
//! counted; nearly every identity has one.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use chalkstream_schemas::{ContentHash, EventIdentity, LogOffset, PartitionId, Timestamp};
use fjall::{Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};

use super::{Seen, SeenRange, Verdict};
use crate::fingerprint::Fingerprint;

pub(super) const KEYSPACE_PREFIX: &str = "partition-";
/// Identities kept in memory before they go to the store in one batch.
const BUFFERED_MAX: usize = 8_192;
const ENTRY_BYTES: usize = 32;
const MARKER_BYTES: usize = 8 + 16;

/// Identities are hashes already: eight of their bytes serve as the hash.
#[derive(Default)]
pub(super) struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            for (to, from) in word.iter_mut().zip(chunk) {
                *to = *from;
            }
            self.0 = u64::from_le_bytes(word);
        }
    }
}

/// An event that counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: LogOffset,
    timestamp: Timestamp,
    content_hash: ContentHash,
}

#[derive(Clone, Debug)]
struct Entries {
    newest: Entry,
    older: Vec<Entry>,
}

impl Entries {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut entries = bytes.chunks_exact(ENTRY_BYTES).map(|chunk| {
            let (offset, rest) = chunk.split_first_chunk::<8>()?;
            let (timestamp, rest) = rest.split_first_chunk::<8>()?;
            let (hash, _) = rest.split_first_chunk::<16>()?;
            Some(Entry {
                offset: LogOffset::new(u64::from_be_bytes(*offset)),
                timestamp: Timestamp::from_ms(i64::from_be_bytes(*timestamp)),
                content_hash: ContentHash::from_bytes(*hash),
            })
        });
        let newest = entries.next_back()??;
        Some(Self { newest, older: entries.collect::<Option<Vec<_>>>()? })
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity((self.older.len() + 1) * ENTRY_BYTES);
        for entry in self.older.iter().chain([&self.newest]) {
            bytes.extend_from_slice(&entry.offset.get().to_be_bytes());
            bytes.extend_from_slice(&entry.timestamp.as_ms().to_be_bytes());
            bytes.extend_from_slice(entry.content_hash.as_bytes());
        }
        bytes
    }

    /// The nearest entry before `offset`.
    fn before(&self, offset: LogOffset) -> Option<&Entry> {
        [&self.newest]
            .into_iter()
            .chain(self.older.iter().rev())
            .find(|entry| entry.offset < offset)
    }

    fn has(&self, offset: LogOffset) -> bool {
        self.newest.offset == offset || self.older.iter().any(|entry| entry.offset == offset)
    }

    fn add(&mut self, entry: Entry) {
        self.older.push(std::mem::replace(&mut self.newest, entry));
        self.older.push(self.newest);
        self.older.sort_by_key(|entry| entry.offset);
        if let Some(newest) = self.older.pop() {
            self.newest = newest;
        }
    }
}

/// The timestamp of the newest entry in a stored value.
pub(super) fn newest_ms(value: &[u8]) -> Option<i64> {
    Entries::decode(value).map(|entries| entries.newest.timestamp.as_ms())
}

pub(super) struct PartitionIndex {
    id: PartitionId,
    keyspace: Keyspace,
    buffered: HashMap<EventIdentity, Entries, BuildHasherDefault<Prehashed>>,
    contiguous: Option<LogOffset>,
    fingerprint: Option<Fingerprint>,
    /// Whether `contiguous` moved since the last batch.
    moved: bool,
}

impl PartitionIndex {
    pub(super) fn open(
        db: &fjall::Database,
        markers: &Keyspace,
        id: PartitionId,
    ) -> fjall::Result<Self> {
        let name = format!("{KEYSPACE_PREFIX}{}", id.get());
        let keyspace = db.keyspace(&name, || {
            KeyspaceCreateOptions::default().max_memtable_size(16 * 1024 * 1024)
        })?;
        let marker = markers.get(id.get().to_be_bytes())?;
        let (contiguous, fingerprint) = marker.and_then(|bytes| read_marker(&bytes)).unzip();
        if contiguous.is_none() && !keyspace.is_empty()? {
            // A crash came between the two steps of `clear`.
            keyspace.clear()?;
        }
        Ok(Self {
            id,
            keyspace,
            buffered: HashMap::default(),
            contiguous,
            fingerprint: fingerprint.flatten(),
            moved: false,
        })
    }

    pub(super) fn contiguous(&self) -> Option<LogOffset> {
        self.contiguous
    }

    /// The fingerprint of the record just before `contiguous`, where it is known.
    pub(super) fn fingerprint(&self) -> Option<Fingerprint> {
        self.fingerprint
    }

    /// Declares that nothing before `at` is of interest.
    pub(super) fn begin_at(&mut self, at: LogOffset) {
        self.contiguous = Some(at);
        self.fingerprint = None;
        self.moved = true;
    }

    fn entries(&self, identity: EventIdentity) -> fjall::Result<Option<Entries>> {
        if let Some(entries) = self.buffered.get(&identity) {
            return Ok(Some(entries.clone()));
        }
        Ok(self.keyspace.get(identity.as_bytes())?.and_then(|bytes| Entries::decode(&bytes)))
    }

    pub(super) fn observe(
        &mut self,
        db: &fjall::Database,
        markers: &Keyspace,
        range: &SeenRange,
        horizon_ms: i64,
    ) -> fjall::Result<Vec<Verdict>> {
        let mut verdicts = Vec::with_capacity(range.events.len());
        for seen in &range.events {
            let known = self.entries(seen.identity)?;
            let verdict = judge(known.as_ref(), seen, horizon_ms);
            if verdict == Verdict::First {
                self.remember(known, seen);
            }
            verdicts.push(verdict);
        }
        if self.contiguous.is_none_or(|through| through < range.through) {
            self.contiguous = Some(range.through);
            self.fingerprint = range.fingerprint;
            self.moved = true;
        }
        if self.buffered.len() >= BUFFERED_MAX {
            self.persist(db, markers)?;
        }
        Ok(verdicts)
    }

    fn remember(&mut self, known: Option<Entries>, seen: &Seen) {
        let entry = Entry {
            offset: seen.offset,
            timestamp: seen.timestamp,
            content_hash: seen.content_hash,
        };
        match known {
            None => {
                self.buffered.insert(seen.identity, Entries { newest: entry, older: Vec::new() });
            }
            Some(entries) if entries.has(seen.offset) => {}
            Some(mut entries) => {
                entries.add(entry);
                self.buffered.insert(seen.identity, entries);
            }
        }
    }

    /// Writes what is buffered and the marker in one atomic batch.
    pub(super) fn persist(
        &mut self,
        db: &fjall::Database,
        markers: &Keyspace,
    ) -> fjall::Result<()> {
        let Some(contiguous) = self.contiguous.filter(|_| self.moved || !self.buffered.is_empty())
        else {
            return Ok(());
        };
        let mut batch = OwnedWriteBatch::with_capacity(db.clone(), self.buffered.len() + 1);
        for (identity, entries) in &self.buffered {
            batch.insert(&self.keyspace, identity.as_bytes(), entries.encode());
        }
        batch.insert(
            markers,
            self.id.get().to_be_bytes(),
            write_marker(contiguous, self.fingerprint),
        );
        batch.commit()?;
        self.buffered.clear();
        self.moved = false;
        Ok(())
    }

    pub(super) fn clear(&mut self, markers: &Keyspace) -> fjall::Result<()> {
        // The marker goes first: what a crash leaves behind without one is cleared by `open`.
        markers.remove(self.id.get().to_be_bytes())?;
        self.contiguous = None;
        self.fingerprint = None;
        self.moved = false;
        self.buffered.clear();
        self.keyspace.clear()
    }
}

fn judge(known: Option<&Entries>, seen: &Seen, horizon_ms: i64) -> Verdict {
    match known.and_then(|entries| entries.before(seen.offset)) {
        Some(first) if seen.timestamp.ms_since(first.timestamp) <= horizon_ms => {
            Verdict::Duplicate {
                of: first.offset,
                same_content: first.content_hash == seen.content_hash,
            }
        }
        Some(_) | None => Verdict::First,
    }
}

fn write_marker(contiguous: LogOffset, fingerprint: Option<Fingerprint>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(MARKER_BYTES);
    bytes.extend_from_slice(&contiguous.get().to_be_bytes());
    if let Some(fingerprint) = fingerprint {
        bytes.extend_from_slice(fingerprint.as_bytes());
    }
    bytes
}

fn read_marker(bytes: &[u8]) -> Option<(LogOffset, Option<Fingerprint>)> {
    let (offset, rest) = bytes.split_first_chunk::<8>()?;
    let fingerprint = rest.first_chunk::<16>().map(|bytes| Fingerprint::from_bytes(*bytes));
    Some((LogOffset::new(u64::from_be_bytes(*offset)), fingerprint))
}
