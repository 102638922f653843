//! The row of segments, and the account of what waits in them.
//!
//! Always true: a record counts from before it is written until Kafka has acknowledged it or the
//! write failed, so a partition that counts zero has nothing under way. The newest segment alone
//! takes records, unless it is sealed; a segment goes only when it counts zero.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chalkstream_schemas::{LogOffset, PartitionId};

use super::{SpoolOptions, SpoolStatus, age};
use crate::embedded::{EmbeddedLog, EmbeddedOptions};
use crate::{AppendError, Error, EventLog, NewRecord, Topic};

/// Bytes of a recovered segment that are read at once.
const RECOVER_BYTES: usize = 4 << 20;

/// Memory for blocks of a segment that were read.
const CACHE_BYTES: u64 = 4 << 20;

/// The bytes that a record counts.
pub(super) fn size_of(key: &[u8], payload: &[u8]) -> u64 {
    (key.len() + payload.len() + 64) as u64
}

fn size_of_new(record: &NewRecord) -> u64 {
    size_of(&record.key, &record.payload)
}

/// A partition of a topic.
pub(super) type Lane = (Topic, PartitionId);

/// The next record to forward of each partition.
pub(super) type Positions = BTreeMap<Lane, LogOffset>;

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Segments {
    /// Oldest first.
    row: VecDeque<Segment>,
    newest: u64,
    lanes: BTreeMap<Lane, u64>,
    records: u64,
    bytes: u64,
    oldest_ms: Option<i64>,
    spooled: u64,
    forwarded: u64,
    refused: u64,
}

#[derive(Debug)]
struct Segment {
    number: u64,
    /// Open while it takes records, and after a write failed; otherwise whoever forwards opens it.
    log: Option<Arc<EmbeddedLog>>,
    sealed: bool,
    /// Bytes that were ever claimed in it.
    filled: u64,
    /// Appends under way.
    writing: usize,
    records: u64,
    bytes: u64,
    /// Where forwarding goes on; a partition that is missing begins at its first record.
    positions: Positions,
}

/// Room in a segment for the records of one append.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) log: Arc<EmbeddedLog>,
    number: u64,
    lanes: Vec<(Lane, u64)>,
    oldest_ms: Option<i64>,
}

/// What nobody needs any more after a claim was settled.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    /// To be closed.
    pub(super) log: Option<Arc<EmbeddedLog>>,
    /// A segment without a record, to be deleted.
    pub(super) remove: Option<u64>,
}

impl Segments {
    /// Counts what an earlier process left; what was forwarded wholly is removed.
    pub(super) async fn recover(
        options: &SpoolOptions,
        partitions: u32,
        found: Vec<u64>,
    ) -> Result<Self, Error> {
        let mut segments = Self::default();
        for number in found {
            segments.newest = segments.newest.max(number);
            let log = open(options, partitions, number).await?;
            let (before, bytes) = (segments.records, segments.bytes);
            let positions = kept_positions(&log).await?;
            for (lane, from) in &positions {
                segments.count(&log, *lane, *from).await?;
            }
            log.close().await?;
            drop(log);
            let (records, bytes) = (segments.records - before, segments.bytes - bytes);
            if records == 0 {
                remove(options.path.join(number.to_string())).await?;
                continue;
            }
            let segment = Segment {
                number,
                log: None,
                sealed: true,
                filled: bytes,
                writing: 0,
                records,
                bytes,
                positions,
            };
            segments.row.push_back(segment);
        }
        if segments.records > 0 {
            let (records, bytes) = (segments.records, segments.bytes);
            tracing::warn!(records, bytes, "the spool holds records of an earlier run");
        }
        Ok(segments)
    }

    async fn count(&mut self, log: &EmbeddedLog, lane: Lane, from: LogOffset) -> Result<(), Error> {
        let mut next = from;
        loop {
            let found = log.read(lane.0, lane.1, next, RECOVER_BYTES).await?;
            let Some(last) = found.last() else { return Ok(()) };
            next = last.offset.next();
            self.records += found.len() as u64;
            *self.lanes.entry(lane).or_default() += found.len() as u64;
            for record in &found {
                self.bytes += size_of(&record.key, &record.payload);
                self.older(record.timestamp.as_ms());
            }
        }
    }

