//! The embedded log: durable batches in one folder, for one process, with nothing to install.
//!
//! In: appends and readers of this process. Out: the [`EventLog`] of one machine.
//! Always true: what was acknowledged was fsynced together with its index entries; a folder opens
//! with everything that was acknowledged, or not at all. Offsets begin at 0 and have no gaps.
//! Not here: the data folder's own lock and its other parts (the binary).

mod batch;
mod bounds;
mod committer;
mod marker;
mod reader;
mod store;
mod subscription;
#[cfg(test)]
mod tests;
mod trim;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_schemas::{ContentHash, EventIdentity, LogOffset, PartitionId, Timestamp};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::bounds::AllBounds;
use self::committer::{Committer, Queue};
use self::reader::{Span, Until};
use self::store::{SharedStore, Store, StoreOptions};
use self::subscription::EmbeddedSubscription;
use self::trim::Upkeep;
use crate::{
    AppendError, DEFAULT_PARTITIONS, Error, EventLog, LogBounds, LogIdentity, NewRecord, SeenIndex,
    StoredRecord, Subscription, Topic,
};

/// How an embedded log is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// Its folder, created if there is none.
    pub path: PathBuf,
    /// Partitions of a new log; one that exists keeps its own.
    pub partitions: u32,
    /// Bytes that may wait to be written; above it appends are [`AppendError::Busy`].
    pub queue_bytes: usize,
    /// The largest record, key and payload together.
    pub record_max_bytes: usize,
    /// Memory for blocks that were read.
    pub cache_bytes: u64,
    /// How long events stay at least, and with them the index of seen ones; `None` is for ever.
    pub events_retention: Option<Duration>,
    /// How long rejected events stay at least; `None` is for ever.
    pub rejected_retention: Option<Duration>,
}

impl EmbeddedOptions {
    /// The defaults, for a folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self {
            path: path.into(),
            partitions: DEFAULT_PARTITIONS,
            queue_bytes: 64 << 20,
            record_max_bytes: 4 << 20,
            cache_bytes: 64 << 20,
            events_retention: Some(DAY * 30),
            rejected_retention: Some(DAY * 14),
        }
    }

    fn check(&self) -> Result<(), Error> {
        let option =
            |key: &str, reason: &str| Err(Error::Option { key: key.into(), reason: reason.into() });
        if !(1..=4096).contains(&self.partitions) {
            return option("log.partitions", "must be 1 to 4096");
        }
        if !(1..=1 << 30).contains(&self.record_max_bytes) {
            return option("log.record_max_bytes", "must be 1 byte to 1 GiB");
        }
        Ok(())
    }
}

/// A log in a folder of this machine; see the [module](self).
pub struct EmbeddedLog {
    shared: Arc<Shared>,
    record_max_bytes: usize,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    committer: std::thread::JoinHandle<u64>,
    upkeep: Upkeep,
}

/// What the log, its readers and its threads have in common.
pub(crate) struct Shared {
    identity: LogIdentity,
    path: PathBuf,
    bounds: Arc<AllBounds>,
    queue: Arc<Queue>,
    /// The newest commit; a reader waits for it to change.
    committed: watch::Sender<u64>,
    /// Gone once the log is closed.
    store: RwLock<Option<SharedStore>>,
}

impl Shared {
    /// Runs something that blocks, off the threads that serve requests.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let done = self.spawn(work)?.await;
        done.map_err(|_panicked| Error::Internal { what: "a read of the log" })?
    }

    /// Begins the same; it goes on when nobody waits.
    fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Error> + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Error>>, Error> {
        let store = self.store.read().clone().ok_or(Error::Closed)?;
        Ok(tokio::task::spawn_blocking(move || work(&store)))
    }

    /// An error if no commit can follow any more.
    fn check_running(&self) -> Result<(), Error> {
        if let Some(reason) = self.queue.stopped() {
            return Err(Error::Stopped { path: self.path.clone(), reason });
        }
        if self.store.read().is_none() {
            return Err(Error::Closed);
        }
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Debug for EmbeddedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedLog")
            .field("path", &self.shared.path)
            .field("identity", &self.shared.identity)
            .field("queue", &self.shared.queue)
            .finish_non_exhaustive()
    }
}

impl EmbeddedLog {
    /// Opens the log of a folder, creating it if there is none. Blocks while it recovers.
    pub fn open(options: EmbeddedOptions) -> Result<Arc<Self>, Error> {
        options.check()?;
        let opened = Store::open(&StoreOptions {
            path: options.path.clone(),
            partitions: options.partitions,
            cache_bytes: options.cache_bytes,
            // An entry lives for the horizon at least.
            index_span: options.events_retention,
        })?;
        let store = Arc::new(opened.store);
        let shared = Arc::new(Shared {
            identity: opened.identity,
            path: options.path.clone(),
            bounds: Arc::new(opened.bounds),
            queue: Arc::new(Queue::new(options.queue_bytes)),
            committed: watch::Sender::new(opened.commit),
            store: RwLock::new(Some(Arc::clone(&store))),
        });
        let committer = Committer {
            store,
            queue: Arc::clone(&shared.queue),
            bounds: Arc::clone(&shared.bounds),
            commit: opened.commit,
            committed: shared.committed.clone(),
        };
        let io = |source| Error::Io {
            doing: "start a thread for the log in",
            path: options.path.clone(),
            source,
        };
        let committer = std::thread::Builder::new()
            .name("log-commit".into())
            .spawn(move || committer.run())
            .map_err(io)?;
        let upkeep = Upkeep::start(&shared, &options).map_err(io)?;
        let threads = Mutex::new(Some(Threads { committer, upkeep }));
        Ok(Arc::new(Self { shared, record_max_bytes: options.record_max_bytes, threads }))
    }

