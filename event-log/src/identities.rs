//! An index of seen events: cheap to add to at full speed, and forgetful by whole generations.
//!
//! In: runs of identities with the content they were acknowledged with, in the batch of the store
//! that makes them durable. Out: the content of those within the horizon.
//!
//! One entry at a time costs the store 4 µs of CPU, journal, memtable and flush together; measured,
//! that is four times what the records themselves cost. So a run is one value, the newest entries
//! are a hash table, and when that is full it is sorted and written as one table of the store.
//! A crash in between finds the runs and fills the hash table again.
//!
//! A look-up asks a filter first, which knows that nearly every identity is new.
//!
//! Always true: an entry lives for at least the horizon, unless there are more entries than may be;
//! it goes with its generation, without rewriting; memory is bounded by [`OVERFULL`] entries. Steps
//! of the clock cannot lose entries: a generation ends when the next begins, and one that begins
//! in the future is filled until that future has passed.
//! Not here: when a batch is durable (whoever commits it), and threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::compaction::Leveled;
use fjall::config::CompressionPolicy;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use crate::filter::{Filling, Filter};

const PREFIX: &str = "seen-";
const RUNS: &str = "runs-of-seen";

/// Entries in memory that make a table of the store: somewhat fewer than what 2^19 places hold, so
/// that the hash table does not double just before it is sealed.
const SEAL_AT: usize = 420_000;

/// Entries in memory at which whoever adds must wait.
pub(crate) const OVERFULL: usize = 1 << 21;

/// An identity and a content hash.
const ENTRY_BYTES: usize = 32;

/// Runs that are removed in one go.
const STEP: usize = 1_000;

/// One acknowledged event.
pub(crate) type Entry = (EventIdentity, ContentHash);

type Table = HashMap<EventIdentity, ContentHash>;

/// A horizon is made of so many generations; together they hold at most one more.
const GENERATIONS: u64 = 4;

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long at least; `None` is for ever.
    pub(crate) horizon: Option<Duration>,
    /// How many entries at most; the oldest generation goes before there are more.
    pub(crate) max_entries: u64,
}

impl Limits {
    /// After so long a new generation begins.
    fn span_ms(&self) -> u64 {
        let ms = |horizon: Duration| u64::try_from(horizon.as_millis()).unwrap_or(u64::MAX);
        self.horizon.map_or(u64::MAX, |horizon| (ms(horizon) / GENERATIONS).max(1))
    }
}

/// The index in one store.
pub(crate) struct Identities {
    db: Database,
    limits: Limits,
    runs: Keyspace,
    generations: RwLock<Vec<Generation>>,
    /// Before all of it. Asked without a lock: nearly every identity is new.
    filter: ArcSwap<Filter>,
    recent: RwLock<Recent>,
    sealing: AtomicBool,
    /// What inserts old entries into the filter.
    filling: Mutex<Filling>,
}

#[derive(Clone)]
struct Generation {
    since_ms: u64,
    entries: Keyspace,
    count: u64,
}

/// What is not in a table of the store yet. Who adds to it adds to the filter first.
struct Recent {
    filling: Table,
    /// The newest run in `filling`.
    through: u64,
    /// What is being written, and the newest run in it.
    sealed: Option<(Arc<Table>, u64)>,
}

/// What memory knows about some identities.
pub(crate) struct Known {
    /// The content that each was kept with, as far as memory has it.
    pub(crate) found: Vec<Option<ContentHash>>,
    /// The places of those that only the store can tell about.
    pub(crate) unsure: Vec<usize>,
}

impl Identities {
    /// Opens what there is.
    pub(crate) fn open(db: &Database, limits: Limits) -> fjall::Result<Self> {
        let mut generations = Vec::new();
        for name in db.list_keyspace_names() {
            if let Some(since_ms) = name.strip_prefix(PREFIX).and_then(|text| text.parse().ok()) {
                let entries = db.keyspace(&name, options)?;
                let count = entries.approximate_len() as u64;
                generations.push(Generation { since_ms, entries, count });
            }
        }
        generations.sort_by_key(|generation| generation.since_ms);
        let runs = db.keyspace(RUNS, options)?;
        let filter = Arc::new(Filter::new());
        let mut recent = Recent { filling: Table::new(), through: 0, sealed: None };
        for run in runs.iter() {
            let (key, value) = run.into_inner()?;
            recent.through =
                key.first_chunk().map_or(recent.through, |key| u64::from_be_bytes(*key));
            recent.filling.extend(value.chunks_exact(ENTRY_BYTES).filter_map(parse));
        }
        filter.insert(recent.filling.keys());
        let filling = Mutex::new(Filling::start(Arc::clone(&filter), stored(&generations)));
        Ok(Self {
            db: db.clone(),
            limits,
            runs,
            generations: RwLock::new(generations),
            filter: ArcSwap::new(filter),
            recent: RwLock::new(recent),
            sealing: AtomicBool::new(false),
            filling,
        })
    }

