//! The archiver's task: deliveries in, commits out, and what happens when something fails.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{Delivery, Retry, StoredRecord, Subscription, Topic};
use chalkstream_schemas::{
    ControlBody, ControlPayload, ControlRecord, LogOffset, LogRecord, PartitionId, Timestamp,
};
use chalkstream_stream_processors::fingerprint::Fingerprint;
use chalkstream_stream_processors::first_seen::{FirstSeen, Seen, SeenRange, Verdict};
use deltalake::writer::DeltaWriter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::history::LakeHistory;
use super::pending::{Closed, Pending};
use super::resume::resume;
use super::rows::{ControlRow, control_batch};
use super::{ArchiverOptions, Command, Error, Progress};
use crate::lake::LakeTable;
use crate::lake::tail::{Outcome, Range, Tail};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How often a blob that a control record names is looked for before that is an error to retry.
const BLOB_TRIES: u32 = 50;
const BLOB_PAUSE: Duration = Duration::from_millis(100);
/// Under this name the index keeps what the archiver has passed.
const CONSUMER: &str = "archiver";

/// What goes on after a step.
enum Next {
    Go,
    End,
}

enum Step {
    Command(Option<Command>),
    Due,
    Delivery(Result<Delivery, chalkstream_event_log::Error>),
}

pub(super) struct Run {
    options: ArchiverOptions,
    subscription: Box<dyn Subscription>,
    events: Tail,
    controls: Tail,
    /// The next offset to take of each partition that is ours.
    next: BTreeMap<PartitionId, LogOffset>,
    /// Log timestamps of the newest record taken.
    taken_at: BTreeMap<PartitionId, Timestamp>,
    pending: Pending,
    duplicates: u64,
    undecodable: u64,
    /// Positions that somebody waits for.
    goals: BTreeMap<PartitionId, LogOffset>,
    stop_at: Option<Instant>,
    inbox: mpsc::Receiver<Command>,
    progress: watch::Sender<Progress>,
}

impl Run {
    pub(super) async fn open(
        options: ArchiverOptions,
        inbox: mpsc::Receiver<Command>,
        progress: watch::Sender<Progress>,
    ) -> Result<Self, Error> {
        let identity = options.log.identity();
        let lake = &options.lake;
        let mut tails = Vec::new();
        for table in [LakeTable::Events, LakeTable::ControlRecords] {
            let opened = lake.for_log(table, identity).await?;
            tails.push(Tail::new(lake, table, options.epoch, opened)?);
        }
        let (Some(controls), Some(events)) = (tails.pop(), tails.pop()) else {
            unreachable!("two tables were opened");
        };
        let subscription = options.log.subscribe(Topic::Events, &options.group).await?;
        Ok(Self {
            options,
            subscription,
            events,
            controls,
            next: BTreeMap::new(),
            taken_at: BTreeMap::new(),
            pending: Pending::new(),
            duplicates: 0,
            undecodable: 0,
            goals: BTreeMap::new(),
            stop_at: None,
            inbox,
            progress,
        })
    }

    /// Runs until it is told to stop or cannot go on; says so in the progress.
    pub(super) async fn until_stopped(mut self) -> Result<(), Error> {
        let result = self.run().await;
        let reason = match &result {
            Ok(()) => "it was shut down".to_owned(),
            Err(error) => {
                tracing::error!(
                    error = error as &dyn std::error::Error,
                    hint = error.hint(),
                    "the archiver has stopped"
                );
                chain(error)
            }
        };
        self.progress.send_modify(|progress| progress.stopped = Some(reason));
        result
    }

