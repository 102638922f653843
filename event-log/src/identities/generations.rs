//! The part of the index on disk: generations, each with a filter of its own.
//!
//! They have a store of their own: whoever writes a table holds that store's journal until several
//! fsyncs are done, and what is acknowledged meanwhile must not wait for that.
//! Always true: the oldest generation is the first; a generation goes as a whole, with its filter,
//! not while it is written, and only after a newer one has begun: a store that is opened without any
//! keyspace gives out ids again that were deleted, and takes what gets them for deleted at the next
//! start. What is written into a generation is durable, and in its filter, before anyone is told to
//! look there.
//! Not here: what is in memory only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use chalkstream_schemas::{ContentHash, EventIdentity};
use fjall::compaction::Leveled;
use fjall::config::{
    BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry, PartitioningPolicy,
};
use fjall::{Database, Keyspace, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};

use super::filter::Filter;
use super::{Entry, Limits};

const PREFIX: &str = "seen-";

/// The first generation is made for so many entries, and each for [`GROWTH`] times what the one
/// before held: the memory for filters, 3 bytes for each that there is room for, grows with what
/// there is.
const FIRST: u64 = 1 << 20;
const GROWTH: u64 = 4;

/// Entries of a generation at most, where nothing else limits them: 96 MiB of filter.
const LARGEST: u64 = 1 << 25;

/// Identities that are read before they are put into a filter.
const STEP: usize = 4_096;

/// What was written within one span of time.
#[derive(Clone)]
pub(super) struct Generation {
    since_ms: u64,
    entries: Keyspace,
    count: u64,
    /// More than that begin the next generation.
    capacity: u64,
    filter: Arc<Filter>,
}

impl Generation {
    /// The content that an identity was kept with.
    fn get(&self, identity: &EventIdentity) -> fjall::Result<Option<ContentHash>> {
        if self.filter.is_complete() && self.filter.absent(identity) {
            return Ok(None);
        }
        let entry = self.entries.get(identity.as_bytes())?;
        Ok(entry.and_then(|entry| entry.first_chunk().copied()).map(ContentHash::from_bytes))
    }
}

/// All generations of a store.
pub(super) struct Generations {
    folder: PathBuf,
    /// Opened with the first generation: a log without identities, such as a spool, has none.
    db: Mutex<Option<Database>>,
    limits: Limits,
    list: RwLock<Vec<Generation>>,
    /// Held by whoever begins, writes or drops one.
    changing: Mutex<()>,
    /// Inserts into the filters what an earlier process wrote.
    _filling: Filling,
}

impl Generations {
    /// Opens those of a folder.
    pub(super) fn open(folder: &Path, limits: Limits) -> fjall::Result<Self> {
        let db = folder.try_exists()?.then(|| open(folder)).transpose()?;
        let mut found = Vec::new();
        if let Some(db) = &db {
            for name in db.list_keyspace_names() {
                let since_ms = name.strip_prefix(PREFIX).and_then(|text| text.parse().ok());
                if let Some(since_ms) = since_ms {
                    let entries = db.keyspace(&name, options)?;
                    let count = entries.approximate_len() as u64;
                    found.push((since_ms, entries, count));
                }
            }
        }
        found.sort_by_key(|(since_ms, ..)| *since_ms);
        let newest = found.last().map(|(since_ms, ..)| *since_ms);
        let generation = |(since_ms, entries, count)| {
            // Nothing is added to an old one.
            let is_newest = Some(since_ms) == newest;
            let capacity = if is_newest { limits.next_capacity(count).max(count) } else { count };
            let filter = Arc::new(Filter::incomplete(capacity));
            Generation { since_ms, entries, count, capacity, filter }
        };
        let list: Vec<_> = found.into_iter().map(generation).collect();
        let filling = Filling::start(&list);
        Ok(Self {
            folder: folder.to_owned(),
            db: Mutex::new(db),
            limits,
            list: RwLock::new(list),
            changing: Mutex::default(),
            _filling: filling,
        })
    }

    /// The filters of all generations: what is in none of them is not on disk.
    pub(super) fn filters(&self) -> Vec<Arc<Filter>> {
        self.list.read().iter().map(|generation| Arc::clone(&generation.filter)).collect()
    }

    /// Entries, about.
    pub(super) fn len(&self) -> u64 {
        self.list.read().iter().map(|generation| generation.count).sum()
    }

