//! The loop of a processor: deliveries in, jobs out, one task that decides.
//!
//! Folding and decoding run on blocking threads, a flush in a task of its own; this loop only moves
//! them on. Its order of steps is the argument of "exactly once": fold, flush, checkpoint, and only
//! then the group's offset and the index.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{Delivery, Retry, StoredRecord, Subscription};
use chalkstream_schemas::{LogOffset, PartitionId};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, ProcessorOptions};
use crate::backoff::Backoff;
use crate::checkpoint::LogName;
use crate::crash;
use crate::decide::StopReason;
use crate::flush::{self, Done};
use crate::fold::{BlobHash, Delivered, Folder};
use crate::metrics::{Metrics, PartitionLabel};
use crate::progress::{PartitionProgress, PartitionStatus, Progress};
use crate::restore::{self, Restored, index_stop};

/// The name under which the index hears what processors have passed.
const CONSUMER: &str = "processor";
/// A checkpoint may take at most this share of the time: 1 / 5.
const CHECKPOINT_SHARE: u32 = 5;
/// Checkpoints are never rarer than this many intervals.
const CHECKPOINT_STRETCH_MAX: u32 = 12;

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
    last_flush: Instant,
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
            last_flush: Instant::now(),
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
                    self.assign(partition);
                }
                Ok(())
            }
            Delivery::Revoked(partitions) => self.revoke(&partitions).await,
            Delivery::Records { partition, records } => self.fold(partition, records).await,
        }
    }

    /// Begins to restore a partition; the others go on meanwhile.
    fn assign(&mut self, partition: PartitionId) {
        self.show(partition, PartitionStatus::Restoring);
        let context = restore::Context {
            log: Arc::clone(&self.options.log),
            tables: Arc::clone(&self.options.tables),
            history: Arc::clone(&self.options.history),
            index: Arc::clone(&self.options.index),
            epoch: self.options.epoch,
        };
        let task = self
            .restores
            .spawn(async move { (partition, restore::restore(context, partition).await) });
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
                if let Some(at) = folded.last_timestamp() {
                    self.options.index.passed(CONSUMER, partition, at);
                }
                self.folder.add(partition, *folded);
                self.subscription.start(partition, next).await.map_err(|source| Error::Log {
                    doing: "start reading",
                    source: Box::new(source),
                })?;
                self.show(partition, PartitionStatus::Running);
                self.show_offset(partition, |at| {
                    (at.folded, at.visible, at.checkpoint) = (next, next, next);
                });
            }
            Restored::Stopped(reason) => self.stop_partition(partition, reason),
        }
        Ok(())
    }

    fn stop_partition(&mut self, partition: PartitionId, reason: StopReason) {
        tracing::error!(
            partition = partition.get(),
            reason = %reason,
            hint = reason.hint(),
            "a partition is not folded until somebody acts"
        );
        self.folder.remove(partition);
        self.show(partition, PartitionStatus::Stopped(reason));
    }

    async fn fold(
        &mut self,
        partition: PartitionId,
        records: Vec<StoredRecord>,
    ) -> Result<(), Error> {
        if !self.folder.holds(partition) {
            return Ok(()); // Stopped, or a delivery from before a revocation.
        }
        let delivered = blocking(move || Delivered::decode(partition, records)).await?;
        let mut blobs = BTreeMap::new();
        for hash in &delivered.blobs {
            let fetched = fetch_blob(self.options.blobs.clone(), self.stop.clone(), *hash).await;
            let Some(bytes) = fetched else { return Ok(()) };
            blobs.insert(*hash, bytes);
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
            }
            Err(error) => {
                let reason = index_stop(&error)
                    .unwrap_or_else(|| StopReason::Index { detail: error.to_string() });
                self.stop_partition(partition, reason);
            }
        }
        Ok(())
    }

    /// Starts a flush, with a checkpoint or not, if it is time and none is under way.
    async fn write_what_is_due(&mut self) -> Result<(), Error> {
        if self.job.is_some() {
            return Ok(());
        }
        let tuning = &self.options.tuning;
        let full = self.folder.waiting_bytes() >= tuning.flush_bytes;
        let flush = self.folder.has_news() && self.last_flush.elapsed() >= tuning.flush_interval;
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
            if self.folder.holds(*partition) {
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
        }
        if partitions.iter().any(|partition| self.folder.holds(*partition)) {
            self.settle().await?;
        }
        for partition in partitions {
            self.folder.remove(*partition);
        }
        self.progress.send_modify(|progress| {
            for partition in partitions {
                progress.partitions.remove(partition);
            }
        });
        self.count_stopped();
        Ok(())
    }

    /// Flushes and checkpoints everything within the deadline.
    async fn settle(&mut self) -> Result<(), Error> {
        let deadline = self.options.tuning.settle_deadline;
        match tokio::time::timeout(deadline, self.settle_without_deadline()).await {
            Ok(settled) => settled,
            Err(_elapsed) => {
                tracing::warn!(
                    deadline_seconds = deadline.as_secs(),
                    "could not write everything in time; it is folded again from the last checkpoint"
                );
                Ok(())
            }
        }
    }

    async fn settle_without_deadline(&mut self) -> Result<(), Error> {
        if self.job.is_some() {
            let done = job_end(&mut self.job).await?;
            self.job_done(done).await?;
        }
        if self.folder.has_news() || self.folder.is_beyond_checkpoint() {
            self.start_job(true).await?;
            let done = job_end(&mut self.job).await?;
            self.job_done(done).await?;
        }
        Ok(())
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

/// Waits until the blob is there, or the processor is told to stop.
async fn fetch_blob(blobs: BlobStore, stop: CancellationToken, hash: BlobHash) -> Option<Bytes> {
    let mut backoff = Backoff::default();
    loop {
        let error = match blobs.get(hash).await {
            Ok(bytes) => return Some(bytes),
            Err(error) => error,
        };
        tokio::select! {
            () = stop.cancelled() => return None,
            () = backoff.wait(&error, "fetching the payload of a control record") => {}
        }
    }
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
