//! Which event came first: the index that makes duplicates visible to processors and archiver.
//!
//! In: what stands in a partition of the log, range by range. Out: one [`Verdict`] an event.
//! Always true: an event is a duplicate only if the same identity stands at a **smaller** offset of
//! its partition, not longer ago (by log timestamps) than the horizon. So an index that ran ahead of
//! a checkpoint cannot lose an event, and observing a range twice gives the same verdicts.
//! Always true: a verdict is given only where the index is contiguous up to the range asked about
//! ([`Error::Gap`] otherwise; [`FirstSeen::catch_up`] closes the gap from the log, or, below the
//! log's first record, from the `events` that were written).
//! The index may be lost at any time: the folder is deleted and filled again. Its writes are not
//! fsynced: data and the offset through which it is contiguous go in one atomic batch, so a power
//! cut leaves an index that lags, never one with a hole.
//! Not here: what clients are answered (`ingest` asks the log's own index).

mod catch_up;
mod partition;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chalkstream_event_log::LogIdentity;
use chalkstream_schemas::{
    ContentHash, Epoch, EventIdentity, LearningEvent, LogOffset, PartitionId, Timestamp,
};
use fjall::compaction::filter::{
    CompactionFilter, Context, Factory, ItemAccessor, Verdict as Keep,
};
use fjall::{Keyspace, KeyspaceCreateOptions};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

pub use catch_up::{History, NoHistory};

use crate::fingerprint::Fingerprint;
use partition::PartitionIndex;

/// The version of what stands on disk; another one is thrown away and filled again.
const FORMAT: u32 = 1;
const MARKERS: &str = "markers";
const META: &str = "meta";
const IDENTITY_KEY: &str = "identity";

/// How long ago a duplicate is still recognised, when nothing else is configured.
pub const DEFAULT_HORIZON: Duration = Duration::from_secs(31 * 24 * 3600);

/// Why the index cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The index was asked about records beyond what it has seen without a gap.
    #[error(
        "the first-seen index of {partition} is contiguous up to {contiguous:?}, but was asked about {from}"
    )]
    Gap {
        /// Of this partition.
        partition: PartitionId,
        /// Contiguous up to here; `None` where it holds nothing yet.
        contiguous: Option<LogOffset>,
        /// The first offset of the range asked about.
        from: LogOffset,
    },
    /// Another process has the folder open.
    #[error("the first-seen index at {} is in use by another process", path.display())]
    Locked {
        /// The index's folder.
        path: PathBuf,
    },
    /// The store failed, for example because the disk is full.
    #[error("could not {doing} the first-seen index at {}", path.display())]
    Store {
        /// `open`, `read`, `write`.
        doing: &'static str,
        /// The index's folder.
        path: PathBuf,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The horizon would forget ids that the log still delivers.
    #[error(
        "the dedup horizon of {horizon_seconds} s is shorter than the log's retention of {retention_seconds} s"
    )]
    HorizonTooShort {
        /// As configured.
        horizon_seconds: u64,
        /// Of the log.
        retention_seconds: u64,
    },
    /// The log could not be read to close a gap.
    #[error("could not read {partition} of the log to fill the first-seen index")]
    Log {
        /// Of this partition.
        partition: PartitionId,
        /// What failed.
        source: Box<chalkstream_event_log::Error>,
    },
    /// The table of events could not be read to close a gap.
    #[error("could not read older events of {partition} to fill the first-seen index")]
    History {
        /// Of this partition.
        partition: PartitionId,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Gap { .. } => "restart the process; the index is then filled from the log",
            Self::Locked { .. } => "stop the other process, or give this one another data folder",
            Self::Store { .. } => {
                "check free disk space and permissions; the folder may be deleted, it is filled again from the log"
            }
            Self::HorizonTooShort { .. } => {
                "raise the horizon to at least the log's retention: a resent event could otherwise count twice"
            }
            Self::Log { .. } => "check that the event log is reachable",
            Self::History { .. } => "check that ClickHouse (or the lake) is reachable",
        }
    }
}

/// An event of the log, as the index sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// School, user and id.
    pub identity: EventIdentity,
    /// What it says.
    pub content_hash: ContentHash,
    /// Where it stands.
    pub offset: LogOffset,
    /// The log's timestamp of the record.
    pub timestamp: Timestamp,
}

impl Seen {
    /// The event of the record at `offset`, which the log stamped with `timestamp`.
    pub fn new(offset: LogOffset, timestamp: Timestamp, event: &LearningEvent) -> Self {
        Self { identity: event.identity(), content_hash: event.content_hash, offset, timestamp }
    }
}

