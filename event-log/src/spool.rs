//! The spool: records that Kafka cannot take now, durable on this machine until it can.
//!
//! In: records that [`GuardedLog`](crate::intake::GuardedLog) could not put into Kafka, or that must follow such records.
//! Out: the same records in Kafka, in order within a partition, each at least once.
//!
//! The spool is a row of embedded logs, its segments, in `<path>/<number>`. New records go to the
//! newest; the oldest is forwarded, and when Kafka has acknowledged all of it its folder is
//! deleted, so that room comes back at once and whatever else the disk holds. A segment whose disk
//! is full takes no more, but what it acknowledged is still read and forwarded.
//!
//! Always true: `Ok` means fsynced; a segment is deleted only after Kafka acknowledged every record
//! of it; a partition is [held](Segments::holds) until then. How far the forwarding is stands in the
//! segment without an fsync of its own: after a crash the last records may be forwarded again, and
//! the processors drop them. Records in the spool are bounded in bytes, memory is bounded by one
//! segment being filled and one being forwarded.
//! Not here: when to spool ([`crate::intake`]); which clock it is (the age of the oldest record is
//! shown by the wall clock, nothing is decided by it).

mod belongs;
mod forward;
mod segments;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chalkstream_schemas::PartitionId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use self::segments::{Claim, LetGo, Segments};
use crate::breaker::Breaker;
use crate::error::chain;
use crate::{AppendError, Error, EventLog, NewRecord, Topic};

/// After a write that failed, so long nothing is written: most likely the disk is full.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// With so little left new records wait for their partition instead of following through the spool:
/// under steady load it would never be empty otherwise.
const HAND_OVER_BYTES: u64 = 8 << 20;

/// How a spool is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolOptions {
    /// Its folder, created if there is none.
    pub path: PathBuf,
    /// Bytes of records that may wait in it; above it appends are [`AppendError::Busy`].
    pub max_bytes: u64,
    /// Bytes of records after which a new segment begins.
    pub segment_bytes: u64,
}

impl SpoolOptions {
    /// The defaults, for a folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 1 << 30, segment_bytes: 64 << 20 }
    }

    fn check(&self) -> Result<(), Error> {
        if self.max_bytes < self.segment_bytes {
            let reason = format!("must be at least {} MiB", self.segment_bytes >> 20);
            return Err(Error::Option { key: "log.spool.max_bytes".into(), reason });
        }
        Ok(())
    }
}

/// How a spool is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpoolStatus {
    /// Records that Kafka has not acknowledged yet.
    pub records: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many bytes there may be.
    pub max_bytes: u64,
    /// How long ago the oldest of them was received, by the wall clock.
    pub oldest_age: Option<Duration>,
    /// Records spooled since the start.
    pub spooled: u64,
    /// Records forwarded since the start.
    pub forwarded: u64,
    /// Records that were not taken since the start: no room, or a disk that failed.
    pub refused: u64,
    /// Why it takes nothing now, if a write failed.
    pub shut: Option<Arc<str>>,
    /// Why nothing is forwarded now, if Kafka refused something.
    pub stuck: Option<Arc<str>>,
}

/// The spool of one process; see the [module](self).
#[derive(Debug)]
pub struct Spool {
    options: SpoolOptions,
    partitions: u32,
    target: Arc<dyn EventLog>,
    breaker: Breaker,
    segments: Mutex<Segments>,
    /// Held while a segment is made, so that only one is.
    making: tokio::sync::Mutex<()>,
    /// Something was spooled.
    filled: Notify,
    /// Records left it.
    shrunk: watch::Sender<u64>,
    /// Why nothing is written now, and until when.
    paused: Mutex<Option<(Instant, Arc<str>)>>,
    /// Why nothing is forwarded now.
    stuck: Mutex<Option<Arc<str>>>,
    forwarder: Mutex<Option<JoinHandle<()>>>,
    closing: watch::Sender<bool>,
    /// Held for as long as the folder is ours.
    _lock: std::fs::File,
}

