//! The loop of a processor: deliveries in, jobs out, one task that decides.
//!
//! Folding and decoding run on blocking threads, a flush in a task of its own; this loop only moves
//! them on. Its order of steps is the argument of "exactly once": fold, flush, checkpoint, and only
//! then the group's offset and the index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chalkstream_event_log::{Delivery, Retry, StoredRecord, Subscription};
use chalkstream_schemas::{LogOffset, PartitionId};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::waits::Waits;
use super::{Error, ProcessorOptions};
use crate::backoff::Backoff;
use crate::checkpoint::LogName;
use crate::crash;
use crate::decide::StopReason;
use crate::first_seen;
use crate::flush::{self, Done};
use crate::fold::{Delivered, Folder};
use crate::metrics::{Metrics, PartitionLabel};
use crate::progress::{PartitionProgress, PartitionStatus, Progress};
use crate::restore::{self, Restored, index_stop};

/// The name under which the index hears what processors have passed.
const CONSUMER: &str = "processor";
/// A checkpoint may take at most this share of the time: 1 / 5.
const CHECKPOINT_SHARE: u32 = 5;
/// How long to wait before a partition is restored again that could not be read.
const RESTORE_AGAIN: Duration = Duration::from_millis(500);
/// Checkpoints are never rarer than this many intervals.
const CHECKPOINT_STRETCH_MAX: u32 = 12;
/// A record that the log took in so long ago says that folding is behind.
const BEHIND: Duration = Duration::from_secs(1);
/// Behind, rows wait for so many intervals: larger inserts cost less a row, aggregates coalesce,
/// and the second that it takes is lost already.
const BEHIND_INTERVALS: u32 = 5;

pub(super) struct Driver {
    options: ProcessorOptions,
    subscription: Box<dyn Subscription>,
    metrics: Metrics,
    progress: watch::Sender<Progress>,
    stop: CancellationToken,
    folder: Folder,
    /// The flush that is being written, at most one.
    job: Option<JoinHandle<Done>>,
    restores: JoinSet<(PartitionId, Restored)>,
    restoring: BTreeMap<PartitionId, tokio::task::AbortHandle>,
    waits: Waits,
    last_flush: Instant,
    /// Whether the records folded last had waited in the log.
    behind: bool,
    last_checkpoint: Instant,
    /// How long to wait between checkpoints now.
    checkpoint_every: Duration,
}

impl Driver {
    pub(super) fn new(
        options: ProcessorOptions,
        subscription: Box<dyn Subscription>,
        metrics: Metrics,
        progress: watch::Sender<Progress>,
        stop: CancellationToken,
    ) -> Self {
        let log = LogName::of_events(options.log.identity());
        Self {
            folder: Folder::new(Arc::clone(&options.index), log, metrics.clone()),
            checkpoint_every: options.tuning.checkpoint_interval,
            options,
            subscription,
            metrics,
            progress,
            stop,
            job: None,
            restores: JoinSet::new(),
            restoring: BTreeMap::new(),
            waits: Waits::default(),
            last_flush: Instant::now(),
            behind: false,
            last_checkpoint: Instant::now(),
        }
    }