/// A range of a partition's log without a gap: every event in `from..through`.
///
/// Control records and records that do not decode are part of the range without being events.
#[derive(Clone, Debug)]
pub struct SeenRange {
    /// The first offset of the range.
    pub from: LogOffset,
    /// The offset after its last.
    pub through: LogOffset,
    /// Of the last record of the range, where it is known.
    pub fingerprint: Option<Fingerprint>,
    /// Its events, in log order.
    pub events: Vec<Seen>,
}

/// What is known of an event's identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// No smaller offset within the horizon holds it: the event counts.
    First,
    /// It stands at a smaller offset already.
    Duplicate {
        /// Where it stands.
        of: LogOffset,
        /// Whether it says the same there; if not, it is an `id_conflict`.
        same_content: bool,
    },
}

/// How to open the index.
#[derive(Clone, Debug)]
pub struct FirstSeenOptions {
    /// Its folder.
    pub path: PathBuf,
    /// How long ago, between log timestamps, a duplicate is still one.
    pub horizon: Duration,
    /// The epoch it belongs to.
    pub epoch: Epoch,
    /// The log's retention, if it has one; the horizon must not be shorter.
    pub log_retention: Option<Duration>,
}

impl FirstSeenOptions {
    /// The index in this folder, with the default horizon.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            horizon: DEFAULT_HORIZON,
            epoch: crate::epoch::FIRST,
            log_retention: None,
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Belongs {
    format: u32,
    epoch: u32,
    cluster_id: String,
    partitions: u32,
    partitioner: String,
}

/// The index of one process. Processor and archiver of a process share it.
pub struct FirstSeen {
    path: PathBuf,
    horizon_ms: i64,
    db: fjall::Database,
    markers: Keyspace,
    partitions: Vec<Mutex<PartitionIndex>>,
    /// One filling at a time in each partition.
    fills: Vec<tokio::sync::Mutex<()>>,
    /// Log timestamps that each consumer has passed in each partition.
    passed: Mutex<BTreeMap<(&'static str, PartitionId), Timestamp>>,
    /// Entries whose newest timestamp (ms) is below this are dropped when the store compacts.
    forget_before: Arc<AtomicI64>,
}

impl std::fmt::Debug for FirstSeen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FirstSeen")
            .field("path", &self.path)
            .field("horizon_ms", &self.horizon_ms)
            .field("partitions", &self.partitions.len())
            .finish_non_exhaustive()
    }
}

impl FirstSeen {
    /// Opens the index for this log. One that belongs to another log or epoch, or that is damaged,
    /// is deleted and begins empty. Blocking.
    pub fn open(options: &FirstSeenOptions, log: &LogIdentity) -> Result<Arc<Self>, Error> {
        if let Some(retention) = options.log_retention
            && options.horizon < retention
        {
            return Err(Error::HorizonTooShort {
                horizon_seconds: options.horizon.as_secs(),
                retention_seconds: retention.as_secs(),
            });
        }
        let belongs = Belongs {
            format: FORMAT,
            epoch: options.epoch.get(),
            cluster_id: log.cluster_id.clone(),
            partitions: log.partitions,
            partitioner: log.partitioner.to_owned(),
        };
        match Self::open_existing(options, &belongs) {
            Ok(Some(index)) => return Ok(Arc::new(index)),
            Ok(None) => {
                tracing::info!(path = %options.path.display(), "the first-seen index belongs to another log or epoch; filling a new one");
            }
            Err(locked @ Error::Locked { .. }) => return Err(locked),
            Err(error) => {
                tracing::warn!(path = %options.path.display(), error = &error as &dyn std::error::Error, "the first-seen index is damaged; filling a new one");
            }
        }
        let store = |doing| {
            let path = options.path.clone();
            move |source: std::io::Error| Error::Store { doing, path, source: Box::new(source) }
        };
        match std::fs::remove_dir_all(&options.path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(store("delete")(error)),
        }
        Self::open_existing(options, &belongs)?.map(Arc::new).ok_or_else(|| {
            store("open")(std::io::Error::other("it belongs to another log even when new"))
        })
    }