    /// Bytes that wait to be written, or are being written.
    pub fn queued_bytes(&self) -> usize {
        self.shared.queue.bytes()
    }

    /// Why the log takes no more records, if a write failed.
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.shared.queue.stopped()
    }

    /// Forgets batches of records that are all older than `before`, and index entries so old.
    ///
    /// The newest batch of a partition stays, however old: it holds the partition's end. Returns
    /// how many records went.
    pub async fn trim(&self, topic: Topic, before: Timestamp) -> Result<u64, Error> {
        let bounds = Arc::clone(&self.shared.bounds);
        self.shared.run(move |store| trim::trim(store, &bounds, topic, before)).await
    }

    fn refuse(&self, record: &NewRecord, topic: Topic) -> Option<AppendError> {
        let bytes = record.key.len().saturating_add(record.payload.len());
        if bytes > self.record_max_bytes {
            return Some(AppendError::TooLarge { bytes, limit_bytes: self.record_max_bytes });
        }
        let partitions = self.shared.bounds.partitions();
        let partition = record.partition;
        (partition.get() >= partitions).then_some(AppendError::NoSuchPartition {
            topic,
            partition,
            partitions,
        })
    }
}

#[async_trait]
impl EventLog for EmbeddedLog {
    fn identity(&self) -> &LogIdentity {
        &self.shared.identity
    }

    fn partitions(&self, _topic: Topic) -> u32 {
        self.shared.bounds.partitions()
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        let mut outcomes: Vec<Option<Result<LogOffset, AppendError>>> =
            records.iter().map(|record| self.refuse(record, topic).map(Err)).collect();
        let mut taken = Vec::with_capacity(records.len());
        for (record, outcome) in records.into_iter().zip(&outcomes) {
            if outcome.is_none() {
                taken.push(record);
            }
        }
        let count = taken.len();
        if count == 0 {
            return outcomes.into_iter().flatten().collect();
        }
        let offsets = match self.shared.queue.push(topic, taken) {
            Ok(waiting) => waiting.await.unwrap_or_else(|_committer_gone| {
                let reason = "the thread that writes the log ended".into();
                vec![Err(AppendError::Unacknowledged { reason }); count]
            }),
            Err(error) => vec![Err(error); count],
        };
        let mut offsets = offsets.into_iter();
        for outcome in &mut outcomes {
            if outcome.is_none() {
                *outcome = offsets.next();
            }
        }
        let missing = || AppendError::Unacknowledged { reason: "it has no outcome".into() };
        outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| Err(missing()))).collect()
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error> {
        self.shared.bounds.get(topic, partition)
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        let end = self.shared.bounds.check(topic, partition, from)?.end;
        let span = Span { topic, partition, from, end };
        let bounds = Arc::clone(&self.shared.bounds);
        let until = Until::Bytes(max_bytes);
        self.shared.run(move |store| reader::read(store, &bounds, span, until)).await
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>, Error> {
        self.shared.check_running()?;
        Ok(Box::new(EmbeddedSubscription::new(Arc::clone(&self.shared), topic, group)))
    }

    async fn close(&self) -> Result<(), Error> {
        let Some(threads) = self.threads.lock().take() else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || shut_down(&shared, threads))
            .await
            .map_err(|_panicked| Error::Internal { what: "the shutdown of the log" })?
    }
}

#[async_trait]
impl SeenIndex for EmbeddedLog {
    async fn lookup(
        &self,
        identities: &[EventIdentity],
    ) -> Result<Vec<Option<ContentHash>>, Error> {
        let store = self.shared.store.read().clone().ok_or(Error::Closed)?;
        let known = store.seen.recall(identities);
        if known.unsure.is_empty() {
            return Ok(known.found);
        }
        drop(store);
        let identities = identities.to_vec();
        let complete = move |store: &Store| {
            let complete = store.seen.complete(&identities, known);
            complete.map_err(store.error("look up seen events"))
        };
        self.shared.run(complete).await
    }

    async fn commit(&self, _acknowledged: &[(EventIdentity, ContentHash)]) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for EmbeddedLog {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.lock().take()
            && let Err(error) = shut_down(&self.shared, threads)
        {
            tracing::error!(%error, "could not close the log");
        }
    }
}

/// Ends the threads and lets go of the folder. Blocks until the last append is committed.
fn shut_down(shared: &Shared, threads: Threads) -> Result<(), Error> {
    shared.queue.close();
    threads.upkeep.stop();
    let commit = threads
        .committer
        .join()
        .map_err(|_panicked| Error::Internal { what: "the thread that writes the log" })?;
    let Some(mut store) = shared.store.write().take() else { return Ok(()) };
    // Readers that wait for more learn that nothing comes.
    shared.committed.send_replace(commit);
    let settled = match shared.queue.stopped() {
        None => store.settle(commit),
        // Nothing is written after a failed write; the next start recovers.
        Some(reason) => Err(Error::Stopped { path: shared.path.clone(), reason }),
    };
    // A read that is under way ends by itself; only then is the folder free.
    for _ in 0..1_000 {
        match Arc::try_unwrap(store) {
            Ok(store) => {
                drop(store);
                return settled;
            }
            Err(busy) => store = busy,
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    settled.and(Err(Error::Internal { what: "the wait for readers of a closed log" }))
}
