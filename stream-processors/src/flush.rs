//! Writing one flush: every view table, then the rejected log, then, if due, the checkpoint.
//!
//! In: a [`Job`], the rows that all partitions of the process have folded since the last one. Out: a
//! [`FlushReceipt`] that only a flush can make whose every table was acknowledged; a checkpoint needs
//! one.
//! Always true: what cannot be written now is tried again, forever; the job holds the only copy and
//! the next batch is bounded, so memory is too. A row that ClickHouse refuses for its content is
//! found by halving, goes to the rejected log with its position, and stops nothing.
//! Not here: when to flush ([`crate::processor`]), what the rows say (core).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_core::{MONTHS_MAX, Position, StateRow, TableBatch};
use chalkstream_event_log::{EventLog, NewRecord, Retry, Topic};
use chalkstream_schemas::{Epoch, LogOffset, PartitionId, RejectReason, RejectedRecord};
use tokio::task::JoinSet;

use crate::backoff::Backoff;
use crate::checkpoint::{self, Checkpoint};
use crate::crash;
use crate::metrics::{Metrics, TableLabel};
use crate::rejects::Reject;
use crate::tables::row_binary::{put_bytes, put_u32, put_u64};
use crate::tables::{Insert, TableError, Tables};

/// The table of states and checkpoints.
pub(crate) const FOLD_STATE: &str = "fold_state";
const FOLD_STATE_COLUMNS: [&str; 6] = ["epoch", "log_partition", "kind", "key", "version", "state"];

/// What a flush needs around it.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) tables: Arc<dyn Tables>,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) metrics: Metrics,
    pub(crate) epoch: Epoch,
}

/// Everything that one flush writes.
#[derive(Debug)]
pub(crate) struct Job {
    /// The rows of each table.
    pub(crate) tables: Vec<TableBatch>,
    /// What goes to the rejected log.
    pub(crate) rejects: Vec<Reject>,
    /// Up to where each partition's rows are in this flush or an earlier one.
    pub(crate) through: BTreeMap<PartitionId, LogOffset>,
    /// The states at exactly those positions, if a checkpoint is due.
    pub(crate) checkpoint: Option<CheckpointJob>,
}

/// The states touched since the last checkpoint, and the new positions.
#[derive(Debug, Default)]
pub(crate) struct CheckpointJob {
    pub(crate) states: Vec<(PartitionId, StateRow)>,
    pub(crate) checkpoints: BTreeMap<PartitionId, Checkpoint>,
}

/// Proof that every table acknowledged everything up to these positions.
#[derive(Debug)]
pub(crate) struct FlushReceipt {
    through: BTreeMap<PartitionId, LogOffset>,
    rows: u64,
}

impl FlushReceipt {
    /// Up to where the views show each partition.
    pub(crate) fn through(&self) -> &BTreeMap<PartitionId, LogOffset> {
        &self.through
    }

    /// How many rows were acknowledged.
    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }
}

/// What a job has done.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) receipt: FlushReceipt,
    /// The checkpoints that are durable now.
    pub(crate) checkpoints: BTreeMap<PartitionId, Checkpoint>,
    pub(crate) checkpoint_took: Duration,
}

/// Writes the job, in the only order that is right: rows, receipt, checkpoint.
pub(crate) async fn run(cx: Context, job: Job) -> Done {
    let Job { tables, rejects, through, checkpoint } = job;
    crash::point("before_view_flush");
    let started = Instant::now();
    let receipt = write_views(&cx, tables, rejects, through).await;
    cx.metrics.flush_seconds.observe(started.elapsed().as_secs_f64());
    crash::point("after_view_flush");
    let started = Instant::now();
    let checkpoints = match checkpoint {
        Some(job) => write_checkpoint(&cx, &receipt, job).await,
        None => BTreeMap::new(),
    };
    let checkpoint_took = started.elapsed();
    if !checkpoints.is_empty() {
        cx.metrics.checkpoint_seconds.observe(checkpoint_took.as_secs_f64());
    }
    Done { receipt, checkpoints, checkpoint_took }
}

async fn write_views(
    cx: &Context,
    tables: Vec<TableBatch>,
    mut rejects: Vec<Reject>,
    through: BTreeMap<PartitionId, LogOffset>,
) -> FlushReceipt {
    let mut writes = JoinSet::new();
    for table in tables {
        let cx = cx.clone();
        writes.spawn(async move { write_table(&cx, table).await });
    }
    let mut rows = 0;
    while let Some(written) = writes.join_next().await {
        match written {
            Ok(written) => {
                rows += written.rows;
                rejects.extend(written.refused);
            }
            // Only a bug ends a write early. Without an acknowledgement there must be no receipt.
            Err(stopped) => std::panic::resume_unwind(match stopped.try_into_panic() {
                Ok(panic) => panic,
                Err(cancelled) => Box::new(cancelled.to_string()),
            }),
        }
        crash::point("between_view_tables");
    }
    append_rejects(cx, rejects).await;
    crash::point("after_rejected_append");
    FlushReceipt { through, rows }
}

struct Written {
    rows: u64,
    refused: Vec<Reject>,
}

