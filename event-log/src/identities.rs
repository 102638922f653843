//! An index of seen events: cheap to add to at full speed, and forgetful by whole generations.
//!
//! In: runs of identities with the content they were acknowledged with, in the batch of the store
//! that makes them durable. Out: the content of those within the horizon.
//!
//! One entry at a time costs the store 4 µs of CPU, journal, memtable and flush together; measured,
//! that is four times what the records themselves cost. So a run is one value, the newest entries
//! are a hash table, and when that is full it is written as one table of another store.
//! The runs go once that is durable; after a crash those that are left fill the hash table again.
//!
//! Nearly every identity that is looked up is new. Each part of the index has a filter that knows
//! most of those: the hash table that is being filled, the one that is being written, and every
//! generation on disk. The filters are asked without a lock.
//!
//! Always true: an entry lives for at least the horizon, unless there are more entries than may be;
//! it goes with its generation, without rewriting; memory is a few times [`OVERFULL`] entries and
//! 3 bytes for each that the generations on disk have room for, and one for each that they have. Steps
//! of the clock cannot lose entries: a generation ends when the next begins, and one that begins in the
//! future is filled until that future has passed.
//! Not here: when a batch is durable (whoever commits it), and threads.

mod buckets;
mod filter;
mod generations;
mod table;
mod tables;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch};
use parking_lot::{Mutex, RwLock};

use self::buckets::Buckets;
use self::filter::Filter;
use self::generations::Generations;
use self::table::Table;

const RUNS: &str = "runs-of-seen";

/// Entries in memory that make a table of the store: somewhat fewer than what 2^19 places hold, so
/// that the hash table does not double just before it is sealed.
const SEAL_AT: usize = 420_000;

/// Entries in memory at which whoever adds must wait.
pub(crate) const OVERFULL: usize = 1 << 21;

/// Bits that an entry gets in the filter of a layer or a generation: of others about 1 in 10,000 seems
/// to be there.
const FILTER_BITS: u64 = 24;

/// An identity and a content hash.
const ENTRY_BYTES: usize = 32;

/// Runs that are removed in one go.
const STEP: usize = 1_000;

/// One acknowledged event.
pub(crate) type Entry = (EventIdentity, ContentHash);

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
    generations: Generations,
    recent: RwLock<Recent>,
    /// Of all parts, newest first. Asked without a lock.
    filters: ArcSwap<Vec<Arc<Filter>>>,
    sealing: AtomicBool,
    room: Mutex<Room>,
}

/// What the last seal needed and the next needs again: memory that is given back and asked for again
/// ends up in pieces.
#[derive(Default)]
struct Room {
    table: Table,
    buckets: Buckets,
}

/// What is not in a table of the store yet. Who adds to it adds to the filter first.
struct Recent {
    filling: Layer,
    /// What is being written.
    sealed: Option<Arc<Layer>>,
}

/// Entries in memory, their filter, and the runs that keep them.
struct Layer {
    table: Table,
    filter: Arc<Filter>,
    runs: Vec<u64>,
}

impl Layer {
    /// A layer with nothing in it yet.
    fn new(table: Table) -> Self {
        Self { table, filter: Arc::new(Filter::new(SEAL_AT as u64, FILTER_BITS)), runs: Vec::new() }
    }

    fn add(&mut self, run: u64, entries: &[Entry]) {
        self.filter.insert(entries.iter().map(|(identity, _)| *identity));
        entries.iter().for_each(|entry| self.table.insert(*entry));
        self.runs.push(run);
    }
}

/// What memory knows about some identities.
pub(crate) struct Known {
    /// The content that each was kept with, as far as memory has it.
    pub(crate) found: Vec<Option<ContentHash>>,
    /// The places of those that only the store can tell about.
    pub(crate) unsure: Vec<usize>,
}

impl Identities {
    /// Opens what there is: runs in this store, tables in this folder.
    pub(crate) fn open(db: &Database, tables: &Path, limits: Limits) -> fjall::Result<Self> {
        let generations = Generations::open(tables, limits)?;
        let runs = db.keyspace(RUNS, KeyspaceCreateOptions::default)?;
        let mut filling = Layer::new(Table::default());
        for run in runs.iter() {
            let (key, value) = run.into_inner()?;
            if let Some(run) = key.first_chunk() {
                let entries: Vec<_> = value.chunks_exact(ENTRY_BYTES).filter_map(parse).collect();
                filling.add(u64::from_be_bytes(*run), &entries);
            }
        }
        let index = Self {
            db: db.clone(),
            limits,
            runs,
            generations,
            recent: RwLock::new(Recent { filling, sealed: None }),
            filters: ArcSwap::default(),
            sealing: AtomicBool::new(false),
            room: Mutex::default(),
        };
        index.publish(&index.recent.read());
        Ok(index)
    }

    /// Lets look-ups see the filters of all parts that there are now.
    fn publish(&self, recent: &Recent) {
        let sealed = recent.sealed.iter().map(|layer| Arc::clone(&layer.filter));
        let memory = std::iter::once(Arc::clone(&recent.filling.filter)).chain(sealed);
        let disk = self.generations.filters().into_iter().rev();
        self.filters.store(Arc::new(memory.chain(disk).collect()));
    }

    /// The newest run that was there when the index was opened; asked before anything is sealed.
    pub(crate) fn newest_run(&self) -> u64 {
        self.recent.read().filling.runs.last().copied().unwrap_or_default()
    }

