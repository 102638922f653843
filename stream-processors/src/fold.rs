//! The fold lane: records of the log become states and rows, one partition after the other.
//!
//! In: the records of a partition from exactly its position on. Out: rows in the batch, and what
//! goes to the rejected log. Runs on a blocking thread, no I/O but the first-seen index.
//! Always true: every record moves the position by one, whatever it holds; a record that cannot be
//! read, a control record that cannot be applied and a duplicate change no state.
//! Not here: what an event means (core), when to flush ([`crate::processor`]).
//!
//! A control record whose content does not decode is the same in every partition and on every
//! replay, and was validated before it was published. Stopping would hold up every school for a
//! parameter table; so it is left out, visibly: in `rejected_events` with its position, in a metric
//! and as an error in the log. A blob that is missing or does not have its hash is not such a case:
//! the partition waits for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use chalkstream_core::{PartitionState, Position, RowBatch};
use chalkstream_event_log::StoredRecord;
use chalkstream_schemas::{
    ControlBody, ControlPayload, ControlRecord, DecodeError, LogOffset, LogRecord, PartitionId,
    Timestamp,
};

use crate::checkpoint::{Checkpoint, LastRecord, LogName};
use crate::crash;
use crate::fingerprint::Fingerprint;
use crate::first_seen::{self, FirstSeen, Seen, SeenRange, Verdict};
use crate::flush::{CheckpointJob, Job};
use crate::metrics::Metrics;
use crate::rejects::Reject;

/// The name of a blob: the hash of its bytes.
pub(crate) type BlobHash = [u8; 32];

/// One partition that is being folded.
#[derive(Debug)]
pub(crate) struct Folded {
    state: PartitionState,
    /// The next offset to fold.
    next: LogOffset,
    last: Option<LastRecord>,
    /// Where the last checkpoint that was begun stands.
    checkpointed: LogOffset,
}

impl Folded {
    /// A partition with these states, up to `next`.
    pub(crate) fn new(state: PartitionState, next: LogOffset, last: Option<LastRecord>) -> Self {
        Self { state, next, last, checkpointed: next }
    }

    /// When the log stamped the record folded last.
    pub(crate) fn last_timestamp(&self) -> Option<Timestamp> {
        self.last.map(|last| last.timestamp())
    }
}

/// Records of one partition, decoded.
#[derive(Debug)]
pub(crate) struct Delivered {
    pub(crate) partition: PartitionId,
    records: Vec<(StoredRecord, Result<LogRecord, DecodeError>)>,
    /// Blobs that the control records among them name.
    pub(crate) blobs: Vec<BlobHash>,
}

impl Delivered {
    /// Decodes; CPU only.
    pub(crate) fn decode(partition: PartitionId, records: Vec<StoredRecord>) -> Self {
        let mut blobs = Vec::new();
        let records = records
            .into_iter()
            .map(|record| {
                let decoded = LogRecord::decode(&record.key, &record.payload);
                if let Ok(LogRecord::Control(control)) = &decoded
                    && let Some(ControlPayload::Blob { hash, .. }) = payload_of(control)
                {
                    blobs.push(*hash);
                }
                (record, decoded)
            })
            .collect();
        Self { partition, records, blobs }
    }

    /// Leaves out the first record that names this blob, and all behind it.
    pub(crate) fn end_before_blob(&mut self, missing: BlobHash) {
        let names_it = |decoded: &Result<LogRecord, DecodeError>| match decoded {
            Ok(LogRecord::Control(control)) => matches!(
                payload_of(control),
                Some(ControlPayload::Blob { hash, .. }) if *hash == missing
            ),
            Ok(LogRecord::Event(_)) | Err(_) => false,
        };
        if let Some(at) = self.records.iter().position(|(_, decoded)| names_it(decoded)) {
            self.records.truncate(at);
        }
    }
}

/// The payload that a control record carries or names.
fn payload_of(control: &ControlRecord) -> Option<&ControlPayload> {
    match &control.body {
        ControlBody::BktParameters { table, .. } => Some(table),
        ControlBody::SchoolSettings { .. } => None,
    }
}

/// All partitions that this process folds, and what they have not written yet.
#[derive(Debug)]
pub(crate) struct Folder {
    index: Arc<FirstSeen>,
    log: LogName,
    metrics: Metrics,
    partitions: BTreeMap<PartitionId, Folded>,
    rows: RowBatch,
    rejects: Vec<Reject>,
    /// Whether a position moved since the last job.
    moved: bool,
}

impl Folder {
    pub(crate) fn new(index: Arc<FirstSeen>, log: LogName, metrics: Metrics) -> Self {
        Self {
            index,
            log,
            metrics,
            partitions: BTreeMap::new(),
            rows: RowBatch::new(),
            rejects: Vec::new(),
            moved: false,
        }
    }

    /// A folder for the same index and log without any partition.
    pub(crate) fn empty(&self) -> Self {
        Self::new(Arc::clone(&self.index), self.log.clone(), self.metrics.clone())
    }

    pub(crate) fn add(&mut self, partition: PartitionId, folded: Folded) {
        self.partitions.insert(partition, folded);
    }

    /// Forgets a partition's states. Its rows that wait in the batch are still written: harmless,
    /// whoever owns it next writes them again, equal.
    pub(crate) fn remove(&mut self, partition: PartitionId) {
        self.partitions.remove(&partition);
    }

    pub(crate) fn holds(&self, partition: PartitionId) -> bool {
        self.partitions.contains_key(&partition)
    }