    fn older(&mut self, ms: i64) {
        self.oldest_ms = Some(self.oldest_ms.map_or(ms, |oldest| oldest.min(ms)));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.records == 0
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn holds(&self, topic: Topic, partition: PartitionId) -> bool {
        self.lanes.get(&(topic, partition)).is_some_and(|records| *records > 0)
    }

    pub(super) const fn next_number(&self) -> u64 {
        self.newest + 1
    }

    /// Claims room; `None` if a new segment has to begin.
    pub(super) fn claim(
        &mut self,
        topic: Topic,
        records: &[NewRecord],
        options: &SpoolOptions,
    ) -> Result<Option<Claim>, AppendError> {
        let lanes: Vec<_> =
            records.iter().map(|record| ((topic, record.partition), size_of_new(record))).collect();
        let bytes: u64 = lanes.iter().map(|(_, bytes)| *bytes).sum();
        if self.bytes.saturating_add(bytes) > options.max_bytes {
            let clamped = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
            let (queued_bytes, limit_bytes) = (clamped(self.bytes), clamped(options.max_bytes));
            return Err(AppendError::Busy { queued_bytes, limit_bytes });
        }
        let Some(active) = self.row.back_mut() else { return Ok(None) };
        let has_room = active.filled == 0 || active.filled + bytes <= options.segment_bytes;
        let (Some(log), false, true) = (&active.log, active.sealed, has_room) else {
            return Ok(None);
        };
        let log = Arc::clone(log);
        let count = lanes.len() as u64;
        active.filled += bytes;
        active.writing += 1;
        active.records += count;
        active.bytes += bytes;
        let number = active.number;
        self.records += count;
        self.bytes += bytes;
        for (lane, _) in &lanes {
            *self.lanes.entry(*lane).or_default() += 1;
        }
        let oldest_ms = records.iter().map(|record| record.timestamp.as_ms()).min();
        Ok(Some(Claim { log, number, lanes, oldest_ms }))
    }

    /// What became of a claim.
    pub(super) fn settle(
        &mut self,
        claim: Claim,
        outcomes: &[Result<LogOffset, AppendError>],
        seal: bool,
    ) -> LetGo {
        let mut failed = Vec::new();
        for ((lane, bytes), outcome) in claim.lanes.iter().zip(outcomes) {
            match outcome {
                Ok(_) => self.spooled += 1,
                Err(_) => {
                    self.refused += 1;
                    failed.push((*lane, *bytes));
                }
            }
        }
        if failed.len() < claim.lanes.len()
            && let Some(ms) = claim.oldest_ms
        {
            self.older(ms);
        }
        self.forget(claim.number, failed);
        let place = self.row.iter().position(|segment| segment.number == claim.number);
        let Some((place, segment)) = place.and_then(|at| Some((at, self.row.get_mut(at)?))) else {
            return LetGo::default();
        };
        segment.writing -= 1;
        // A log that failed stays open: it may not open again before there is room.
        segment.sealed |= seal;
        if !segment.sealed || segment.writing > 0 {
            return LetGo::default();
        }
        // The oldest is the forwarder's; one behind it that holds nothing would only pile up.
        let remove = (segment.records == 0 && place > 0).then_some(claim.number);
        let unused = segment.log.is_none() || remove.is_some();
        if remove.is_some() {
            self.row.remove(place);
        }
        LetGo { log: unused.then_some(claim.log), remove }
    }

    pub(super) fn count_refused(&mut self, records: usize) {
        self.refused += records as u64;
    }

    /// A new segment takes records from now on. Returns the log of the one before, if it is free.
    pub(super) fn begin(&mut self, number: u64, log: Arc<EmbeddedLog>) -> Option<Arc<EmbeddedLog>> {
        let is_oldest = self.row.len() <= 1;
        let before = self.row.back_mut().and_then(|before| {
            let failed = before.sealed;
            before.sealed = true;
            // The oldest is being forwarded, a failed one may not open again.
            if is_oldest || failed { None } else { before.log.take() }
        });
        self.newest = number;
        self.row.push_back(Segment {
            number,
            log: Some(log),
            sealed: false,
            filled: 0,
            writing: 0,
            records: 0,
            bytes: 0,
            positions: Positions::new(),
        });
        before
    }

    /// The segment to forward: its number, and its log if it is open.
    pub(super) fn oldest(&self) -> Option<(u64, Option<Arc<EmbeddedLog>>)> {
        self.row.front().map(|segment| (segment.number, segment.log.clone()))
    }

    /// Where forwarding a segment goes on.
    pub(super) fn positions(&self, number: u64) -> Positions {
        let segment = self.row.iter().find(|segment| segment.number == number);
        segment.map(|segment| segment.positions.clone()).unwrap_or_default()
    }

    /// Kafka has acknowledged records of a partition, of these sizes; forwarding goes on at `next`.
    pub(super) fn forwarded(&mut self, number: u64, lane: Lane, sizes: &[u64], next: LogOffset) {
        self.forwarded += sizes.len() as u64;
        if let Some(segment) = self.row.iter_mut().find(|segment| segment.number == number) {
            segment.positions.insert(lane, next);
        }
        self.forget(number, sizes.iter().map(|bytes| (lane, *bytes)));
    }

    /// The oldest record that waits now.
    pub(super) fn set_oldest(&mut self, ms: Option<i64>) {
        if ms.is_some() {
            self.oldest_ms = ms;
        }
    }

    fn forget(&mut self, number: u64, gone: impl IntoIterator<Item = (Lane, u64)>) {
        let segment = self.row.iter_mut().find(|segment| segment.number == number);
        let Some(segment) = segment else { return };
        for (lane, bytes) in gone {
            segment.records = segment.records.saturating_sub(1);
            segment.bytes = segment.bytes.saturating_sub(bytes);
            self.records = self.records.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(bytes);
            if let Some(waiting) = self.lanes.get_mut(&lane) {
                *waiting = waiting.saturating_sub(1);
            }
        }
        if self.records == 0 {
            self.oldest_ms = None;
        }
    }

    /// Takes the oldest segment out of the row, if nothing waits in it and nobody writes to it.
    pub(super) fn retire(&mut self, number: u64) -> bool {
        let done = self.row.front().is_some_and(|oldest| {
            oldest.number == number && oldest.records == 0 && oldest.writing == 0
        });
        if done {
            self.row.pop_front();
        }
        done
    }

    pub(super) fn status(&self) -> SpoolStatus {
        SpoolStatus {
            records: self.records,
            bytes: self.bytes,
            oldest_age: self.oldest_ms.map(age),
            spooled: self.spooled,
            forwarded: self.forwarded,
            refused: self.refused,
            ..SpoolStatus::default()
        }
    }

    /// Every log that is open, to be closed.
    pub(super) fn let_go(&mut self) -> Vec<Arc<EmbeddedLog>> {
        self.row.iter_mut().filter_map(|segment| segment.log.take()).collect()
    }
}

/// The numbers of the segments in a folder, oldest first.
pub(super) fn numbers(path: &Path) -> Result<Vec<u64>, Error> {
    let io = |source| Error::Io { doing: "read the folder", path: path.to_owned(), source };
    let mut numbers = Vec::new();
    for entry in fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        numbers.extend(entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Opens a segment that was made before.
pub(super) async fn open(
    options: &SpoolOptions,
    partitions: u32,
    number: u64,
) -> Result<Arc<EmbeddedLog>, Error> {
    let options = EmbeddedOptions {
        partitions,
        cache_bytes: CACHE_BYTES,
        events_retention: None,
        rejected_retention: None,
        ..EmbeddedOptions::new(options.path.join(number.to_string()))
    };
    let opening = tokio::task::spawn_blocking(move || EmbeddedLog::open(options));
    opening.await.map_err(|_panicked| Error::Internal { what: "opening a segment of the spool" })?
}

/// Makes a new segment; one that could not be made whole leaves nothing behind.
pub(super) async fn make(
    options: &SpoolOptions,
    partitions: u32,
    number: u64,
) -> Result<Arc<EmbeddedLog>, Error> {
    let made = open(options, partitions, number).await;
    if made.is_err()
        && let Err(error) = remove(options.path.join(number.to_string())).await
    {
        tracing::warn!(%error, "an unfinished segment of the spool was left behind");
    }
    made
}

/// Where forwarding an earlier process's segment goes on.
async fn kept_positions(log: &EmbeddedLog) -> Result<Positions, Error> {
    let mut positions = Positions::new();
    for topic in Topic::ALL {
        let group = log.subscribe(topic, super::forward::GROUP).await?;
        for partition in (0..EventLog::partitions(log, topic)).map(PartitionId::new) {
            let kept = group.committed(partition).await?.unwrap_or(LogOffset::ZERO);
            // Written without an fsync, so it may be ahead of what a loss of power left.
            let end = log.bounds(topic, partition).await?.end;
            positions.insert((topic, partition), kept.min(end));
        }
    }
    Ok(positions)
}

/// Deletes the folder of a segment.
pub(super) async fn remove(folder: PathBuf) -> Result<(), Error> {
    let removing = tokio::task::spawn_blocking(move || match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: "remove the folder", path: folder, source: error })
        }
        _ => Ok(()),
    });
    removing.await.map_err(|_panicked| Error::Internal { what: "removing a segment" })?
}

/// Lets go of a log where blocking harms nobody: the last handle waits for its threads.
pub(super) fn close_aside(log: Option<Arc<EmbeddedLog>>) {
    if let Some(log) = log {
        drop(tokio::task::spawn_blocking(move || drop(log)));
    }
}