    /// Puts a run into the batch that makes it durable. Numbers of runs rise.
    pub(crate) fn add(&self, batch: &mut OwnedWriteBatch, run: u64, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let mut value = Vec::with_capacity(entries.len() * ENTRY_BYTES);
        entries.iter().for_each(|entry| put(entry, &mut value));
        batch.insert(&self.runs, run.to_be_bytes().as_slice(), value);
    }

    /// Makes a durable run visible. True once there is enough to [`seal`](Self::seal).
    pub(crate) fn applied(&self, run: u64, entries: &[Entry]) -> bool {
        let mut recent = self.recent.write();
        if !entries.is_empty() {
            recent.filling.add(run, entries);
        }
        recent.filling.table.len() >= SEAL_AT && !self.sealing.load(Ordering::Acquire)
    }

    /// Whether whoever adds must wait for a seal.
    pub(crate) fn is_overfull(&self) -> bool {
        self.sealing.load(Ordering::Acquire) && self.recent.read().filling.table.len() >= OVERFULL
    }

    /// Writes what is in memory as a table of the generation of this time. Blocks for long.
    pub(crate) fn seal(&self, now_ms: u64) -> fjall::Result<()> {
        if self.sealing.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let _ends = Sealing(&self.sealing);
        self.seal_alone(now_ms)
    }

    fn seal_alone(&self, now_ms: u64) -> fjall::Result<()> {
        let Room { table, mut buckets } = std::mem::take(&mut *self.room.lock());
        // What failed to be written before is still there, and goes first.
        let layer = {
            let mut recent = self.recent.write();
            match &recent.sealed {
                Some(layer) => Arc::clone(layer),
                None => {
                    let next = Layer::new(table);
                    let layer = Arc::new(std::mem::replace(&mut recent.filling, next));
                    recent.sealed = Some(Arc::clone(&layer));
                    // Nobody adds meanwhile: what is added from here on is in the filter that is seen.
                    self.publish(&recent);
                    layer
                }
            }
        };
        buckets.fill(layer.table.entries());
        self.generations.write(now_ms, &buckets)?;
        {
            let mut recent = self.recent.write();
            recent.sealed = None;
            self.publish(&recent);
        }
        let removed = self.remove_runs(&layer.runs);
        if removed.is_err() {
            // The next seal tries again.
            self.recent.write().filling.runs.extend_from_slice(&layer.runs);
        }
        removed?;
        if let Some(Layer { mut table, .. }) = Arc::into_inner(layer) {
            table.clear();
            *self.room.lock() = Room { table, buckets };
        }
        self.forget(|generations| generations.drop_beyond_limit())
    }

    fn remove_runs(&self, runs: &[u64]) -> fjall::Result<()> {
        for some in runs.chunks(STEP) {
            let mut removal = self.db.batch();
            for run in some {
                removal.remove(&self.runs, run.to_be_bytes().as_slice());
            }
            removal.commit()?;
        }
        Ok(())
    }

    /// What memory knows; blocks for nothing. An entry that was applied before whoever asks got its
    /// turn is in one of the filters that are loaded here: it moves to the next part, and into its
    /// filter, before it leaves the last.
    pub(crate) fn recall(&self, identities: &[EventIdentity]) -> Known {
        let mut may_be_known = vec![false; identities.len()];
        for filter in self.filters.load().iter() {
            if !filter.is_complete() {
                may_be_known.fill(true);
                break;
            }
            filter.mark(identities, &mut may_be_known);
        }
        let mut unsure: Vec<usize> =
            (0..).zip(may_be_known).filter(|(_, known)| *known).map(|(place, _)| place).collect();
        let mut found = vec![None; identities.len()];
        if !unsure.is_empty() {
            let recent = self.recent.read();
            unsure.retain(|place| {
                let Some((identity, found)) = identities.get(*place).zip(found.get_mut(*place))
                else {
                    return false;
                };
                let sealed = || recent.sealed.as_ref().and_then(|layer| layer.table.get(identity));
                *found = recent.filling.table.get(identity).or_else(sealed);
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
        self.generations.look_up(identities, unsure, &mut found)?;
        Ok(found)
    }

    /// Forgets generations that hold nothing written at `before_ms` or later.
    pub(crate) fn drop_before(&self, before_ms: u64) -> fjall::Result<()> {
        self.forget(|generations| generations.drop_before(before_ms))
    }

    fn forget(&self, drop: impl FnOnce(&Generations) -> fjall::Result<()>) -> fjall::Result<()> {
        let dropped = drop(&self.generations);
        // Of several that were to go, some may have gone before an error.
        self.publish(&self.recent.read());
        dropped
    }

    /// Entries that are kept, about.
    pub(crate) fn len(&self) -> u64 {
        let recent = self.recent.read();
        let sealing = recent.sealed.as_ref().map_or(0, |layer| layer.table.len());
        self.generations.len() + (recent.filling.table.len() + sealing) as u64
    }
}

/// While this lives a seal is under way.
struct Sealing<'a>(&'a AtomicBool);

impl Drop for Sealing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identities")
            .field("limits", &self.limits)
            .field("filling", &self.recent.read().filling.table.len())
            .finish_non_exhaustive()
    }
}

fn put((identity, content): &Entry, out: &mut Vec<u8>) {
    out.extend_from_slice(identity.as_bytes());
    out.extend_from_slice(content.as_bytes());
}

fn parse(entry: &[u8]) -> Option<Entry> {
    let (identity, content) = entry.split_first_chunk()?;
    let identity = EventIdentity::from_bytes(*identity);
    Some((identity, ContentHash::from_bytes(*content.first_chunk()?)))
}

#[cfg(test)]
mod tests;
