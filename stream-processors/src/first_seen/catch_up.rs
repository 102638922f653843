//! Closing the gap between what the index holds and where a consumer begins.
//!
//! The log is read where it still has the records; what it has trimmed comes from a [`History`]:
//! the `events` that were written, which are exactly those that counted.

use std::sync::Arc;

use async_trait::async_trait;
use chalkstream_event_log::{EventLog, StoredRecord, Topic};
use chalkstream_schemas::{LogOffset, LogRecord, PartitionId, Timestamp};

use super::{Error, FirstSeen, Seen, SeenRange};
use crate::fingerprint::Fingerprint;

const READ_BYTES: usize = 4 * 1024 * 1024;
const PAGE_EVENTS: usize = 100_000;

/// Events that counted and may be gone from the log.
#[async_trait]
pub trait History: Send + Sync + std::fmt::Debug {
    /// Those in `from..to` of the partition received at or after `not_before`, in order of their
    /// offsets, the first `limit` of them.
    async fn events(
        &self,
        partition: PartitionId,
        from: LogOffset,
        to: LogOffset,
        not_before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Seen>, Box<dyn std::error::Error + Send + Sync>>;
}

/// For a log that keeps everything: asking for what is older is an error, never an empty answer.
#[derive(Clone, Copy, Debug)]
pub struct NoHistory;

#[async_trait]
impl History for NoHistory {
    async fn events(
        &self,
        partition: PartitionId,
        from: LogOffset,
        to: LogOffset,
        _not_before: Timestamp,
        _limit: usize,
    ) -> Result<Vec<Seen>, Box<dyn std::error::Error + Send + Sync>> {
        Err(format!("{partition} needs events {from} to {to}, which the log no longer has").into())
    }
}

impl FirstSeen {
    /// Makes the index contiguous up to `upto`, so that [`FirstSeen::observe`] can go on from there.
    ///
    /// An index that is ahead of the log, or was filled from another log, begins anew.
    pub async fn catch_up(
        self: &Arc<Self>,
        log: &dyn EventLog,
        history: &dyn History,
        partition: PartitionId,
        upto: LogOffset,
    ) -> Result<(), Error> {
        let log_error = |source| Error::Log { partition, source: Box::new(source) };
        let lane = self.fills.get(partition.get() as usize).ok_or_else(|| Error::Store {
            doing: "find the partition in",
            path: self.path.clone(),
            source: format!("{partition} of {}", self.fills.len()).into(),
        })?;
        let _one_at_a_time = lane.lock().await;
        // Before the log's end, which only grows: others observe meanwhile, and an index that
        // stands beyond an end that was read earlier is not one of another log.
        let stands = self.stands(partition)?;
        let bounds = log.bounds(Topic::Events, partition).await.map_err(log_error)?;
        if !is_of(log, partition, stands, bounds.end).await? {
            tracing::warn!(
                partition = partition.get(),
                "the first-seen index was filled from records that the log does not hold; filling it again"
            );
            self.on_blocking_lane(move |index| index.clear(partition)).await?;
        }
        let mut at = match self.contiguous(partition)? {
            Some(at) => at,
            None => {
                self.partition(partition)?.lock().begin_at(LogOffset::ZERO);
                LogOffset::ZERO
            }
        };
        if at >= upto {
            return Ok(());
        }
        tracing::info!(
            partition = partition.get(),
            from = at.get(),
            upto = upto.get(),
            log_first = bounds.first.get(),
            "filling the first-seen index"
        );
        let trimmed = bounds.first.min(upto);
        if at < trimmed {
            let not_before = self.horizon_start(log, partition, upto, bounds.first).await?;
            at = self.fill_from_history(history, partition, at, trimmed, not_before).await?;
        }
        while at < upto {
            let records =
                log.read(Topic::Events, partition, at, READ_BYTES).await.map_err(log_error)?;
            if records.is_empty() {
                return Err(Error::Gap { partition, contiguous: Some(at), from: upto });
            }
            at = self
                .on_blocking_lane(move |index| {
                    let range = range_of(at, upto, &records);
                    index.observe(partition, &range)?;
                    Ok(range.through)
                })
                .await?;
        }
        self.on_blocking_lane(Self::persist).await
    }