    /// The newest run that is still kept as one.
    pub(crate) fn newest_run(&self) -> u64 {
        self.recent.read().through
    }

    /// Puts a run into the batch that makes it durable. Numbers of runs rise.
    pub(crate) fn add(&self, batch: &mut OwnedWriteBatch, run: u64, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let mut value = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        for (identity, content) in entries {
            value.extend_from_slice(identity.as_bytes());
            value.extend_from_slice(content.as_bytes());
        }
        batch.insert(&self.runs, run.to_be_bytes().as_slice(), value);
    }

    /// Makes a durable run visible. True once there is enough to [`seal`](Self::seal).
    pub(crate) fn applied(&self, run: u64, entries: &[Entry]) -> bool {
        let mut recent = self.recent.write();
        recent.through = recent.through.max(run);
        self.filter.load().insert(entries.iter().map(|(identity, _)| identity));
        for (identity, content) in entries {
            recent.filling.entry(*identity).or_insert(*content);
        }
        recent.filling.len() >= SEAL_AT && !self.sealing.load(Ordering::Acquire)
    }

    /// Whether whoever adds must wait for a seal.
    pub(crate) fn is_overfull(&self) -> bool {
        self.sealing.load(Ordering::Acquire) && self.recent.read().filling.len() >= OVERFULL
    }

    /// Writes what is in memory as a table of the generation of this time. Blocks for long.
    pub(crate) fn seal(&self, now_ms: u64) -> fjall::Result<()> {
        if self.sealing.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let sealed = self.seal_alone(now_ms);
        self.sealing.store(false, Ordering::Release);
        sealed
    }

    fn seal_alone(&self, now_ms: u64) -> fjall::Result<()> {
        // What failed to be written before is still there, and goes first.
        let (table, through) = {
            let mut recent = self.recent.write();
            if recent.sealed.is_none() {
                // The next one will be as large: it need not grow step by step.
                let next = Table::with_capacity(recent.filling.len().min(SEAL_AT));
                let table = std::mem::replace(&mut recent.filling, next);
                recent.sealed = Some((Arc::new(table), recent.through));
            }
            match &recent.sealed {
                Some((table, through)) => (Arc::clone(table), *through),
                None => return Ok(()),
            }
        };
        // Copied, so that sorting and writing walk through memory instead of hopping in the table.
        let mut entries: Vec<Entry> =
            table.iter().map(|(identity, content)| (*identity, *content)).collect();
        // As numbers: the same order as of bytes, compared in one go.
        entries.sort_unstable_by_key(|(identity, _)| u128::from_be_bytes(*identity.as_bytes()));
        let count = entries.len() as u64;
        let generation = self.current(now_ms, count)?;
        let mut ingestion = generation.start_ingestion()?;
        for (identity, content) in entries {
            ingestion.write(identity.as_bytes().as_slice(), content.as_bytes().as_slice())?;
        }
        ingestion.finish()?;
        if let Some(newest) = self.generations.write().last_mut() {
            newest.count += count;
        }
        self.recent.write().sealed = None;
        self.remove_runs(through)?;
        self.drop_beyond(self.limits.max_entries)
    }

    fn remove_runs(&self, through: u64) -> fjall::Result<()> {
        loop {
            let mut removal = self.db.batch();
            for run in self.runs.range(..=through.to_be_bytes()).take(STEP) {
                removal.remove(&self.runs, run.key()?);
            }
            let last = removal.len() < STEP;
            removal.commit()?;
            if last {
                return Ok(());
            }
        }
    }

    /// The generation to write so many into at this time. A clock that was set back stays in the
    /// newest.
    fn current(&self, now_ms: u64, more: u64) -> fjall::Result<Keyspace> {
        let share = self.limits.max_entries / GENERATIONS;
        let since_ms = match self.generations.read().last() {
            None => now_ms,
            Some(newest) => {
                let full = newest.count > 0 && newest.count.saturating_add(more) > share;
                let ended = now_ms >= newest.since_ms.saturating_add(self.limits.span_ms());
                if !full && !ended {
                    return Ok(newest.entries.clone());
                }
                // A name of its own, whatever the clock says.
                now_ms.max(newest.since_ms.saturating_add(1))
            }
        };
        let entries = self.db.keyspace(&format!("{PREFIX}{since_ms}"), options)?;
        let generation = Generation { since_ms, entries: entries.clone(), count: 0 };
        self.generations.write().push(generation);
        Ok(entries)
    }