    async fn run(&mut self) -> Result<(), Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let done = match self.step().await {
                Ok(Next::Go) => Ok(()),
                Ok(Next::End) => return Ok(()),
                Err(error) => Err(error),
            };
            let Err(error) = done else {
                pause = FIRST_PAUSE;
                continue;
            };
            match error.retry() {
                Retry::Never => return Err(error),
                Retry::Later => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX),
                    "archiving failed; what was not committed is read again"
                ),
            }
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                match self.start_over().await {
                    Ok(()) => break,
                    Err(error) if error.retry() == Retry::Later => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the archiver cannot go on yet"
                    ),
                    Err(error) => return Err(error),
                }
            }
        }
    }

    async fn step(&mut self) -> Result<Next, Error> {
        let due = self.due();
        let step = tokio::select! {
            biased;
            command = self.inbox.recv() => Step::Command(command),
            () = until(due) => Step::Due,
            delivery = self.subscription.next() => Step::Delivery(delivery),
        };
        match step {
            Step::Command(command) => self.obey(command).await?,
            Step::Due => self.flush().await?,
            Step::Delivery(delivery) => self.take(delivery?).await?,
        }
        let reached = !self.goals.is_empty()
            && self
                .goals
                .iter()
                .all(|(partition, goal)| self.next.get(partition).is_none_or(|next| next >= goal));
        if reached {
            self.goals.clear();
            self.flush().await?;
        }
        match self.stop_at {
            Some(at) if reached || self.goals.is_empty() || Instant::now() >= at => {
                self.flush().await?;
                persist(Arc::clone(&self.options.index)).await?;
                Ok(Next::End)
            }
            _ => Ok(Next::Go),
        }
    }

    /// When the next commit, or the end, is due.
    fn due(&self) -> Option<Instant> {
        let commit = self.pending.since.map(|since| since + self.options.interval);
        [commit, self.stop_at].into_iter().flatten().min()
    }

    async fn obey(&mut self, command: Option<Command>) -> Result<(), Error> {
        match command {
            Some(Command::Reach(required)) => {
                for (partition, position) in required {
                    if self.next.contains_key(&partition) {
                        let goal = self.goals.entry(partition).or_insert(position);
                        *goal = position.max(*goal);
                    }
                }
            }
            Some(Command::Flush(done)) => {
                self.flush().await?;
                answer(done);
            }
            Some(Command::Shutdown { drain_until }) => {
                self.stop_at = Some(drain_until);
                for partition in self.next.keys().copied().collect::<Vec<_>>() {
                    let end = self.options.log.bounds(Topic::Events, partition).await?.end;
                    self.goals.insert(partition, end);
                }
            }
            // Every handle is gone: nobody can ask for anything any more.
            None => self.stop_at = Some(Instant::now()),
        }
        Ok(())
    }

    async fn take(&mut self, delivery: Delivery) -> Result<(), Error> {
        match delivery {
            Delivery::Assigned(partitions) => {
                tracing::debug!(count = partitions.len(), "partitions assigned to the archiver");
                self.begin(partitions).await
            }
            Delivery::Revoked(partitions) => {
                // First they are no longer ours, so that nothing starts them again.
                for partition in &partitions {
                    self.next.remove(partition);
                    self.goals.remove(partition);
                }
                self.flush().await?;
                self.progress.send_modify(|progress| {
                    progress.positions.retain(|partition, _| !partitions.contains(partition));
                });
                Ok(())
            }
            Delivery::Records { partition, records } => self.records(partition, records).await,
        }
    }

    /// Starts these partitions at the positions that the lake has for them.
    async fn begin(&mut self, partitions: Vec<PartitionId>) -> Result<(), Error> {
        let mut ours: Vec<_> = self.next.keys().copied().chain(partitions.clone()).collect();
        ours.sort_unstable();
        ours.dedup();
        self.events.reload(ours.iter().copied()).await?;
        self.controls.reload(ours.iter().copied()).await?;
        let history = LakeHistory::new(self.options.lake.clone());
        for partition in partitions {
            let position = self.events.position(partition).unwrap_or(LogOffset::ZERO);
            let bounds = self.options.log.bounds(Topic::Events, partition).await?;
            let from = resume(partition, position, bounds)?;
            let log = self.options.log.as_ref();
            self.options.index.catch_up(log, &history, partition, from).await?;
            match self.subscription.start(partition, from).await {
                Ok(()) => {}
                // It was taken away meanwhile; a delivery says so in its turn.
                Err(chalkstream_event_log::Error::NotAssigned { .. }) => {
                    self.next.remove(&partition);
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            self.next.insert(partition, from);
            self.progress.send_modify(|progress| {
                progress.positions.insert(partition, from);
            });
        }
        Ok(())
    }

    /// Drops what is not committed and reads it again.
    async fn start_over(&mut self) -> Result<(), Error> {
        self.pending = Pending::new();
        self.duplicates = 0;
        self.undecodable = 0;
        let partitions = self.next.keys().copied().collect();
        self.begin(partitions).await
    }

    async fn records(
        &mut self,
        partition: PartitionId,
        records: Vec<StoredRecord>,
    ) -> Result<(), Error> {
        let Some(from) = self.next.get(&partition).copied() else { return Ok(()) };
        let mut range = SeenRange { from, through: from, fingerprint: None, events: Vec::new() };
        let mut decoded = Vec::with_capacity(records.len());
        for record in records.iter().filter(|record| record.offset >= from) {
            range.through = record.offset.next();
            self.pending.log_bytes += record.payload.len() + record.key.len();
            match LogRecord::decode(&record.key, &record.payload) {
                Ok(LogRecord::Event(event)) => {
                    range.events.push(Seen::new(record.offset, record.timestamp, &event));
                    decoded.push((record.offset, event));
                }
                Ok(LogRecord::Control(control)) => {
                    self.control(partition, record.offset, control).await?;
                }
                Err(error) => {
                    self.undecodable += 1;
                    tracing::error!(
                        partition = partition.get(),
                        offset = record.offset.get(),
                        error = &error as &dyn std::error::Error,
                        "a record of the log cannot be read and is left out of the lake"
                    );
                }
            }
        }
        if range.through == from {
            return Ok(());
        }
        if let Some(last) = records.last() {
            range.fingerprint = Some(Fingerprint::of(last));
            self.taken_at.insert(partition, last.timestamp);
        }
        let verdicts = self.options.index.observe(partition, &range)?;
        for ((offset, event), verdict) in decoded.iter().zip(verdicts) {
            match verdict {
                Verdict::First => self.pending.push(partition, *offset, event),
                Verdict::Duplicate { .. } => self.duplicates += 1,
            }
        }
        self.pending.extend(partition, from, range.through);
        self.next.insert(partition, range.through);
        if self.pending.batch_is_full() {
            let events = &self.events;
            self.pending.write_batch(|| events.writer()).await.map_err(write_failed)?;
        }
        if self.pending.file_bytes() >= self.options.file_max_bytes {
            self.flush().await?;
        }
        Ok(())
    }

    async fn control(
        &mut self,
        partition: PartitionId,
        offset: LogOffset,
        record: ControlRecord,
    ) -> Result<(), Error> {
        if self.controls.position(partition).is_some_and(|position| offset < position) {
            return Ok(());
        }
        let blob = blob_of(&self.options.blobs, &record).await?;
        self.pending.controls.push(ControlRow { partition, offset, record, blob });
        Ok(())
    }

    /// Commits everything that is pending; see the steps in [`super`].
    async fn flush(&mut self) -> Result<(), Error> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let events = &self.events;
        self.pending.write_batch(|| events.writer()).await.map_err(write_failed)?;
        let pending = std::mem::replace(&mut self.pending, Pending::new());
        let mut closed = pending.close().await.map_err(write_failed)?;
        if self.commit_controls(&closed).await? == Commit::Overtaken {
            return self.overtaken().await;
        }
        let files = std::mem::take(&mut closed.files);
        match self.events.commit(files, &closed.ranges).await? {
            Outcome::Overtaken => self.overtaken().await,
            Outcome::Committed(version) => {
                self.committed(version, &closed).await;
                Ok(())
            }
        }
    }

    async fn commit_controls(&mut self, pending: &Closed) -> Result<Commit, Error> {
        let mut fresh = Vec::new();
        let mut ranges = BTreeMap::new();
        for row in &pending.controls {
            let from = self.controls.position(row.partition).unwrap_or(LogOffset::ZERO);
            let Some(range) = pending.ranges.get(&row.partition) else { continue };
            if row.offset >= from {
                fresh.push(row);
                ranges.insert(row.partition, Range { from, to: range.to });
            }
        }
        if fresh.is_empty() {
            return Ok(Commit::Done);
        }
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| Error::Write {
            table: LakeTable::ControlRecords.name(),
            source,
        };
        let batch = control_batch(fresh).map_err(|error| failed(Box::new(error)))?;
        let mut writer = self.controls.writer()?;
        writer.write(batch).await.map_err(|error| failed(Box::new(error)))?;
        let files = writer.flush().await.map_err(|error| failed(Box::new(error)))?;
        Ok(match self.controls.commit(files, &ranges).await? {
            Outcome::Committed(_) => Commit::Done,
            Outcome::Overtaken => Commit::Overtaken,
        })
    }

    async fn overtaken(&mut self) -> Result<(), Error> {
        tracing::info!("another archiver committed the same range first; reading on from there");
        self.progress.send_modify(|progress| progress.overtaken += 1);
        self.start_over().await
    }

    async fn committed(&mut self, version: u64, pending: &Closed) {
        let (duplicates, undecodable) =
            (std::mem::take(&mut self.duplicates), std::mem::take(&mut self.undecodable));
        let positions: Vec<_> =
            pending.ranges.iter().map(|(partition, range)| (*partition, range.to)).collect();
        for (partition, _) in &positions {
            if let Some(at) = self.taken_at.get(partition) {
                self.options.index.passed(CONSUMER, *partition, *at);
            }
        }
        self.progress.send_modify(|progress| {
            progress.positions.extend(positions.iter().copied());
            progress.lake_version = Some(version);
            progress.events += pending.event_count;
            progress.duplicates += duplicates;
            progress.undecodable += undecodable;
            progress.log_bytes += pending.log_bytes as u64;
            progress.commits += 1;
        });
        if let Err(error) = self.subscription.commit(&positions).await {
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the group's offset was not moved; the lake's positions count"
            );
        }
    }
}