impl Spool {
    /// Opens the spool of a folder and begins to forward what is in it to `target`.
    pub(crate) async fn open(
        options: SpoolOptions,
        target: Arc<dyn EventLog>,
        breaker: Breaker,
    ) -> Result<Arc<Self>, Error> {
        options.check()?;
        let partitions = Topic::ALL.map(|topic| target.partitions(topic)).into_iter().max();
        let partitions = partitions.unwrap_or(1).max(1);
        let (path, identity) = (options.path.clone(), target.identity().clone());
        let opening = tokio::task::spawn_blocking(move || {
            let lock = belongs::take_folder(&path)?;
            let found = segments::numbers(&path)?;
            belongs::check(&path, &identity, !found.is_empty())?;
            Ok::<_, Error>((lock, found))
        });
        let opened = opening.await.map_err(|_panicked| Error::Internal { what: "the spool" })?;
        let (lock, found) = opened?;
        let segments = Segments::recover(&options, partitions, found).await?;
        let spool = Arc::new(Self {
            options,
            partitions,
            target,
            breaker,
            segments: Mutex::new(segments),
            making: tokio::sync::Mutex::default(),
            filled: Notify::new(),
            shrunk: watch::Sender::new(0),
            paused: Mutex::default(),
            stuck: Mutex::default(),
            forwarder: Mutex::default(),
            closing: watch::Sender::new(false),
            _lock: lock,
        });
        let forwarder = tokio::spawn(forward::run(Arc::clone(&spool)));
        *spool.forwarder.lock() = Some(forwarder);
        Ok(spool)
    }

    /// Which partitions of the records it [holds](Segments::holds): records wait in it, or are on
    /// their way into it. `None` if nothing waits at all.
    pub(crate) fn follows(
        &self,
        topic: Topic,
        records: &[NewRecord],
    ) -> Option<BTreeSet<PartitionId>> {
        let segments = self.segments.lock();
        if segments.is_idle() {
            return None;
        }
        let partitions: BTreeSet<_> = records.iter().map(|record| record.partition).collect();
        Some(partitions.into_iter().filter(|of| segments.holds(topic, *of)).collect())
    }

    /// Whether it is so near its end that the partitions of the records are worth waiting for.
    pub(crate) fn hands_over(&self, topic: Topic, records: &[NewRecord]) -> bool {
        let nearly_empty = self.segments.lock().bytes() <= HAND_OVER_BYTES;
        nearly_empty && self.follows(topic, records).is_some_and(|follows| !follows.is_empty())
    }

