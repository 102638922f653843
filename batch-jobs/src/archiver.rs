//! From the log into the lake: every event exactly once, whatever dies when.
//!
//! In: the records of [`Topic::Events`], duplicates included. Out: commits of the lake's tables
//! `control_records` and `events`, in this order, at least every `interval`.
//!
//! Exactly once, step by step. A partition's position is kept in each table by the commit that adds
//! the rows, so files and position are seen together or not at all:
//! 1. Parquet files are written. A crash leaves files that no commit names; nobody reads them.
//! 2. The range's control records are committed, if it has any. A crash here leaves `events`
//!    behind; the next pass reads the same range and leaves out the control records below the
//!    position of `control_records`.
//! 3. The events are committed with the new position. A crash after that is after everything.
//!
//! Always true: all control records before a partition's position in `events` are in
//! `control_records`, so a version of `events` names everything that a replay needs.
//! Always true: a commit that another writer overtook adds nothing; the range is read again from
//! the position that the table then has. The group's offset is a hint for lag, never a position.
//! Not here: what counts as a duplicate (`FirstSeen`), compaction, erasure.

mod history;
mod pending;
mod resume;
pub(crate) mod rows;
mod run;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{EventLog, Retry, Topic};
use chalkstream_schemas::{Epoch, LogOffset, PartitionId};
use chalkstream_stream_processors::first_seen::{self, FirstSeen};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::lake::{self, Lake, LakeTable};

pub use self::resume::Stop;

/// The archiver's group of readers.
pub const GROUP: &str = "chalkstream-archiver";
/// How often the archiver commits at least, when nothing else is configured.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// What the archiver works on.
#[derive(Clone, Debug)]
pub struct ArchiverOptions {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The lake.
    pub lake: Lake,
    /// What tells duplicates; shared with the processor of the same process.
    pub index: Arc<FirstSeen>,
    /// Where the large payloads of control records are.
    pub blobs: BlobStore,
    /// The epoch whose positions it moves.
    pub epoch: Epoch,
    /// The longest time between a record's arrival and its commit.
    pub interval: Duration,
    /// The group of readers; [`GROUP`] but in tests.
    pub group: String,
    /// A commit is due when its Parquet file has this many bytes.
    pub file_max_bytes: usize,
}

