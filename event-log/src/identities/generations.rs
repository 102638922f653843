//! The part of the index on disk: generations of tables, each generation with a filter of its own.
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
use fjall::config::{CompressionPolicy, FilterPolicy};
use fjall::{Database, KeyspaceCreateOptions};
use parking_lot::{Mutex, RwLock};

use super::buckets::Buckets;
use super::filter::Filter;
use super::tables::Tables;
use super::{FILTER_BITS, Limits};

const PREFIX: &str = "generation-";

/// The first generation is made for so many entries, and each for [`GROWTH`] times what the one
/// before held: the memory for filters, 3 bytes for each that there is room for, grows with what
/// there is.
const FIRST: u64 = 1 << 20;
const GROWTH: u64 = 4;

/// Entries of a generation at most, where nothing else limits them: 96 MiB of filter.
const LARGEST: u64 = 1 << 25;

/// What was written within one span of time.
#[derive(Clone)]
pub(super) struct Generation {
    since_ms: u64,
    tables: Arc<Tables>,
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
        self.tables.get(identity)
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
                    found.push((since_ms, Tables::open(db.keyspace(&name, options)?)?));
                }
            }
        }
        found.sort_by_key(|(since_ms, _)| *since_ms);
        let newest = found.last().map(|(since_ms, _)| *since_ms);
        let generation = |(since_ms, tables): (u64, Tables)| {
            let (count, tables) = (tables.count(), Arc::new(tables));
            // Nothing is added to an old one.
            let is_newest = Some(since_ms) == newest;
            let capacity = if is_newest { limits.next_capacity(count).max(count) } else { count };
            let filter = Arc::new(Filter::incomplete(capacity, FILTER_BITS));
            Generation { since_ms, tables, count, capacity, filter }
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

    /// Writes entries as one table into the generation of this time.
    pub(super) fn write(&self, now_ms: u64, entries: &Buckets) -> fjall::Result<()> {
        let _alone = self.changing.lock();
        let count = entries.len();
        let (tables, filter) = self.current(now_ms, count)?;
        tables.write(entries)?;
        filter.insert(entries.identities());
        if let Some(newest) = self.list.write().last_mut() {
            newest.count += count;
        }
        Ok(())
    }

    /// The generation to write so many into at this time. A clock that was set back stays in the
    /// newest.
    fn current(&self, now_ms: u64, more: u64) -> fjall::Result<(Arc<Tables>, Arc<Filter>)> {
        if let Some(newest) = self.list.read().last() {
            let full = newest.count > 0 && newest.count.saturating_add(more) > newest.capacity;
            if !full && now_ms < newest.since_ms.saturating_add(self.limits.span_ms()) {
                return Ok((Arc::clone(&newest.tables), Arc::clone(&newest.filter)));
            }
        }
        self.begin(now_ms, more)
    }

    /// Begins a generation for at least so many.
    fn begin(&self, now_ms: u64, more: u64) -> fjall::Result<(Arc<Tables>, Arc<Filter>)> {
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
        let keyspace = db.keyspace(&format!("{PREFIX}{since_ms}"), options)?;
        let tables = Arc::new(Tables::open(keyspace)?);
        let capacity = self.limits.next_capacity(before).max(more);
        let filter = Arc::new(Filter::new(capacity, FILTER_BITS));
        let place = (Arc::clone(&tables), Arc::clone(&filter));
        self.list.write().push(Generation { since_ms, tables, count: 0, capacity, filter });
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
                db.delete_keyspace(oldest.tables.keyspace().clone())?;
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
                if let Err(error) = generation.tables.fill(&generation.filter, &stopped) {
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

fn options() -> KeyspaceCreateOptions {
    // Hashes do not compress. A key is asked for only where the filters say that it should be, so the
    // store's own would tell nothing; and nothing is gained by merging what lies side by side.
    let merge_late = Leveled::default().with_l0_threshold(u8::MAX);
    KeyspaceCreateOptions::default()
        .data_block_compression_policy(CompressionPolicy::disabled())
        .filter_policy(FilterPolicy::disabled())
        .compaction_strategy(Arc::new(merge_late))
}
