//! The processor: one process's share of the log's partitions, folded into ClickHouse.
//!
//! In: a log, a database, the first-seen index, blobs. Out: views that follow the log within
//! `flush_interval`, checkpoints every `checkpoint_interval`, and a [`ProcessorHandle`] that tells
//! positions, stops and lag.
//! Always true: of three stages at most one is under way for each batch: folding the next one, and
//! writing the one before. While both are full the log is not polled.

mod driver;
mod waits;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{EventLog, Topic};
use chalkstream_schemas::{Epoch, LogOffset, PartitionId};
use chalkstream_sql::Database;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::first_seen::{FirstSeen, History};
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::tables::Tables;
use crate::tables::clickhouse::ClickHouseTables;

/// The consumer group of processors that fold the active epoch.
pub const GROUP: &str = "chalkstream-processor";

/// How often and how much.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessorTuning {
    /// Rows wait at most so long before they are written.
    pub flush_interval: Duration,
    /// Rows are written earlier when so many bytes wait.
    pub flush_bytes: usize,
    /// States are kept so often at most; under load less often.
    pub checkpoint_interval: Duration,
    /// How long a shutdown, or the loss of a partition, may take to write what was folded.
    pub settle_deadline: Duration,
}

impl Default for ProcessorTuning {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(200),
            flush_bytes: 32 * 1024 * 1024,
            checkpoint_interval: Duration::from_secs(5),
            settle_deadline: Duration::from_secs(30),
        }
    }
}

/// What a processor needs.
#[derive(Clone, Debug)]
pub struct ProcessorOptions {
    /// Where events come from.
    pub log: Arc<dyn EventLog>,
    /// Where rows go.
    pub tables: Arc<dyn Tables>,
    /// Where the first-seen index finds events that the log no longer has.
    pub history: Arc<dyn History>,
    /// The index of this process, shared with the archiver.
    pub index: Arc<FirstSeen>,
    /// Payloads of control records.
    pub blobs: BlobStore,
    /// The consumer group.
    pub group: String,
    /// The epoch to fold.
    pub epoch: Epoch,
    /// How often and how much.
    pub tuning: ProcessorTuning,
}

impl ProcessorOptions {
    /// The usual ones: the first epoch, its group, defaults, `database` for rows and history.
    pub fn new(
        log: Arc<dyn EventLog>,
        database: Database,
        index: Arc<FirstSeen>,
        blobs: BlobStore,
    ) -> Self {
        let tables = Arc::new(ClickHouseTables::new(database));
        Self {
            log,
            history: Arc::clone(&tables) as Arc<dyn History>,
            tables,
            index,
            blobs,
            group: GROUP.to_owned(),
            epoch: crate::epoch::FIRST,
            tuning: ProcessorTuning::default(),
        }
    }
}

/// Why a processor, or what was asked of it, failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The log refuses, and waiting does not help.
    #[error("could not {doing} the event log")]
    Log {
        /// `subscribe to`, `read`.
        doing: &'static str,
        /// What failed.
        source: Box<chalkstream_event_log::Error>,
    },
    /// The processor ended, or a partition is stopped.
    #[error("the processor cannot go on: {reason}")]
    Stopped {
        /// Why, with what to do.
        reason: String,
    },
    /// The processor was shut down.
    #[error("the processor has been shut down")]
    ShutDown,
    /// A part of it ended by a bug.
    #[error("a part of the processor ended unexpectedly: {what}")]
    Internal {
        /// Which part.
        what: String,
    },
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Log { source, .. } => source.hint(),
            Self::Stopped { .. } | Self::ShutDown => None,
            Self::Internal { .. } => {
                Some("restart the process: it goes on from the last checkpoint".to_owned())
            }
        }
    }
}

/// Starts processors.
#[derive(Debug)]
pub struct Processor;

impl Processor {
    /// Joins the group and folds until [`ProcessorHandle::shutdown`]. Trouble that waiting cures is
    /// waited for; other trouble shows in [`ProcessorHandle::progress`].
    pub async fn start(options: ProcessorOptions) -> Result<ProcessorHandle, Error> {
        let subscription = options
            .log
            .subscribe(Topic::Events, &options.group)
            .await
            .map_err(|source| Error::Log { doing: "subscribe to", source: Box::new(source) })?;
        let metrics = Metrics::default();
        let (progress, watched) = watch::channel(Progress::default());
        let stop = CancellationToken::new();
        let log = Arc::clone(&options.log);
        let driver =
            driver::Driver::new(options, subscription, metrics.clone(), progress, stop.clone());
        let task = tokio::spawn(driver.run());
        Ok(ProcessorHandle { log, metrics, progress: watched, stop, task })
    }
}

/// A running processor.
#[derive(Debug)]
pub struct ProcessorHandle {
    log: Arc<dyn EventLog>,
    metrics: Metrics,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl ProcessorHandle {
    /// Where it stands now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Changes whenever progress does.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Its counters.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Adds its metrics to a registry.
    pub fn register_metrics(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Whether it is able to fold: not ended, and no partition stopped. The text says what to do.
    pub fn health(&self) -> Result<(), String> {
        let stop = self.progress.borrow().first_stop();
        match stop {
            Some(reason) => Err(reason),
            None if self.task.is_finished() => Err("the processor has ended".to_owned()),
            None => Ok(()),
        }
    }

    /// The end of each partition of the log now.
    pub async fn log_ends(&self) -> Result<BTreeMap<PartitionId, LogOffset>, Error> {
        log_ends(&*self.log).await
    }

    /// How many records of the log the views do not show yet, over this process's partitions.
    pub async fn lag(&self) -> Result<u64, Error> {
        let ends = self.log_ends().await?;
        let progress = self.progress.borrow();
        Ok(ends
            .into_iter()
            .filter_map(|(partition, end)| {
                let visible = progress.visible_of(partition)?;
                Some(end.get().saturating_sub(visible.get()))
            })
            .sum())
    }

    /// Waits until the views show everything before these offsets. Ends with an error when that
    /// can no longer happen.
    pub async fn wait_until_visible(
        &self,
        positions: &BTreeMap<PartitionId, LogOffset>,
    ) -> Result<(), Error> {
        let mut progress = self.progress.clone();
        loop {
            {
                let now = progress.borrow_and_update();
                if now.is_visible(positions) {
                    return Ok(());
                }
                if let Some(reason) = now.first_stop() {
                    return Err(Error::Stopped { reason });
                }
            }
            progress.changed().await.map_err(|_ended| Error::ShutDown)?;
        }
    }

    /// Waits until the views show everything that the log holds now.
    pub async fn wait_until_caught_up(&self) -> Result<(), Error> {
        let ends = self.log_ends().await?;
        self.wait_until_visible(&ends).await
    }

    /// Writes what was folded, with a checkpoint, within the deadline, and ends.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.stop.cancel();
        match self.task.await {
            Ok(ended) => ended,
            Err(stopped) => Err(Error::Internal { what: stopped.to_string() }),
        }
    }
}

/// The end of each partition of the events now.
pub async fn log_ends(log: &dyn EventLog) -> Result<BTreeMap<PartitionId, LogOffset>, Error> {
    let mut ends = BTreeMap::new();
    for partition in (0..log.partitions(Topic::Events)).map(PartitionId::new) {
        let bounds = log
            .bounds(Topic::Events, partition)
            .await
            .map_err(|source| Error::Log { doing: "ask", source: Box::new(source) })?;
        ends.insert(partition, bounds.end);
    }
    Ok(ends)
}