    /// The content that each of these places' identities was kept with, put there.
    pub(super) fn look_up(
        &self,
        identities: &[EventIdentity],
        places: Vec<usize>,
        found: &mut [Option<ContentHash>],
    ) -> fjall::Result<()> {
        let generations = self.list.read().clone();
        for place in places {
            let (Some(identity), Some(found)) = (identities.get(place), found.get_mut(place))
            else {
                continue;
            };
            for generation in generations.iter().rev() {
                *found = generation.get(identity)?;
                if found.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes entries, sorted by identity, as one table into the generation of this time.
    pub(super) fn write(&self, now_ms: u64, entries: &[Entry]) -> fjall::Result<()> {
        let _alone = self.changing.lock();
        let count = entries.len() as u64;
        let (keyspace, filter) = self.current(now_ms, count)?;
        let mut ingestion = keyspace.start_ingestion()?;
        for (identity, content) in entries {
            ingestion.write(identity.as_bytes().as_slice(), content.as_bytes().as_slice())?;
        }
        ingestion.finish()?;
        filter.insert(entries.iter().map(|(identity, _)| identity));
        if let Some(newest) = self.list.write().last_mut() {
            newest.count += count;
        }
        Ok(())
    }

    /// The generation to write so many into at this time. A clock that was set back stays in the
    /// newest.
    fn current(&self, now_ms: u64, more: u64) -> fjall::Result<(Keyspace, Arc<Filter>)> {
        if let Some(newest) = self.list.read().last() {
            let full = newest.count > 0 && newest.count.saturating_add(more) > newest.capacity;
            if !full && now_ms < newest.since_ms.saturating_add(self.limits.span_ms()) {
                return Ok((newest.entries.clone(), Arc::clone(&newest.filter)));
            }
        }
        self.begin(now_ms, more)
    }

    /// Begins a generation for at least so many.
    fn begin(&self, now_ms: u64, more: u64) -> fjall::Result<(Keyspace, Arc<Filter>)> {
        let (since_ms, before) = match self.list.read().last() {
            None => (now_ms, 0),
            // A name of its own, whatever the clock says.
            Some(newest) => (now_ms.max(newest.since_ms.saturating_add(1)), newest.count),
        };
        let mut db = self.db.lock();
        let db = match &mut *db {
            Some(db) => db,
            None => db.insert(open(&self.folder)?),
        };
        let entries = db.keyspace(&format!("{PREFIX}{since_ms}"), options)?;
        let capacity = self.limits.next_capacity(before).max(more);
        let filter = Arc::new(Filter::new(capacity));
        let place = (entries.clone(), Arc::clone(&filter));
        self.list.write().push(Generation { since_ms, entries, count: 0, capacity, filter });
        Ok(place)
    }

    /// Forgets generations that hold nothing written at `before_ms` or later.
    pub(super) fn drop_before(&self, before_ms: u64) -> fjall::Result<()> {
        let _alone = self.changing.lock();
        let span_ms = self.limits.span_ms();
        let ended = self.list.read().last().is_some_and(|newest| {
            newest.count > 0 && newest.since_ms.saturating_add(span_ms) <= before_ms
        });
        if ended {
            self.begin(before_ms, 0)?;
        }
        self.drop_while(|generations| {
            generations.get(1).is_some_and(|next| next.since_ms <= before_ms)
        })
    }

    /// Forgets the oldest generations while there are more entries than may be.
    pub(super) fn drop_beyond_limit(&self) -> fjall::Result<()> {
        let _alone = self.changing.lock();
        self.drop_while(|generations| {
            let entries: u64 = generations.iter().map(|generation| generation.count).sum();
            entries > self.limits.max_entries
        })
    }

    /// Drops the oldest while there is a newer one and this says so.
    fn drop_while(&self, oldest_goes: impl Fn(&[Generation]) -> bool) -> fjall::Result<()> {
        loop {
            let oldest = {
                let mut generations = self.list.write();
                if generations.len() < 2 || !oldest_goes(&generations) {
                    return Ok(());
                }
                generations.remove(0)
            };
            if let Some(db) = &*self.db.lock() {
                db.delete_keyspace(oldest.entries)?;
            }
        }
    }
}

fn open(folder: &Path) -> fjall::Result<Database> {
    // A process that was killed while it made the store left one that holds nothing and cannot be
    // opened.
    if folder.try_exists()? && !folder.join("version").try_exists()? {
        fs::remove_dir_all(folder)?;
    }
    Database::builder(folder).worker_threads(1).open()
}

impl Limits {
    /// What the generation after one with so many entries is made for.
    fn next_capacity(&self, before: u64) -> u64 {
        let share = (self.max_entries / super::GENERATIONS).min(LARGEST);
        before.saturating_mul(GROWTH).max(FIRST).min(share)
    }
}

/// A thread that inserts what the store holds into its filters, which may take many seconds.
struct Filling {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filling {
    fn start(generations: &[Generation]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        if generations.is_empty() {
            return Self { stop, thread: None };
        }
        let stopped = Arc::clone(&stop);
        let generations = generations.to_vec();
        let work = move || {
            // A duplicate is most often one of the newest.
            for generation in generations.into_iter().rev() {
                if stopped.load(Ordering::Acquire) {
                    return;
                }
                if let Err(error) = fill(&generation, &stopped) {
                    tracing::warn!(%error, "the index of seen events goes on without a filter");
                }
            }
        };
        let thread = std::thread::Builder::new().name("seen-filter".into()).spawn(work);
        if let Err(error) = &thread {
            tracing::warn!(%error, "could not start a thread for the filter of seen events");
        }
        Self { stop, thread: thread.ok() }
    }
}

impl Drop for Filling {
    /// Waits for the thread, which holds the store's folder.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that fills the filter of seen events had a bug");
        }
    }
}

fn fill(generation: &Generation, stop: &AtomicBool) -> fjall::Result<()> {
    let mut identities = Vec::with_capacity(STEP);
    for entry in generation.entries.iter() {
        if let Some(identity) = entry.key()?.first_chunk() {
            identities.push(EventIdentity::from_bytes(*identity));
        }
        if identities.len() == STEP {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            generation.filter.insert(&identities);
            identities.clear();
        }
    }
    generation.filter.insert(&identities);
    generation.filter.complete();
    Ok(())
}

fn options() -> KeyspaceCreateOptions {
    // Hashes do not compress. Every table spans all hashes, so a merge rewrites all there is, for
    // three times what an entry costs otherwise; a generation goes as a whole, and its filter knows
    // nearly all that is new: better to look into all of its tables for the rest. The store keeps the
    // filters and indexes of such tables on disk; in parts, a look reads a part of each.
    let merge_late = Leveled::default().with_l0_threshold(u8::MAX);
    let filter = FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0));
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::all(filter))
        .filter_block_partitioning_policy(PartitioningPolicy::all(true))
        .index_block_partitioning_policy(PartitioningPolicy::all(true))
        .compaction_strategy(Arc::new(merge_late))
        .expect_point_read_hits(false)
}