    /// What memory knows; blocks for nothing. An entry that was applied before whoever asks got its
    /// turn is in the filter that is loaded here, though a filter may have been begun anew meanwhile:
    /// what is applied after that is in the new one, and what was before in both.
    pub(crate) fn recall(&self, identities: &[EventIdentity]) -> Known {
        let filter = self.filter.load();
        let complete = filter.is_complete();
        let may_be_known = |identity| !complete || !filter.absent(identity);
        let mut unsure: Vec<usize> =
            (0..).zip(identities).filter(|(_, id)| may_be_known(id)).map(|(at, _)| at).collect();
        let mut found = vec![None; identities.len()];
        if !unsure.is_empty() {
            let recent = self.recent.read();
            unsure.retain(|place| {
                let Some((identity, found)) = identities.get(*place).zip(found.get_mut(*place))
                else {
                    return false;
                };
                let sealed = || recent.sealed.as_ref().and_then(|(table, _)| table.get(identity));
                *found = recent.filling.get(identity).or_else(sealed).copied();
                found.is_none()
            });
        }
        Known { found, unsure }
    }

    /// The content that each identity was kept with, in the order given; asks the store for what
    /// memory was unsure of. Memory comes first: an entry moves from there to the store, so none is
    /// missed in between.
    pub(crate) fn complete(
        &self,
        identities: &[EventIdentity],
        known: Known,
    ) -> fjall::Result<Vec<Option<ContentHash>>> {
        let Known { mut found, unsure } = known;
        let generations = self.generations.read().clone();
        for place in unsure {
            let (Some(identity), Some(found)) = (identities.get(place), found.get_mut(place))
            else {
                continue;
            };
            for generation in generations.iter().rev() {
                let entry = generation.entries.get(identity.as_bytes())?;
                *found = entry
                    .and_then(|entry| entry.first_chunk().copied())
                    .map(ContentHash::from_bytes);
                if found.is_some() {
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Begins a filter anew, without what was forgotten.
    fn renew_filter(&self) {
        // Held throughout: of two that begin anew, the filter in use is the one that is filled.
        let mut filling = self.filling.lock();
        let filter = Arc::new(Filter::new());
        {
            // Nobody adds meanwhile.
            let recent = self.recent.write();
            let sealed = recent.sealed.iter().flat_map(|(table, _)| table.keys());
            filter.insert(recent.filling.keys().chain(sealed));
            self.filter.store(Arc::clone(&filter));
        }
        // What is sealed from here on is in the filter already.
        let stored = stored(&self.generations.read());
        *filling = Filling::start(filter, stored);
    }

    /// Forgets generations that hold nothing written at `before_ms` or later.
    pub(crate) fn drop_before(&self, before_ms: u64) -> fjall::Result<()> {
        let span_ms = self.limits.span_ms();
        self.drop_while(|generations| {
            let ended_ms = match generations {
                [_, next, ..] => next.since_ms,
                [newest] => newest.since_ms.saturating_add(span_ms),
                [] => return false,
            };
            ended_ms <= before_ms
        })
    }

    /// Forgets the oldest generations while there are more entries than that.
    fn drop_beyond(&self, max_entries: u64) -> fjall::Result<()> {
        self.drop_while(|generations| {
            let entries: u64 = generations.iter().map(|generation| generation.count).sum();
            generations.len() > 1 && entries > max_entries
        })
    }

    fn drop_while(&self, oldest_goes: impl Fn(&[Generation]) -> bool) -> fjall::Result<()> {
        let mut dropped = false;
        loop {
            let oldest = {
                let mut generations = self.generations.write();
                if !oldest_goes(&generations) {
                    break;
                }
                generations.remove(0)
            };
            dropped = true;
            self.db.delete_keyspace(oldest.entries)?;
        }
        if dropped {
            self.renew_filter();
        }
        Ok(())
    }

    /// Entries that are kept, about.
    pub(crate) fn len(&self) -> u64 {
        let sealed: u64 = self.generations.read().iter().map(|generation| generation.count).sum();
        let recent = self.recent.read();
        let sealing = recent.sealed.as_ref().map_or(0, |(table, _)| table.len());
        sealed + (recent.filling.len() + sealing) as u64
    }
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities")
            .field("limits", &self.limits)
            .field("filling", &self.recent.read().filling.len())
            .finish_non_exhaustive()
    }
}

fn stored(generations: &[Generation]) -> Vec<Keyspace> {
    generations.iter().map(|generation| generation.entries.clone()).collect()
}

fn parse(entry: &[u8]) -> Option<Entry> {
    let (identity, content) = entry.split_first_chunk()?;
    let identity = EventIdentity::from_bytes(*identity);
    Some((identity, ContentHash::from_bytes(*content.first_chunk()?)))
}

fn options() -> KeyspaceCreateOptions {
    // Hashes do not compress, and most look-ups are for what is not there: the filters answer.
    // Every table spans all hashes, so a merge rewrites all there is, for three times what an entry
    // costs otherwise. A generation goes as a whole, and the filter knows most of what is new: better
    // to look into all of its tables for the rest.
    let merge_late = Leveled::default().with_l0_threshold(u8::MAX);
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(CompressionPolicy::disabled())
        .compaction_strategy(Arc::new(merge_late))
        .expect_point_read_hits(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> Entry {
        let hash = *blake3::hash(&number.to_be_bytes()).as_bytes();
        let (identity, content) = hash.split_first_chunk().unwrap();
        let content = ContentHash::from_bytes(*content.first_chunk().unwrap());
        (EventIdentity::from_bytes(*identity), content)
    }

    fn add(index: &Identities, run: u64, entries: &[Entry]) {
        let mut batch = index.db.batch();
        index.add(&mut batch, run, entries);
        batch.commit().unwrap();
        index.applied(run, entries);
    }

    fn lookup(index: &Identities, ids: &[EventIdentity]) -> Vec<Option<ContentHash>> {
        index.complete(ids, index.recall(ids)).unwrap()
    }

    /// At every step of sealing, and after a crash at any of them, the same entries are found.
    #[test]
    fn sealing_moves_entries_and_loses_none() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Database::builder(folder.path()).open().unwrap();
        let limits = Limits { horizon: Some(Duration::from_secs(4)), max_entries: u64::MAX };
        let mut db = open();
        let mut index = Identities::open(&db, limits).unwrap();
        let entries: Vec<_> = (0..3_000).map(entry).collect();
        let ids: Vec<_> = entries.iter().map(|(identity, _)| *identity).collect();
        for (step, chunk) in entries.chunks(500).enumerate() {
            let run = step as u64 + 1;
            add(&index, run, chunk);
            if step % 2 == 1 {
                index.seal(1_000).unwrap();
                // Sealed twice, as after a crash before the runs were removed.
                add(&index, run, chunk);
            }
            if step % 3 == 2 {
                drop(index);
                drop(db);
                db = open();
                index = Identities::open(&db, limits).unwrap();
            }
            let found = lookup(&index, &ids);
            let known = (step + 1) * 500;
            for (at, (found, (_, content))) in found.iter().zip(&entries).enumerate() {
                assert_eq!(*found, (at < known).then_some(*content), "entry {at} in step {step}");
            }
        }
        index.seal(1_000).unwrap();
        assert_eq!(index.runs.iter().count(), 0, "what is sealed is kept once");
        assert!(index.len() >= 3_000, "what was sealed twice may count twice");
        index.drop_before(2_000).unwrap();
        assert!(lookup(&index, &ids).iter().all(Option::is_none));
        assert_eq!(index.len(), 0);
    }

    /// Beyond the limit the oldest go; a clock that is set back or forth loses nothing else.
    #[test]
    fn entries_are_bounded_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let db = Database::builder(folder.path()).open().unwrap();
        let limits = Limits { horizon: Some(Duration::from_secs(3_600)), max_entries: 4_000 };
        let index = Identities::open(&db, limits).unwrap();
        let entries: Vec<_> = (0..20_000).map(entry).collect();
        let clock = [10_000_000, 6_400_000, 10_000_500, 90_000_000, 10_001_000];
        for (step, chunk) in entries.chunks(500).enumerate() {
            add(&index, step as u64 + 1, chunk);
            index.seal(clock[step % clock.len()]).unwrap();
            assert!(index.len() <= 4_000, "{} in step {step}", index.len());
            let recent = entries[..(step + 1) * 500].iter().rev().take(2_500);
            let (recent, contents): (Vec<_>, Vec<_>) =
                recent.map(|entry| (entry.0, Some(entry.1))).unzip();
            assert_eq!(lookup(&index, &recent), contents, "in step {step}");
        }
    }
}