/// Hands the index to its store, so that the next start need not fill it again.
async fn persist(index: Arc<FirstSeen>) -> Result<(), Error> {
    match tokio::task::spawn_blocking(move || index.persist()).await {
        Ok(done) => Ok(done?),
        Err(join) => Err(Error::Stopped { reason: join.to_string() }),
    }
}

/// The bytes of the blob that the record names; waits a while for one that is on its way.
async fn blob_of(blobs: &BlobStore, record: &ControlRecord) -> Result<Option<Bytes>, Error> {
    let hash = match &record.body {
        ControlBody::SchoolSettings { .. } => return Ok(None),
        ControlBody::BktParameters { table, .. } => match table {
            ControlPayload::Inline(_) => return Ok(None),
            ControlPayload::Blob { hash, .. } => *hash,
        },
    };
    let mut tries = 1;
    loop {
        match blobs.get(hash).await {
            Ok(bytes) => return Ok(Some(bytes)),
            Err(error) if tries >= BLOB_TRIES => return Err(error.into()),
            Err(_missing) => tries += 1,
        }
        tokio::time::sleep(BLOB_PAUSE).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Commit {
    Done,
    Overtaken,
}

/// Nobody may be waiting for the answer any more.
fn answer(done: oneshot::Sender<()>) {
    if done.send(()).is_err() {
        tracing::debug!("nobody waits for the flush any more");
    }
}

fn write_failed(error: super::pending::WriteError) -> Error {
    match error {
        super::pending::WriteError::Lake(error) => Error::Lake(error),
        other => Error::Write { table: LakeTable::Events.name(), source: Box::new(other) },
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
