//! The rejected log into `rejected_events` and `ingest_outcomes`: a small consumer beside the
//! processor.
//!
//! In: [`RejectedEntry`]s of `chalkstream.rejected`. Out: one row per school and bytes, however
//! often they were sent; one row per series and instance of counted outcomes.
//! Always true: rejected events are keyed by (school, hash of the raw bytes), counts replace lower
//! ones, and a position is written only after its rows were acknowledged, so a crash writes a row
//! again, never loses one. The position lies in ClickHouse beside the rows: an empty database fills
//! itself from the log's beginning.
//! Not here: why an event was rejected (`ingest`, [`crate::fold`]), replaying it, counting.

mod positions;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_core::folds::ingest_outcomes::IngestOutcomeRow;
use chalkstream_core::folds::rejected_events::RejectedEventRow;
use chalkstream_core::{MONTHS_MAX, Position, RowBatch, RowSink, TableBatch, TableRow};
use chalkstream_event_log::{Delivery, EventLog, Retry, StoredRecord, Subscription, Topic};
use chalkstream_schemas::{LogOffset, PartitionId, RejectedEntry};
use chalkstream_sql::Database;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::metrics::Metrics;
use crate::processor::Error;
use crate::rejected::positions::Positions;
use crate::tables::clickhouse::ClickHouseTables;
use crate::tables::{Insert, TableError, Tables};

/// The consumer group.
pub const GROUP: &str = "chalkstream-rejected";
/// Rows are written when so many bytes wait, or after the interval.
const FLUSH_BYTES: usize = 8 * 1024 * 1024;

/// What the consumer needs.
#[derive(Clone, Debug)]
pub struct RejectedOptions {
    /// Where rejected events come from.
    pub log: Arc<dyn EventLog>,
    /// Where rows go.
    pub tables: Arc<dyn Tables>,
    /// The consumer group.
    pub group: String,
    /// Rows wait at most so long before they are written.
    pub flush_interval: Duration,
    /// How long a shutdown may take to write what was read.
    pub settle_deadline: Duration,
    /// Where the rows written are counted.
    pub metrics: Metrics,
}

impl RejectedOptions {
    /// The usual ones.
    pub fn new(log: Arc<dyn EventLog>, database: Database, metrics: Metrics) -> Self {
        Self {
            log,
            tables: Arc::new(ClickHouseTables::new(database)),
            group: GROUP.to_owned(),
            flush_interval: Duration::from_millis(200),
            settle_deadline: Duration::from_secs(10),
            metrics,
        }
    }
}

/// Starts the consumer.
#[derive(Debug)]
pub struct RejectedWriter;

/// A running consumer.
#[derive(Debug)]
pub struct RejectedHandle {
    log: Arc<dyn EventLog>,
    written: watch::Receiver<BTreeMap<PartitionId, LogOffset>>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Error>>,
}

impl RejectedHandle {
    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// The first offset of each partition that `rejected_events` does not hold yet, as it moves.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<PartitionId, LogOffset>> {
        self.written.clone()
    }

    /// Waits until `rejected_events` holds everything that the rejected log holds now.
    pub async fn wait_until_caught_up(&self) -> Result<(), Error> {
        let mut ends = BTreeMap::new();
        for partition in (0..self.log.partitions(Topic::Rejected)).map(PartitionId::new) {
            let bounds = self
                .log
                .bounds(Topic::Rejected, partition)
                .await
                .map_err(|source| Error::Log { doing: "ask", source: Box::new(source) })?;
            ends.insert(partition, bounds.end);
        }
        let mut written = self.written.clone();
        let caught_up = written.wait_for(|written| {
            ends.iter().all(|(partition, end)| written.get(partition).is_some_and(|at| at >= end))
        });
        caught_up.await.map(|_| ()).map_err(|_ended| Error::ShutDown)
    }

    /// Writes what was read, and ends.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.stop.cancel();
        match self.task.await {
            Ok(ended) => ended,
            Err(stopped) => Err(Error::Internal { what: stopped.to_string() }),
        }
    }
}

impl RejectedWriter {
    /// Joins the group and writes until [`RejectedHandle::shutdown`].
    pub async fn start(options: RejectedOptions) -> Result<RejectedHandle, Error> {
        let subscription = options
            .log
            .subscribe(Topic::Rejected, &options.group)
            .await
            .map_err(|source| Error::Log { doing: "subscribe to", source: Box::new(source) })?;
        let stop = CancellationToken::new();
        let log = Arc::clone(&options.log);
        let (publish, written) = watch::channel(BTreeMap::new());
        let positions = Positions::new(Arc::clone(&options.tables), options.log.identity());
        let writer = Writer {
            options,
            positions,
            publish,
            subscription,
            stop: stop.clone(),
            rows: RowBatch::new(),
            read: BTreeMap::new(),
            last_flush: Instant::now(),
        };
        Ok(RejectedHandle { log, written, stop, task: tokio::spawn(writer.run()) })
    }
}

struct Writer {
    options: RejectedOptions,
    positions: Positions,
    subscription: Box<dyn Subscription>,
    stop: CancellationToken,
    rows: RowBatch,
    publish: watch::Sender<BTreeMap<PartitionId, LogOffset>>,
    /// The next offset of each partition that was read since the last flush.
    read: BTreeMap<PartitionId, LogOffset>,
    last_flush: Instant,
}