    /// The next offset of a partition.
    pub(crate) fn position(&self, partition: PartitionId) -> Option<LogOffset> {
        self.partitions.get(&partition).map(|folded| folded.next)
    }

    /// The next offset of each partition.
    pub(crate) fn positions(&self) -> BTreeMap<PartitionId, LogOffset> {
        self.partitions.iter().map(|(id, folded)| (*id, folded.next)).collect()
    }

    /// Bytes of rows that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.rows.byte_count() + self.rejects.iter().map(|reject| reject.raw.len()).sum::<usize>()
    }

    /// Whether anything was folded since the last job.
    pub(crate) fn has_news(&self) -> bool {
        self.moved
    }

    /// Whether some partition stands beyond its checkpoint.
    pub(crate) fn is_beyond_checkpoint(&self) -> bool {
        self.partitions.values().any(|folded| folded.checkpointed < folded.next)
    }

    /// Folds the records. After an error the partition stands where it stood.
    pub(crate) fn fold(
        &mut self,
        delivered: Delivered,
        blobs: &BTreeMap<BlobHash, Bytes>,
    ) -> Result<(), first_seen::Error> {
        let Delivered { partition, mut records, blobs: _ } = delivered;
        let Some(folded) = self.partitions.get_mut(&partition) else { return Ok(()) };
        // A subscription that starts over may deliver what is folded already.
        records.retain(|(record, _)| record.offset >= folded.next);
        let Some((last, _)) = records.last() else { return Ok(()) };
        let fingerprint = Fingerprint::of(last);
        let last =
            LastRecord { offset: last.offset, timestamp_ms: last.timestamp.as_ms(), fingerprint };
        let range = SeenRange {
            from: folded.next,
            through: last.offset.next(),
            fingerprint: Some(fingerprint),
            events: records
                .iter()
                .filter_map(|(record, decoded)| match decoded {
                    Ok(LogRecord::Event(event)) => {
                        Some(Seen::new(record.offset, record.timestamp, event))
                    }
                    Ok(LogRecord::Control(_)) | Err(_) => None,
                })
                .collect(),
        };
        let mut verdicts = self.index.observe(partition, &range)?.into_iter();
        crash::point("after_observe");
        let (mut events, mut duplicates) = (0, 0);
        for (record, decoded) in &records {
            let at = Position { partition, offset: record.offset };
            match decoded {
                Ok(LogRecord::Event(event)) => match verdicts.next() {
                    Some(Verdict::First) => {
                        folded.state.apply_event(record.offset, event, &mut self.rows);
                        events += 1;
                    }
                    Some(Verdict::Duplicate { same_content: true, .. }) => duplicates += 1,
                    Some(Verdict::Duplicate { of, same_content: false }) => {
                        self.metrics.conflicts.inc();
                        self.rejects.push(Reject::conflict(at, record, event, of));
                    }
                    None => unreachable!("the index gives one verdict an event"),
                },
                Ok(LogRecord::Control(control)) => {
                    let empty = Bytes::new();
                    let payload: &[u8] = match payload_of(control) {
                        Some(ControlPayload::Inline(bytes)) => bytes,
                        Some(ControlPayload::Blob { hash, .. }) => {
                            blobs.get(hash).unwrap_or(&empty)
                        }
                        None => &empty,
                    };
                    match folded.state.apply_control(
                        record.offset,
                        control,
                        payload,
                        &mut self.rows,
                    ) {
                        Ok(_) => {
                            self.metrics.control_records.inc();
                        }
                        Err(error) => {
                            self.metrics.control_refused.inc();
                            tracing::error!(
                                partition = partition.get(),
                                offset = record.offset.get(),
                                control_id = %control.control_id,
                                error = &error as &dyn std::error::Error,
                                "a control record cannot be applied and is left out"
                            );
                            self.rejects.push(Reject::control(at, record, &error));
                        }
                    }
                }
                Err(error) => {
                    self.metrics.undecodable.inc();
                    tracing::error!(
                        partition = partition.get(),
                        offset = record.offset.get(),
                        error = error as &dyn std::error::Error,
                        "a log record cannot be read and goes to the rejected log"
                    );
                    self.rejects.push(Reject::undecodable(at, record, error));
                }
            }
        }
        self.metrics.events_folded.inc_by(events);
        self.metrics.duplicates.inc_by(duplicates);
        folded.next = range.through;
        folded.last = Some(last);
        self.moved = true;
        crash::point("after_fold");
        Ok(())
    }

    /// Takes out everything that waits, and with `checkpoint` the states touched since the last one.
    pub(crate) fn take_job(&mut self, checkpoint: bool) -> Job {
        let mut due = checkpoint.then(CheckpointJob::default);
        for (id, folded) in &mut self.partitions {
            folded.state.drain_rows(&mut self.rows);
            if let Some(due) = &mut due
                && folded.checkpointed < folded.next
            {
                due.states.extend(folded.state.drain_states().into_iter().map(|row| (*id, row)));
                due.checkpoints
                    .insert(*id, Checkpoint::new(folded.next, self.log.clone(), folded.last));
                folded.checkpointed = folded.next;
            }
        }
        self.moved = false;
        Job {
            tables: self.rows.take(),
            rejects: std::mem::take(&mut self.rejects),
            through: self.positions(),
            checkpoint: due.filter(|due| !due.checkpoints.is_empty()),
        }
    }
}