    async fn fill_from_history(
        self: &Arc<Self>,
        history: &dyn History,
        partition: PartitionId,
        from: LogOffset,
        to: LogOffset,
        not_before: Timestamp,
    ) -> Result<LogOffset, Error> {
        let mut at = from;
        while at < to {
            let events = history
                .events(partition, at, to, not_before, PAGE_EVENTS)
                .await
                .map_err(|source| Error::History { partition, source })?;
            let through = match events.last() {
                Some(last) if events.len() >= PAGE_EVENTS => last.offset.next(),
                Some(_) | None => to,
            };
            let range = SeenRange { from: at, through, fingerprint: None, events };
            at = self
                .on_blocking_lane(move |index| {
                    index.observe(partition, &range)?;
                    Ok(range.through)
                })
                .await?;
        }
        Ok(at)
    }

    /// The oldest log timestamp that still matters to records from `upto` on.
    async fn horizon_start(
        &self,
        log: &dyn EventLog,
        partition: PartitionId,
        upto: LogOffset,
        first: LogOffset,
    ) -> Result<Timestamp, Error> {
        let near = LogOffset::new(upto.get().saturating_sub(1)).max(first);
        let records = match log.read(Topic::Events, partition, near, 1).await {
            Ok(records) => records,
            // Nothing is left in the log: every event of the history may matter.
            Err(chalkstream_event_log::Error::OutOfRange { .. }) => Vec::new(),
            Err(source) => return Err(Error::Log { partition, source: Box::new(source) }),
        };
        Ok(records.first().map_or(Timestamp::MIN, |record| {
            let ms = record.timestamp.as_ms().saturating_sub(self.horizon_ms);
            Timestamp::from_ms(ms.max(Timestamp::MIN.as_ms()))
        }))
    }

    /// Where the index of a partition ends, and the record just before.
    fn stands(&self, partition: PartitionId) -> Result<Stands, Error> {
        let index = self.partition(partition)?.lock();
        Ok((index.contiguous(), index.fingerprint()))
    }

    /// Runs blocking work on tokio's blocking threads.
    async fn on_blocking_lane<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let index = Arc::clone(self);
        match tokio::task::spawn_blocking(move || work(&index)).await {
            Ok(done) => done,
            Err(stopped) => Err(Error::Store {
                doing: "use",
                path: self.path.clone(),
                source: Box::new(stopped),
            }),
        }
    }
}

/// Where an index ends, if it has begun, and the record just before, where that is known.
type Stands = (Option<LogOffset>, Option<Fingerprint>);

/// Whether the record just before the index's end is still the one that it was filled from.
async fn is_of(
    log: &dyn EventLog,
    partition: PartitionId,
    (contiguous, fingerprint): Stands,
    log_end: LogOffset,
) -> Result<bool, Error> {
    let Some(contiguous) = contiguous else { return Ok(true) };
    if contiguous > log_end {
        return Ok(false);
    }
    let (Some(known), true) = (fingerprint, contiguous > LogOffset::ZERO) else {
        return Ok(true);
    };
    let last = LogOffset::new(contiguous.get() - 1);
    Ok(match record_at(log, partition, last).await? {
        Some(record) => Fingerprint::of(&record) == known,
        None => true,
    })
}

/// The record at exactly this offset; `None` where the log no longer (or never) had one.
async fn record_at(
    log: &dyn EventLog,
    partition: PartitionId,
    offset: LogOffset,
) -> Result<Option<StoredRecord>, Error> {
    match log.read(Topic::Events, partition, offset, 1).await {
        Ok(records) => Ok(records.into_iter().next().filter(|record| record.offset == offset)),
        Err(chalkstream_event_log::Error::OutOfRange { .. }) => Ok(None),
        Err(source) => Err(Error::Log { partition, source: Box::new(source) }),
    }
}

/// The part of `from..upto` that these records cover. Records that do not decode are part of the
/// range without being events.
fn range_of(from: LogOffset, upto: LogOffset, records: &[StoredRecord]) -> SeenRange {
    let mut range = SeenRange { from, through: from, fingerprint: None, events: Vec::new() };
    for record in records.iter().take_while(|record| record.offset < upto) {
        if let Ok(LogRecord::Event(event)) = LogRecord::decode(&record.key, &record.payload) {
            range.events.push(Seen::new(record.offset, record.timestamp, &event));
        }
        range.through = record.offset.next();
        range.fingerprint = Some(Fingerprint::of(record));
    }
    // Only a gap in the log's offsets leaves nothing below `upto` here.
    if range.through == from || records.iter().any(|record| record.offset >= upto) {
        range.through = upto;
    }
    range
}