impl Writer {
    async fn run(mut self) -> Result<(), Error> {
        let mut backoff = Backoff::default();
        loop {
            let due = self.last_flush + self.options.flush_interval;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                () = tokio::time::sleep_until(due), if !self.read.is_empty() => {
                    self.flush().await;
                }
                delivery = self.subscription.next(), if self.rows.byte_count() < FLUSH_BYTES => {
                    match delivery {
                        Ok(delivery) => {
                            backoff = Backoff::default();
                            self.deliver(delivery).await?;
                        }
                        Err(error) if error.retry() == Retry::Later => {
                            backoff.wait(&error, "reading the rejected log").await;
                        }
                        Err(source) => {
                            return Err(Error::Log { doing: "read", source: Box::new(source) });
                        }
                    }
                }
            }
        }
        let deadline = self.options.settle_deadline;
        if tokio::time::timeout(deadline, self.flush()).await.is_err() {
            tracing::warn!("could not write every rejected event in time; they are read again");
        }
        Ok(())
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Error> {
        match delivery {
            Delivery::Assigned(partitions) => {
                for partition in partitions {
                    self.begin(partition).await?;
                }
            }
            Delivery::Revoked(partitions) => {
                for partition in &partitions {
                    self.read.remove(partition);
                }
                self.publish.send_modify(|written| {
                    written.retain(|partition, _| !partitions.contains(partition));
                });
            }
            Delivery::Records { partition, records } => self.take(partition, &records),
        }
        Ok(())
    }

    /// Goes on behind what the table holds, as far as the log still has it. Waits while the log
    /// does not answer.
    async fn begin(&mut self, partition: PartitionId) -> Result<(), Error> {
        use chalkstream_event_log::Error as LogError;
        let (mut backoff, stop) = (Backoff::default(), self.stop.clone());
        loop {
            let begun = tokio::select! {
                begun = self.try_to_begin(partition) => begun,
                () = stop.cancelled() => return Ok(()),
            };
            match begun {
                // Taken away meanwhile; a delivery says so in its turn.
                Ok(()) | Err(LogError::NotAssigned { .. }) => return Ok(()),
                Err(error)
                    if error.retry() == Retry::Later
                        || matches!(error, LogError::OutOfRange { .. }) =>
                {
                    tokio::select! {
                        () = backoff.wait(&error, "beginning to read the rejected log") => {}
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                Err(source) => {
                    let doing = "start reading";
                    return Err(Error::Log { doing, source: Box::new(source) });
                }
            }
        }
    }

    async fn try_to_begin(
        &mut self,
        partition: PartitionId,
    ) -> Result<(), chalkstream_event_log::Error> {
        let bounds = self.options.log.bounds(Topic::Rejected, partition).await?;
        let from = self
            .positions
            .read(partition)
            .await
            .filter(|from| (bounds.first..=bounds.end).contains(from))
            .unwrap_or(bounds.first);
        self.subscription.start(partition, from).await?;
        self.publish.send_modify(|written| {
            written.insert(partition, from);
        });
        Ok(())
    }

    fn take(&mut self, partition: PartitionId, records: &[StoredRecord]) {
        for record in records {
            let at = Position { partition, offset: record.offset };
            match RejectedEntry::decode(&record.payload) {
                Ok(RejectedEntry::Event(rejected)) => {
                    self.rows.row(at, &RejectedEventRow::of(&rejected));
                }
                Ok(RejectedEntry::Outcomes(outcomes)) => {
                    for (series, events) in &outcomes.counts {
                        let row = IngestOutcomeRow::of(outcomes.instance, series, *events);
                        self.rows.row(at, &row);
                    }
                }
                // There is no further place to put it; the log keeps the bytes.
                Err(error) => tracing::error!(
                    partition = partition.get(),
                    offset = record.offset.get(),
                    error = &error as &dyn std::error::Error,
                    "a record of the rejected log cannot be read and is left out"
                ),
            }
            self.read.insert(partition, record.offset.next());
        }
    }

    /// Writes everything that waits, then how far that is; the group's offset is for lag alone.
    async fn flush(&mut self) {
        if self.read.is_empty() {
            return;
        }
        let (tables, metrics) = (Arc::clone(&self.options.tables), self.options.metrics.clone());
        for table in self.rows.take() {
            write(&*tables, &metrics, table).await;
        }
        let positions: Vec<_> = std::mem::take(&mut self.read).into_iter().collect();
        self.positions.write(&positions).await;
        if let Err(error) = self.subscription.commit(&positions).await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "could not commit the group's offsets"
            );
        }
        self.publish.send_modify(|written| written.extend(positions));
        self.last_flush = Instant::now();
    }
}

/// Writes the rows of one table, halving what is refused.
async fn write(tables: &dyn Tables, metrics: &Metrics, rows: TableBatch) {
    let table = rows.table();
    let columns: Vec<_> = rows.columns().iter().map(|column| column.name).collect();
    let mut todo = rows.split_months(MONTHS_MAX);
    let mut backoff = Backoff::default();
    while let Some(part) = todo.pop() {
        let rows = Bytes::copy_from_slice(part.bytes());
        match tables.insert(Insert { table, columns: columns.clone(), rows }).await {
            Ok(()) if table == RejectedEventRow::TABLE => {
                metrics.rejected_written.inc_by(part.row_count() as u64);
            }
            Ok(()) => {}
            Err(error @ TableError::Unavailable { .. }) => {
                metrics.insert_retries.inc();
                backoff.wait(&error, "writing rejected events").await;
                todo.push(part);
            }
            Err(TableError::Refused { .. } | TableError::TooManyPartitions { .. })
                if part.row_count() > 1 =>
            {
                let rows = part.row_count();
                todo.extend([part.slice(rows / 2..rows), part.slice(0..rows / 2)]);
            }
            Err(error) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "ClickHouse refused a row of the rejected log; it stays in the log only"
            ),
        }
    }
}