    /// Runs until it is told to stop, or cannot go on.
    pub(super) async fn run(mut self) -> Result<(), Error> {
        let ended = self.drive().await;
        if let Err(error) = &ended {
            let mut reason = error.to_string();
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                reason.push_str(": ");
                reason.push_str(&error.to_string());
                cause = error.source();
            }
            if let Some(hint) = error.hint() {
                reason.push_str("; hint: ");
                reason.push_str(&hint);
            }
            tracing::error!(reason, "the processor has ended");
            self.progress.send_modify(|progress| progress.failed = Some(reason));
        }
        ended
    }

    async fn drive(&mut self) -> Result<(), Error> {
        let mut ticks = tokio::time::interval(
            (self.options.tuning.flush_interval / 4).max(Duration::from_millis(5)),
        );
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut backoff = Backoff::default();
        loop {
            let has_room = self.folder.waiting_bytes() < self.options.tuning.flush_bytes;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                done = job_end(&mut self.job) => self.job_done(done?).await?,
                Some(restored) = self.restores.join_next() => self.restored(restored).await?,
                Some(partition) = self.waits.next() => self.blob_arrived(partition).await?,
                _ = ticks.tick() => {}
                delivery = self.subscription.next(), if has_room => match delivery {
                    Ok(delivery) => {
                        backoff = Backoff::default();
                        self.deliver(delivery).await?;
                    }
                    Err(error) if error.retry() == Retry::Later => {
                        backoff.wait(&error, "reading the log").await;
                    }
                    Err(source) => {
                        let source = Box::new(source);
                        return Err(Error::Log { doing: "read", source });
                    }
                },
            }
            self.write_what_is_due().await?;
        }
        self.restores.abort_all();
        self.settle().await
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Error> {
        match delivery {
            Delivery::Assigned(partitions) => {
                for partition in partitions {
                    self.assign(partition, Duration::ZERO);
                }
                Ok(())
            }
            Delivery::Revoked(partitions) => self.revoke(&partitions).await,
            Delivery::Records { partition, records } => self.fold(partition, records).await,
        }
    }

    /// Begins to restore a partition after a pause; the others go on meanwhile.
    fn assign(&mut self, partition: PartitionId, pause: Duration) {
        self.show(partition, PartitionStatus::Restoring);
        let context = restore::Context {
            log: Arc::clone(&self.options.log),
            tables: Arc::clone(&self.options.tables),
            history: Arc::clone(&self.options.history),
            index: Arc::clone(&self.options.index),
            epoch: self.options.epoch,
        };
        let task = self.restores.spawn(async move {
            tokio::time::sleep(pause).await;
            (partition, restore::restore(context, partition).await)
        });
        if let Some(earlier) = self.restoring.insert(partition, task) {
            earlier.abort();
        }
    }

    async fn restored(
        &mut self,
        restored: Result<(PartitionId, Restored), tokio::task::JoinError>,
    ) -> Result<(), Error> {
        let (partition, restored) = match restored {
            Ok(restored) => restored,
            Err(stopped) if stopped.is_cancelled() => return Ok(()),
            Err(stopped) => return Err(Error::Internal { what: stopped.to_string() }),
        };
        if self.restoring.remove(&partition).is_none() {
            return Ok(()); // Revoked meanwhile.
        }
        match restored {
            Restored::Ready { folded, next } => {
                if let Err(error) = self.subscription.start(partition, next).await {
                    return self.not_started(partition, error);
                }
                if let Some(at) = folded.last_timestamp() {
                    self.options.index.passed(CONSUMER, partition, at);
                }
                self.folder.add(partition, *folded);
                self.show(partition, PartitionStatus::Running);
                self.show_offset(partition, |at| {
                    (at.folded, at.visible, at.checkpoint) = (next, next, next);
                });
            }
            Restored::Stopped(reason) => self.stop_partition(partition, reason),
        }
        Ok(())
    }

    /// What was restored cannot be read on from: it is restored again where that can help.
    fn not_started(
        &mut self,
        partition: PartitionId,
        error: chalkstream_event_log::Error,
    ) -> Result<(), Error> {
        use chalkstream_event_log::Error as LogError;
        match error {
            // Taken away meanwhile; a delivery says so in its turn.
            LogError::NotAssigned { .. } => Ok(()),
            // The broker is away, or records went meanwhile: `decide` tells what that means.
            error
                if error.retry() == Retry::Later
                    || matches!(error, LogError::OutOfRange { .. }) =>
            {
                tracing::warn!(
                    partition = partition.get(),
                    error = &error as &dyn std::error::Error,
                    "a partition cannot be read yet; restoring it again"
                );
                self.folder.remove(partition);
                self.assign(partition, RESTORE_AGAIN);
                Ok(())
            }
            source => Err(Error::Log { doing: "start reading", source: Box::new(source) }),
        }
    }

    fn stop_partition(&mut self, partition: PartitionId, reason: StopReason) {
        tracing::error!(
            partition = partition.get(),
            reason = %reason,
            hint = reason.hint(),
            "a partition is not folded until somebody acts"
        );
        self.folder.remove(partition);
        self.waits.forget(partition);
        self.show(partition, PartitionStatus::Stopped(reason));
    }

    async fn fold(
        &mut self,
        partition: PartitionId,
        records: Vec<StoredRecord>,
    ) -> Result<(), Error> {
        if !self.folder.holds(partition) || self.waits.holds(partition) {
            return Ok(()); // Stopped, waiting, or a delivery from before a revocation.
        }
        self.behind = records.last().is_some_and(is_behind);
        let mut delivered = blocking(move || Delivered::decode(partition, records)).await?;
        let (mut blobs, mut missing) = (BTreeMap::new(), None);
        for hash in delivered.blobs.clone() {
            match self.options.blobs.get(hash).await {
                Ok(bytes) => {
                    blobs.insert(hash, bytes);
                }
                Err(error) => {
                    // What stands before the record is folded; from it on everything comes again.
                    delivered.end_before_blob(hash);
                    missing = Some((hash, error));
                    break;
                }
            }
        }
        let mut folder = self.take_folder();
        let (folder, folded) = blocking(move || {
            let folded = folder.fold(delivered, &blobs);
            (folder, folded)
        })
        .await?;
        self.folder = folder;
        match folded {
            Ok(()) => {
                if let Some(next) = self.folder.position(partition) {
                    self.show_offset(partition, |at| at.folded = next);
                }
                if let Some((hash, error)) = missing {
                    self.show(partition, PartitionStatus::waiting(&error));
                    self.waits.begin(partition, self.options.blobs.clone(), hash);
                }
            }
            // The archiver, which shares the index, found it to be of another log and began it anew.
            Err(error @ first_seen::Error::Gap { .. }) => {
                tracing::warn!(%error, "the partition is restored, which fills the index");
                self.folder.remove(partition);
                self.assign(partition, Duration::ZERO);
            }
            Err(error) => {
                let reason = index_stop(&error)
                    .unwrap_or_else(|| StopReason::Index { detail: error.to_string() });
                self.stop_partition(partition, reason);
            }
        }
        Ok(())
    }

    /// Reads a partition that has waited on from where it stands.
    async fn blob_arrived(&mut self, partition: PartitionId) -> Result<(), Error> {
        let Some(next) = self.folder.position(partition) else { return Ok(()) };
        match self.subscription.start(partition, next).await {
            Ok(()) => {
                self.show(partition, PartitionStatus::Running);
                Ok(())
            }
            Err(error) => self.not_started(partition, error),
        }
    }

    /// Starts a flush, with a checkpoint or not, if it is time and none is under way.
    async fn write_what_is_due(&mut self) -> Result<(), Error> {
        if self.job.is_some() {
            return Ok(());
        }
        let tuning = &self.options.tuning;
        let full = self.folder.waiting_bytes() >= tuning.flush_bytes;
        let interval = match self.behind {
            true => tuning.flush_interval * BEHIND_INTERVALS,
            false => tuning.flush_interval,
        };
        let flush = self.folder.has_news() && self.last_flush.elapsed() >= interval;
        let checkpoint = self.last_checkpoint.elapsed() >= self.checkpoint_every
            && self.folder.is_beyond_checkpoint();
        if full || flush || checkpoint {
            self.start_job(checkpoint).await?;
        }
        Ok(())
    }

    async fn start_job(&mut self, checkpoint: bool) -> Result<(), Error> {
        let mut folder = self.take_folder();
        let (folder, job) = blocking(move || {
            let job = folder.take_job(checkpoint);
            (folder, job)
        })
        .await?;
        self.folder = folder;
        self.last_flush = Instant::now();
        if checkpoint {
            self.last_checkpoint = self.last_flush;
        }
        let context = flush::Context {
            tables: Arc::clone(&self.options.tables),
            log: Arc::clone(&self.options.log),
            metrics: self.metrics.clone(),
            epoch: self.options.epoch,
        };
        self.job = Some(tokio::spawn(flush::run(context, job)));
        Ok(())
    }

    async fn job_done(&mut self, done: Done) -> Result<(), Error> {
        let Done { receipt, checkpoints, checkpoint_took } = done;
        self.progress.send_modify(|progress| {
            for (partition, visible) in receipt.through() {
                if let Some(at) = progress.partitions.get_mut(partition) {
                    at.visible = at.visible.max(*visible);
                }
            }
            for (partition, checkpoint) in &checkpoints {
                if let Some(at) = progress.partitions.get_mut(partition) {
                    at.checkpoint = at.checkpoint.max(checkpoint.next);
                }
            }
        });
        for (partition, visible) in receipt.through() {
            gauge(&self.metrics.visible_offset, *partition, *visible);
        }
        tracing::trace!(rows = receipt.rows(), checkpoints = checkpoints.len(), "a flush is done");
        if checkpoints.is_empty() {
            return Ok(());
        }
        let every = self.options.tuning.checkpoint_interval;
        self.checkpoint_every =
            (checkpoint_took * CHECKPOINT_SHARE).clamp(every, every * CHECKPOINT_STRETCH_MAX);
        let mut positions = Vec::with_capacity(checkpoints.len());
        for (partition, checkpoint) in &checkpoints {
            gauge(&self.metrics.checkpoint_offset, *partition, checkpoint.next);
            if let Some(last) = checkpoint.last {
                self.options.index.passed(CONSUMER, *partition, last.timestamp());
            }
            // Of a partition that is being given away the next owner moves the offset.
            if self.progress.borrow().partitions.contains_key(partition) {
                positions.push((*partition, checkpoint.next));
            }
        }
        if let Err(error) = self.subscription.commit(&positions).await {
            // Hints for lag only; the checkpoint is what counts, and the next commit covers it.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not commit the group's offsets"
            );
        }
        crash::point("after_group_commit");
        let index = Arc::clone(&self.options.index);
        if let Err(error) = blocking(move || index.persist()).await? {
            // A lagging index is filled again on restore.
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                hint = error.hint(),
                "could not write the first-seen index"
            );
        }
        crash::point("after_index_persist");
        Ok(())
    }

    /// Partitions go to another owner: writes what was folded if that is possible in time, then
    /// forgets them. What is not written in time the next owner folds again.
    async fn revoke(&mut self, partitions: &[PartitionId]) -> Result<(), Error> {
        for partition in partitions {
            if let Some(task) = self.restoring.remove(partition) {
                task.abort();
            }
            self.waits.forget(*partition);
        }
        self.progress.send_modify(|progress| {
            for partition in partitions {
                progress.partitions.remove(partition);
            }
        });
        if partitions.iter().any(|partition| self.folder.holds(*partition)) {
            self.settle().await?;
        }
        for partition in partitions {
            self.folder.remove(*partition);
        }
        self.count_stopped();
        Ok(())
    }

    /// Flushes and checkpoints everything within the deadline. Only the waiting is cut short: the
    /// folder that a thread works on comes back in any case.
    async fn settle(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.options.tuning.settle_deadline;
        if !self.job_settled(deadline).await? {
            return Ok(());
        }
        if self.folder.has_news() || self.folder.is_beyond_checkpoint() {
            self.start_job(true).await?;
            self.job_settled(deadline).await?;
        }
        Ok(())
    }

    /// Waits for the job that is under way; says whether none is left.
    async fn job_settled(&mut self, deadline: Instant) -> Result<bool, Error> {
        if self.job.is_none() {
            return Ok(true);
        }
        match tokio::time::timeout_at(deadline, job_end(&mut self.job)).await {
            Ok(done) => self.job_done(done?).await.map(|()| true),
            Err(_elapsed) => {
                tracing::warn!(
                    deadline_seconds = self.options.tuning.settle_deadline.as_secs(),
                    "could not write everything in time; it is folded again from the last checkpoint"
                );
                Ok(false)
            }
        }
    }

    /// Lends the folder to a blocking thread; what stays behind is empty.
    fn take_folder(&mut self) -> Folder {
        let empty = self.folder.empty();
        std::mem::replace(&mut self.folder, empty)
    }

    fn show(&self, partition: PartitionId, status: PartitionStatus) {
        self.progress.send_modify(|progress| {
            let at = progress.partitions.entry(partition).or_insert(PartitionProgress {
                status: PartitionStatus::Restoring,
                folded: LogOffset::ZERO,
                visible: LogOffset::ZERO,
                checkpoint: LogOffset::ZERO,
            });
            at.status = status;
        });
        self.count_stopped();
    }

    fn count_stopped(&self) {
        let stopped = self.progress.borrow().stopped();
        self.metrics.partitions_stopped.set(i64::try_from(stopped).unwrap_or(i64::MAX));
    }

    fn show_offset(&self, partition: PartitionId, change: impl FnOnce(&mut PartitionProgress)) {
        self.progress.send_if_modified(|progress| {
            if let Some(at) = progress.partitions.get_mut(&partition) {
                change(at);
            }
            true
        });
    }
}

fn is_behind(record: &StoredRecord) -> bool {
    let taken_in = u64::try_from(record.timestamp.as_ms()).unwrap_or(0);
    let age = SystemTime::now().duration_since(UNIX_EPOCH + Duration::from_millis(taken_in));
    age.is_ok_and(|age| age >= BEHIND)
}

/// Waits for the job, if there is one; else forever. Cancel-safe.
async fn job_end(job: &mut Option<JoinHandle<Done>>) -> Result<Done, Error> {
    match job {
        Some(running) => {
            let done = running.await;
            *job = None;
            done.map_err(|stopped| Error::Internal { what: format!("a flush: {stopped}") })
        }
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|stopped| Error::Internal { what: format!("folding: {stopped}") })
}

fn gauge(
    family: &prometheus_client::metrics::family::Family<
        PartitionLabel,
        prometheus_client::metrics::gauge::Gauge<i64, std::sync::atomic::AtomicI64>,
    >,
    partition: PartitionId,
    offset: LogOffset,
) {
    family
        .get_or_create(&PartitionLabel { partition: partition.get() })
        .set(i64::try_from(offset.get()).unwrap_or(i64::MAX));
}
