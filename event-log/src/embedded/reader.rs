//! Reading runs of records from the store.
//!
//! Always true: what is returned follows `from` without gaps and ends below the durable end; a
//! batch that does not follow the one before is damage, and said so.
//! Not here: waiting for more.

use chalkstream_schemas::{LogOffset, PartitionId};

use super::batch::{self, BatchError};
use super::bounds::AllBounds;
use super::store::{Store, base_of, damaged, record_key};
use crate::{Error, StoredRecord, Topic};

/// How much to return.
#[derive(Clone, Copy, Debug)]
pub(super) enum Until {
    /// At most so many bytes, and at least one record.
    Bytes(usize),
    /// Whole batches until they have so many bytes: none is decoded twice by who reads on.
    Batches(usize),
}

/// Where to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) topic: Topic,
    pub(super) partition: PartitionId,
    pub(super) from: LogOffset,
    pub(super) end: LogOffset,
}

/// Reads records from `span.from` on, below `span.end`.
pub(super) fn read(
    store: &Store,
    bounds: &AllBounds,
    span: Span,
    until: Until,
) -> Result<Vec<StoredRecord>, Error> {
    read_all(store, span, until).or_else(|error| {
        // A trim that went by meanwhile looks like a gap; the bounds tell.
        bounds.check(span.topic, span.partition, span.from)?;
        Err(error)
    })
}

fn read_all(store: &Store, span: Span, until: Until) -> Result<Vec<StoredRecord>, Error> {
    let Span { topic, partition, from, end } = span;
    let mut records = Vec::new();
    if from >= end {
        return Ok(records);
    }
    let broken = |error: &BatchError, at: LogOffset| {
        damaged(&store.path, &format!("{topic} {partition} near offset {at}: {error}"))
    };
    let start = batch_of(store, span)?;
    let batches =
        store.records.range(record_key(topic, partition, start)..record_key(topic, partition, end));
    let mut next = from;
    let mut bytes = 0_usize;
    for stored in batches {
        let value = stored.value().map_err(store.error("read records"))?;
        let decoded = batch::decode(&value).map_err(|error| broken(&error, next))?;
        for record in decoded {
            if record.offset < from || record.offset >= end {
                continue;
            }
            if record.offset != next {
                return Err(gap(store, span, next, record.offset));
            }
            bytes += record.key.len() + record.payload.len();
            if let Until::Bytes(limit) = until
                && bytes > limit
                && !records.is_empty()
            {
                return Ok(records);
            }
            next = record.offset.next();
            records.push(record);
        }
        let (Until::Bytes(limit) | Until::Batches(limit)) = until;
        if bytes >= limit {
            return Ok(records);
        }
    }
    if next < end {
        return Err(gap(store, span, next, end));
    }
    Ok(records)
}

/// The base of the batch that holds `span.from`.
fn batch_of(store: &Store, span: Span) -> Result<LogOffset, Error> {
    let Span { topic, partition, from, .. } = span;
    let before = store
        .records
        .range(record_key(topic, partition, LogOffset::ZERO)..=record_key(topic, partition, from))
        .next_back();
    let Some(before) = before else { return Err(gap(store, span, from, span.end)) };
    let key = before.key().map_err(store.error("find records"))?;
    base_of(&key).ok_or_else(|| damaged(&store.path, "a key of records is cut short"))
}

fn gap(store: &Store, span: Span, from: LogOffset, to: LogOffset) -> Error {
    let Span { topic, partition, .. } = span;
    damaged(
        &store.path,
        &format!("{topic} {partition} lacks the records from offset {from} up to {to}"),
    )
}