impl ArchiverOptions {
    /// The defaults for these parts.
    #[must_use]
    pub fn new(
        log: Arc<dyn EventLog>,
        lake: Lake,
        index: Arc<FirstSeen>,
        blobs: BlobStore,
    ) -> Self {
        Self {
            log,
            lake,
            index,
            blobs,
            epoch: chalkstream_stream_processors::epoch::FIRST,
            interval: DEFAULT_INTERVAL,
            group: GROUP.to_owned(),
            file_max_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Why the archiver stopped, or could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake failed.
    #[error("the archiver could not use the lake")]
    Lake(#[from] lake::Error),
    /// Rows could not be written to the lake.
    #[error("the archiver could not write a file of the lake's table {table}")]
    Write {
        /// The table.
        table: &'static str,
        /// What failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The log failed.
    #[error("the archiver could not read the log")]
    Log(#[from] chalkstream_event_log::Error),
    /// The index of duplicates failed.
    #[error("the archiver could not tell duplicates")]
    Index(#[from] first_seen::Error),
    /// Lake and log do not fit together.
    #[error(transparent)]
    Stop(#[from] Stop),
    /// A required position was not reached in time.
    #[error(
        "the lake holds {partition} up to offset {position} after {} s; {required} was required",
        waited.as_secs()
    )]
    NotReached {
        /// Of this partition.
        partition: PartitionId,
        /// Where the lake is.
        position: LogOffset,
        /// Where it should be.
        required: LogOffset,
        /// How long it was waited.
        waited: Duration,
    },
    /// The archiver has ended.
    #[error("the archiver has stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
    /// It did not end in time; what it had not committed is read again at the next start.
    #[error("the archiver did not stop within {} s", deadline.as_secs())]
    Shutdown {
        /// The time it had.
        deadline: Duration,
    },
}

impl Error {
    /// Whether the same may succeed later.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Lake(lake::Error::Table { .. })
            | Self::Write { .. }
            | Self::Index(first_seen::Error::Gap { .. })
            | Self::NotReached { .. } => Retry::Later,
            // The blob of a control record may still be on its way.
            Self::Log(chalkstream_event_log::Error::BlobMissing { .. }) => Retry::Later,
            Self::Log(error) => error.retry(),
            Self::Index(first_seen::Error::Log { source, .. }) => source.retry(),
            Self::Index(first_seen::Error::History { .. }) => Retry::Later,
            Self::Lake(_)
            | Self::Index(_)
            | Self::Stop(_)
            | Self::Stopped { .. }
            | Self::Shutdown { .. } => Retry::Never,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Lake(error) => return error.hint().map(str::to_owned),
            Self::Log(error) => return error.hint(),
            Self::Index(error) => error.hint(),
            Self::Write { .. } => "check free space and permissions of the lake",
            Self::Stop(Stop::AheadOfLog { .. }) => {
                "the log was recreated or restored from an old copy: point it at the right one, or lake.url at an empty folder"
            }
            Self::Stop(Stop::Trimmed { .. }) => {
                "records were deleted from the log before they were archived: start an empty lake at another lake.url, and run the archiver more often than the log's retention"
            }
            Self::NotReached { .. } => {
                "see `chalkstream doctor` for the archiver's lag, or use --no-wait"
            }
            Self::Stopped { .. } | Self::Shutdown { .. } => {
                "see the log of the process for the cause; starting again loses nothing"
            }
        };
        Some(hint.to_owned())
    }
}

/// How far the archiver is.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The next offset that `events` does not hold, for each partition that is this archiver's.
    pub positions: BTreeMap<PartitionId, LogOffset>,
    /// The version of `events` that has these positions, if it is known.
    pub lake_version: Option<u64>,
    /// Events committed by this process.
    pub events: u64,
    /// Duplicates left out by this process.
    pub duplicates: u64,
    /// Records that could not be read and were left out, as the processors leave them out.
    pub undecodable: u64,
    /// Bytes of log records committed by this process.
    pub log_bytes: u64,
    /// Commits to `events` by this process.
    pub commits: u64,
    /// Commits given up because another writer was faster.
    pub overtaken: u64,
    /// Why it ended, once it has.
    pub stopped: Option<String>,
}

#[derive(Debug)]
enum Command {
    /// Commit as soon as these positions are read.
    Reach(Vec<(PartitionId, LogOffset)>),
    /// Commit what is read, then answer.
    Flush(oneshot::Sender<()>),
    /// Read to the log's end until the time given, commit, and end.
    Shutdown { drain_until: Instant },
}

/// Starts archivers.
#[derive(Debug)]
pub struct Archiver;

impl Archiver {
    /// Opens or makes the tables, checks whose log they are, and starts archiving.
    pub async fn start(options: ArchiverOptions) -> Result<ArchiverHandle, Error> {
        let (log, lake, epoch) = (Arc::clone(&options.log), options.lake.clone(), options.epoch);
        let (commands, inbox) = mpsc::channel(64);
        let (progress, observed) = watch::channel(Progress::default());
        let run = run::Run::open(options, inbox, progress).await?;
        let task = tokio::spawn(run.until_stopped());
        Ok(ArchiverHandle {
            log,
            lake,
            epoch,
            commands,
            progress: observed,
            task: Mutex::new(Some(task)),
        })
    }
}

/// A running archiver.
#[derive(Debug)]
pub struct ArchiverHandle {
    log: Arc<dyn EventLog>,
    lake: Lake,
    epoch: Epoch,
    commands: mpsc::Sender<Command>,
    progress: watch::Receiver<Progress>,
    task: Mutex<Option<JoinHandle<Result<(), Error>>>>,
}

/// How often a partition that belongs to another process is looked up in the lake.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

impl ArchiverHandle {
    /// How far it is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// How far it is, and every change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// The next offset that the lake does not hold, for each partition of this archiver.
    #[must_use]
    pub fn positions(&self) -> BTreeMap<PartitionId, LogOffset> {
        self.progress.borrow().positions.clone()
    }

    /// Records of the log that the lake does not hold yet, over the partitions of this archiver.
    pub async fn lag(&self) -> Result<u64, Error> {
        let mut lag = 0;
        for (partition, position) in self.positions() {
            let bounds = self.log.bounds(Topic::Events, partition).await?;
            lag += bounds.end.get().saturating_sub(position.get());
        }
        Ok(lag)
    }

    /// Commits what has been read from the log so far.
    pub async fn flush_now(&self) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        self.send(Command::Flush(done)).await?;
        flushed.await.map_err(|_gone| self.stopped())
    }

    /// The end of every partition of the log: everything acknowledged before this call.
    pub async fn log_ends(&self) -> Result<Vec<(PartitionId, LogOffset)>, Error> {
        log_ends(self.log.as_ref()).await
    }

    /// Waits until the lake holds everything before these positions, and commits without waiting
    /// for the interval. Partitions of other processes are watched in the lake.
    pub async fn wait_for(
        &self,
        required: &[(PartitionId, LogOffset)],
        deadline: Duration,
    ) -> Result<(), Error> {
        let ends_at = Instant::now() + deadline;
        self.send(Command::Reach(required.to_vec())).await?;
        let mut progress = self.progress.clone();
        loop {
            let (own, stopped) = {
                let seen = progress.borrow_and_update();
                (seen.positions.clone(), seen.stopped.clone())
            };
            if let Some(reason) = stopped {
                return Err(Error::Stopped { reason });
            }
            let Some((partition, position, required)) =
                behind(&self.lake, self.epoch, &own, required).await?
            else {
                return Ok(());
            };
            if Instant::now() >= ends_at {
                let waited = deadline;
                return Err(Error::NotReached { partition, position, required, waited });
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Err(self.stopped()) },
                () = tokio::time::sleep(POLL_INTERVAL) => {}
            }
        }
    }

