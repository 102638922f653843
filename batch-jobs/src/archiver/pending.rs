//! What was read from the log and is not committed yet.
//!
//! Always true: every event of its ranges that counts is in `rows` or in the open Parquet
//! file, once, and every control record in `controls`. Memory is bounded: `rows` by
//! [`BATCH_ROWS`], the open file by one row group and the size at which a commit is due.

use std::collections::BTreeMap;

use chalkstream_schemas::{LearningEvent, LogOffset, PartitionId};
use deltalake::errors::DeltaTableError;
use deltalake::kernel::Add;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use tokio::time::Instant;

use super::rows::{ControlRow, EventRows};
use crate::lake::tail::Range;

/// Rows that are turned into one Arrow batch.
const BATCH_ROWS: usize = 8_192;

#[derive(Debug)]
pub(super) struct Pending {
    ranges: BTreeMap<PartitionId, Range>,
    pub(super) controls: Vec<ControlRow>,
    /// When the oldest record came in.
    pub(super) since: Option<Instant>,
    /// Bytes of the log's records in the ranges.
    pub(super) log_bytes: usize,
    event_count: u64,
    rows: EventRows,
    writer: Option<RecordBatchWriter>,
}

impl Pending {
    pub(super) fn new() -> Self {
        Self {
            ranges: BTreeMap::new(),
            controls: Vec::new(),
            since: None,
            log_bytes: 0,
            event_count: 0,
            rows: EventRows::new(),
            writer: None,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn push(
        &mut self,
        partition: PartitionId,
        offset: LogOffset,
        event: &LearningEvent,
    ) {
        self.rows.push(partition, offset, event);
        self.event_count += 1;
    }

    /// Notes that the partition's records `from..to` are in here.
    pub(super) fn extend(&mut self, partition: PartitionId, from: LogOffset, to: LogOffset) {
        self.since.get_or_insert_with(Instant::now);
        self.ranges
            .entry(partition)
            .and_modify(|range| range.to = to)
            .or_insert(Range { from, to });
    }

    /// Whether a batch is full.
    pub(super) fn batch_is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS
    }

    /// Moves the rows so far into the open Parquet file.
    pub(super) async fn write_batch(
        &mut self,
        open: impl FnOnce() -> Result<RecordBatchWriter, crate::lake::Error>,
    ) -> Result<(), WriteError> {
        if self.rows.len() == 0 {
            return Ok(());
        }
        let batch = self.rows.take()?;
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(open()?),
        };
        writer.write(batch).await?;
        Ok(())
    }

    /// Bytes of the open Parquet file.
    pub(super) fn file_bytes(&self) -> usize {
        self.writer.as_ref().map_or(0, RecordBatchWriter::buffer_len)
    }

    /// Closes the Parquet file; nobody sees it before a commit names it.
    pub(super) async fn close(self) -> Result<Closed, WriteError> {
        let files = match self.writer {
            None => Vec::new(),
            Some(mut writer) => writer.flush().await?,
        };
        Ok(Closed {
            files,
            ranges: self.ranges,
            controls: self.controls,
            log_bytes: self.log_bytes,
            event_count: self.event_count,
        })
    }
}

/// What was pending, with its file complete and ready to be committed.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) files: Vec<Add>,
    pub(super) ranges: BTreeMap<PartitionId, Range>,
    pub(super) controls: Vec<ControlRow>,
    pub(super) log_bytes: usize,
    pub(super) event_count: u64,
}

/// Why rows could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error("rows do not fit the table")]
    Rows(#[from] arrow::error::ArrowError),
    #[error("the Parquet file could not be written")]
    File(#[from] DeltaTableError),
    #[error(transparent)]
    Lake(#[from] crate::lake::Error),
}