    /// Waits until none of the records' partitions waits here any more.
    pub(crate) async fn until_clear(&self, topic: Topic, records: &[NewRecord]) {
        let mut shrunk = self.shrunk.subscribe();
        while self.follows(topic, records).is_some_and(|follows| !follows.is_empty()) {
            // The sender lives as long as `self`.
            if shrunk.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes the records durable here; one outcome per record in the order given. What was begun
    /// is finished, also when nobody waits for it any more.
    pub(crate) async fn append(
        self: &Arc<Self>,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<(), AppendError>> {
        let count = records.len();
        if count == 0 {
            return Vec::new();
        }
        let spool = Arc::clone(self);
        let appended = tokio::spawn(async move { spool.append_to_end(topic, records).await }).await;
        appended.unwrap_or_else(|_panicked| {
            let reason = "the spool failed".into();
            vec![Err(AppendError::Unacknowledged { reason }); count]
        })
    }

    async fn append_to_end(
        self: Arc<Self>,
        topic: Topic,
        mut records: Vec<NewRecord>,
    ) -> Vec<Result<(), AppendError>> {
        let count = records.len();
        for record in &mut records {
            // Who asks for duplicates has an index of its own, which outlives the segment.
            record.identity = None;
        }
        let claim = match self.claim(topic, &records).await {
            Ok(claim) => claim,
            Err(error) => {
                self.segments.lock().count_refused(count);
                return vec![Err(error); count];
            }
        };
        let outcomes = EventLog::append(&*claim.log, topic, records).await;
        let failed = outcomes.iter().find_map(|outcome| match outcome {
            Err(AppendError::Stopped { reason } | AppendError::Unacknowledged { reason }) => {
                Some(Arc::clone(reason))
            }
            _ => None,
        });
        if let Some(reason) = &failed {
            tracing::error!(%reason, "the spool could not be written; its segment takes no more");
            *self.paused.lock() = Some((Instant::now() + PAUSE_AFTER_FAILURE, Arc::clone(reason)));
        }
        let LetGo { log, remove } = self.segments.lock().settle(claim, &outcomes, failed.is_some());
        segments::close_aside(log);
        self.shrunk.send_modify(|times| *times += 1);
        if let Some(number) = remove {
            // Nothing in it was acknowledged.
            self.remove_unused(number).await;
        }
        self.filled.notify_one();
        outcomes.into_iter().map(|outcome| outcome.map(|_offset| ())).collect()
    }

    async fn remove_unused(&self, number: u64) {
        let folder = self.options.path.join(number.to_string());
        if let Err(error) = segments::remove(folder).await {
            tracing::warn!(%error, "an unused segment of the spool was left behind");
        }
    }

    /// Room for the records in the newest segment, which is made if there is none.
    async fn claim(&self, topic: Topic, records: &[NewRecord]) -> Result<Claim, AppendError> {
        loop {
            self.check_open()?;
            if let Some(claim) = self.try_claim(topic, records)? {
                return Ok(claim);
            }
            let _alone = self.making.lock().await;
            if let Some(claim) = self.try_claim(topic, records)? {
                return Ok(claim);
            }
            let number = self.segments.lock().next_number();
            match segments::make(&self.options, self.partitions, number).await {
                Ok(log) => {
                    let sealed = self.segments.lock().begin(number, log);
                    segments::close_aside(sealed);
                }
                Err(error) => {
                    let reason: Arc<str> = chain(&error).as_str().into();
                    tracing::error!(%reason, "no segment of the spool could be made");
                    let until = Instant::now() + PAUSE_AFTER_FAILURE;
                    *self.paused.lock() = Some((until, Arc::clone(&reason)));
                    return Err(AppendError::Unavailable { reason });
                }
            }
        }
    }

    fn try_claim(&self, topic: Topic, records: &[NewRecord]) -> Result<Option<Claim>, AppendError> {
        self.segments.lock().claim(topic, records, &self.options)
    }

    fn check_open(&self) -> Result<(), AppendError> {
        if *self.closing.borrow() {
            return Err(AppendError::Stopped { reason: "the spool is being closed".into() });
        }
        let paused = self.paused.lock().clone();
        match paused {
            Some((until, reason)) if Instant::now() < until => {
                Err(AppendError::Unavailable { reason })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// How it is doing.
    pub(crate) fn status(&self) -> SpoolStatus {
        let mut status = self.segments.lock().status();
        status.max_bytes = self.options.max_bytes;
        status.oldest_age = status.oldest_age.filter(|_| status.records > 0);
        status.shut = self.paused.lock().as_ref().map(|(_, reason)| Arc::clone(reason));
        status.stuck.clone_from(&self.stuck.lock());
        status
    }

    /// Takes no more, ends forwarding, and lets go of the folder. What waits stays for later.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        self.closing.send_replace(true);
        let forwarder = self.forwarder.lock().take();
        if let Some(forwarder) = forwarder {
            forwarder
                .await
                .map_err(|_panicked| Error::Internal { what: "the spool's forwarder" })?;
        }
        let open = self.segments.lock().let_go();
        for log in open {
            // One whose write failed says so again; what it acknowledged is there all the same.
            if let Err(error) = log.close().await {
                tracing::warn!(%error, "a segment of the spool was not closed cleanly");
            }
        }
        Ok(())
    }
}

/// How long ago that was, by the wall clock.
fn age(oldest_ms: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(u64::try_from(oldest_ms).unwrap_or(0)))
}

#[cfg(test)]
mod tests;