    /// Reads to the log's end for at most half the deadline, commits, and ends.
    pub async fn shutdown(&self, deadline: Duration) -> Result<(), Error> {
        let Some(task) = self.task.lock().take() else { return Ok(()) };
        let abort = task.abort_handle();
        let drain_until = Instant::now() + deadline / 2;
        // A task that has ended already takes no command; its result is read below.
        if self.commands.send(Command::Shutdown { drain_until }).await.is_err() {
            tracing::debug!("the archiver had ended before it was told to");
        }
        match tokio::time::timeout(deadline, task).await {
            Ok(Ok(result)) => result,
            Ok(Err(join)) => Err(Error::Stopped { reason: join.to_string() }),
            Err(_elapsed) => {
                abort.abort();
                Err(Error::Shutdown { deadline })
            }
        }
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_ended| self.stopped())
    }

    fn stopped(&self) -> Error {
        let reason = self.progress.borrow().stopped.clone();
        Error::Stopped { reason: reason.unwrap_or_else(|| "it was shut down".to_owned()) }
    }
}

/// The end of every partition of the log's events.
pub async fn log_ends(log: &dyn EventLog) -> Result<Vec<(PartitionId, LogOffset)>, Error> {
    let mut ends = Vec::new();
    for partition in (0..log.partitions(Topic::Events)).map(PartitionId::new) {
        ends.push((partition, log.bounds(Topic::Events, partition).await?.end));
    }
    Ok(ends)
}

/// Waits until the lake holds everything before these positions, whoever archives it.
pub async fn wait_for_lake(
    lake: &Lake,
    epoch: Epoch,
    required: &[(PartitionId, LogOffset)],
    deadline: Duration,
) -> Result<(), Error> {
    let ends_at = Instant::now() + deadline;
    loop {
        let Some((partition, position, required)) =
            behind(lake, epoch, &BTreeMap::new(), required).await?
        else {
            return Ok(());
        };
        if Instant::now() >= ends_at {
            return Err(Error::NotReached { partition, position, required, waited: deadline });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// The first partition that is not where it must be: its position and the one required.
async fn behind(
    lake: &Lake,
    epoch: Epoch,
    own: &BTreeMap<PartitionId, LogOffset>,
    required: &[(PartitionId, LogOffset)],
) -> Result<Option<(PartitionId, LogOffset, LogOffset)>, Error> {
    let foreign: Vec<_> =
        required.iter().map(|(partition, _)| *partition).filter(|p| !own.contains_key(p)).collect();
    let mut positions = own.clone();
    if !foreign.is_empty() {
        positions.extend(lake_positions(lake, epoch, foreign).await?);
    }
    Ok(required.iter().find_map(|(partition, required)| {
        let position = positions.get(partition).copied().unwrap_or(LogOffset::ZERO);
        (position < *required).then_some((*partition, position, *required))
    }))
}

/// The next offset that the newest `events` does not hold, for each of these partitions.
pub async fn lake_positions(
    lake: &Lake,
    epoch: Epoch,
    partitions: impl IntoIterator<Item = PartitionId>,
) -> Result<BTreeMap<PartitionId, LogOffset>, Error> {
    let Some(opened) = lake.newest(LakeTable::Events).await? else {
        return Ok(partitions.into_iter().map(|partition| (partition, LogOffset::ZERO)).collect());
    };
    let state =
        opened.snapshot().map_err(|source| lake.failed("read", LakeTable::Events, source))?;
    let log_store = opened.log_store();
    let table = LakeTable::Events;
    Ok(lake::tail::positions(lake, table, state, &log_store, epoch, partitions).await?)
}