    /// `None` where the folder belongs to another log, epoch or format.
    fn open_existing(options: &FirstSeenOptions, belongs: &Belongs) -> Result<Option<Self>, Error> {
        let path = &options.path;
        let failed = |source: fjall::Error| store_error(path, "open", source);
        let forget_before = Arc::new(AtomicI64::new(i64::MIN));
        let forget = Arc::clone(&forget_before);
        let db = fjall::Database::builder(path)
            .cache_size(64 * 1024 * 1024)
            .with_compaction_filter_factories(Arc::new(move |keyspace| {
                keyspace.starts_with(partition::KEYSPACE_PREFIX).then(|| {
                    Arc::new(ForgetFactory { before: Arc::clone(&forget) }) as Arc<dyn Factory>
                })
            }))
            .open()
            .map_err(failed)?;
        let meta = db.keyspace(META, KeyspaceCreateOptions::default).map_err(failed)?;
        match meta.get(IDENTITY_KEY).map_err(failed)? {
            Some(bytes) => {
                if serde_json::from_slice::<Belongs>(&bytes).ok().as_ref() != Some(belongs) {
                    return Ok(None);
                }
            }
            None => {
                let bytes = serde_json::to_vec(belongs).map_err(|error| Error::Store {
                    doing: "describe",
                    path: path.clone(),
                    source: Box::new(error),
                })?;
                meta.insert(IDENTITY_KEY, bytes).map_err(failed)?;
            }
        }
        let markers = db.keyspace(MARKERS, KeyspaceCreateOptions::default).map_err(failed)?;
        let partitions = (0..belongs.partitions)
            .map(|id| PartitionIndex::open(&db, &markers, PartitionId::new(id)).map(Mutex::new))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        Ok(Some(Self {
            path: path.clone(),
            horizon_ms: i64::try_from(options.horizon.as_millis()).unwrap_or(i64::MAX),
            db,
            markers,
            fills: partitions.iter().map(|_| tokio::sync::Mutex::new(())).collect(),
            partitions,
            passed: Mutex::new(BTreeMap::new()),
            forget_before,
        }))
    }

    /// The folder on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn partition(&self, partition: PartitionId) -> Result<&Mutex<PartitionIndex>, Error> {
        self.partitions.get(partition.get() as usize).ok_or_else(|| Error::Store {
            doing: "find the partition in",
            path: self.path.clone(),
            source: format!("{partition} of {}", self.partitions.len()).into(),
        })
    }

    /// The offset up to which every event of the partition is known.
    pub fn contiguous(&self, partition: PartitionId) -> Result<Option<LogOffset>, Error> {
        Ok(self.partition(partition)?.lock().contiguous())
    }

    /// One verdict for each event of the range, in order, and remembers the range. Blocking, but
    /// short: about a microsecond an event.
    pub fn observe(
        &self,
        partition: PartitionId,
        range: &SeenRange,
    ) -> Result<Vec<Verdict>, Error> {
        let mut index = self.partition(partition)?.lock();
        let contiguous = index.contiguous();
        if contiguous.is_none_or(|through| through < range.from) {
            return Err(Error::Gap { partition, contiguous, from: range.from });
        }
        index
            .observe(&self.db, &self.markers, range, self.horizon_ms)
            .map_err(|source| store_error(&self.path, "use", source))
    }

    /// Hands what is in memory to the store. What is not handed over is filled again after a crash.
    /// Blocking.
    pub fn persist(&self) -> Result<(), Error> {
        for partition in &self.partitions {
            partition
                .lock()
                .persist(&self.db, &self.markers)
                .map_err(|source| store_error(&self.path, "write", source))?;
        }
        Ok(())
    }

    /// Tells that `consumer` will never again ask about records stamped before `at`. What is older
    /// than the horizon for every consumer is forgotten in the background.
    pub fn passed(&self, consumer: &'static str, partition: PartitionId, at: Timestamp) {
        let mut passed = self.passed.lock();
        passed.insert((consumer, partition), at);
        if let Some(slowest) = passed.values().min() {
            self.forget_before
                .store(slowest.as_ms().saturating_sub(self.horizon_ms), Ordering::Relaxed);
        }
    }

    /// Forgets one partition, because the log there is not the one it was filled from. Blocking.
    fn clear(&self, partition: PartitionId) -> Result<(), Error> {
        self.partition(partition)?
            .lock()
            .clear(&self.markers)
            .map_err(|source| store_error(&self.path, "clear", source))
    }
}

fn store_error(path: &Path, doing: &'static str, source: fjall::Error) -> Error {
    match source {
        fjall::Error::Locked => Error::Locked { path: path.to_owned() },
        other => Error::Store { doing, path: path.to_owned(), source: Box::new(other) },
    }
}

struct ForgetFactory {
    before: Arc<AtomicI64>,
}

impl Factory for ForgetFactory {
    fn name(&self) -> &str {
        "forget-beyond-horizon"
    }

    fn make_filter(&self, _context: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Forget { before_ms: self.before.load(Ordering::Relaxed) })
    }
}

struct Forget {
    before_ms: i64,
}

impl CompactionFilter for Forget {
    fn filter_item(
        &mut self,
        item: ItemAccessor<'_>,
        _context: &Context,
    ) -> fjall::compaction::filter::CompactionFilterResult {
        let old =
            partition::newest_ms(&item.value()?).is_some_and(|newest| newest < self.before_ms);
        Ok(if old { Keep::Remove } else { Keep::Keep })
    }
}