/// Writes one table's rows: in as few inserts as its partitions allow, halving what is refused.
async fn write_table(cx: &Context, rows: TableBatch) -> Written {
    let table = rows.table();
    let label = TableLabel { table };
    let columns: Vec<&'static str> = rows.columns().iter().map(|column| column.name).collect();
    let mut written = Written { rows: 0, refused: Vec::new() };
    let mut todo = rows.split_months(MONTHS_MAX);
    // The last is taken first: reversed, the order of the rows is kept.
    todo.reverse();
    let mut backoff = Backoff::default();
    while let Some(part) = todo.pop() {
        let rows = Bytes::copy_from_slice(part.bytes());
        match cx.tables.insert(Insert { table, columns: columns.clone(), rows }).await {
            Ok(()) => {
                written.rows += part.row_count() as u64;
                cx.metrics.rows_written.get_or_create(&label).inc_by(part.row_count() as u64);
                cx.metrics.rows_flushed.inc_by(part.row_count() as u64);
                backoff = Backoff::default();
            }
            Err(error @ (TableError::Refused { .. } | TableError::TooManyPartitions { .. })) => {
                let rows = part.row_count();
                if rows > 1 {
                    todo.extend([part.slice(rows / 2..rows), part.slice(0..rows / 2)]);
                } else {
                    cx.metrics.rows_refused.get_or_create(&label).inc();
                    written.refused.extend(
                        part.positions().map(|at| refused_row(table, at, part.bytes(), &error)),
                    );
                }
            }
            Err(error @ TableError::Unavailable { .. }) => {
                cx.metrics.insert_retries.inc();
                backoff.wait(&error, "writing rows").await;
                todo.push(part);
            }
        }
    }
    written
}

/// A row that no insert can take, as an entry of the rejected log.
fn refused_row(table: &str, at: Position, row: &[u8], error: &TableError) -> Reject {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    let mut reason = String::new();
    while let Some(error) = cause {
        if !reason.is_empty() {
            reason.push_str(": ");
        }
        reason.push_str(&error.to_string());
        cause = error.source();
    }
    tracing::error!(
        table,
        partition = at.partition.get(),
        offset = at.offset.get(),
        reason,
        "a row was refused for its content and goes to the rejected log"
    );
    Reject {
        at,
        school_id: None,
        app: None,
        type_name: None,
        reason: RejectReason::InvalidField,
        field: Some(table.to_owned()),
        message: reason,
        received_at: None,
        raw: row.to_vec(),
    }
}

/// Appends to the rejected log until every record is acknowledged.
async fn append_rejects(cx: &Context, rejects: Vec<Reject>) {
    let partitions = cx.log.partitions(Topic::Rejected).max(1);
    let mut todo: Vec<NewRecord> =
        rejects.into_iter().map(|reject| new_record(reject, partitions)).collect();
    let mut backoff = Backoff::default();
    while !todo.is_empty() {
        let outcomes = cx.log.append(Topic::Rejected, todo.clone()).await;
        let mut failed = None;
        let mut outcomes = outcomes.into_iter();
        todo.retain(|record| match outcomes.next() {
            Some(Ok(_offset)) => false,
            Some(Err(error)) => match error.retry() {
                Retry::Later => {
                    failed = Some(error);
                    true
                }
                // Larger than the log takes: what can be kept is said in the log file instead.
                Retry::Never => {
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        bytes = record.payload.len(),
                        "a rejected record cannot be kept in the rejected log"
                    );
                    false
                }
            },
            None => true,
        });
        if let Some(error) = failed {
            backoff.wait(&error, "appending to the rejected log").await;
        }
    }
}

fn new_record(reject: Reject, partitions: u32) -> NewRecord {
    let at = reject.at;
    let record: RejectedRecord = reject.into_record();
    NewRecord {
        partition: PartitionId::new(at.partition.get() % partitions),
        key: Bytes::copy_from_slice(record.school_id.as_str().as_bytes()),
        timestamp: record.received_at,
        payload: Bytes::from(record.encode()),
        identity: None,
    }
}

/// Writes states and checkpoints as one insert of one block. Needs the receipt of a flush that
/// covers every position that is about to be promised.
async fn write_checkpoint(
    cx: &Context,
    receipt: &FlushReceipt,
    job: CheckpointJob,
) -> BTreeMap<PartitionId, Checkpoint> {
    for (partition, checkpoint) in &job.checkpoints {
        let flushed = receipt.through.get(partition);
        assert!(
            flushed.is_some_and(|flushed| *flushed >= checkpoint.next),
            "the checkpoint of {partition} at {} is ahead of its rows at {flushed:?}",
            checkpoint.next
        );
    }
    let states = job.states.len() as u64;
    let rows = Bytes::from(encode_states(cx.epoch, &job));
    crash::point("before_checkpoint");
    let mut backoff = Backoff::default();
    loop {
        let insert =
            Insert { table: FOLD_STATE, columns: FOLD_STATE_COLUMNS.to_vec(), rows: rows.clone() };
        match cx.tables.insert(insert).await {
            Ok(()) => break,
            Err(error) => {
                cx.metrics.insert_retries.inc();
                backoff.wait(&error, "writing a checkpoint").await;
            }
        }
    }
    cx.metrics.states_written.inc_by(states);
    cx.metrics.rows_flushed.inc_by(states + job.checkpoints.len() as u64);
    crash::point("after_checkpoint");
    job.checkpoints
}

fn encode_states(epoch: Epoch, job: &CheckpointJob) -> Vec<u8> {
    let mut rows = Vec::new();
    let mut row = |partition: PartitionId, kind: &[u8], key: &[u8], version: u64, state: &[u8]| {
        put_u32(&mut rows, epoch.get());
        put_u32(&mut rows, partition.get());
        put_bytes(&mut rows, kind);
        put_bytes(&mut rows, key);
        put_u64(&mut rows, version);
        put_bytes(&mut rows, state);
    };
    for (partition, state) in &job.states {
        let kind: &str = state.kind.as_ref();
        row(*partition, kind.as_bytes(), &state.key, state.version.get(), &state.state);
    }
    for (partition, checkpoint) in &job.checkpoints {
        let state = checkpoint.encode().unwrap_or_default();
        assert!(!state.is_empty(), "a checkpoint always encodes");
        row(*partition, checkpoint::KIND.as_bytes(), b"", checkpoint.next.get(), &state);
    }
    rows
}
