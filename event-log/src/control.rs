//! Publishing control records: the same record in every partition of the events.
//!
//! Always true: `publish` returns only when every partition acknowledged the record, so it holds
//! for every event acknowledged after that; a blob that a record names is durable before the
//! record is. A record may stand in a partition twice, under one control id, and counts once.
//! Not here: what control records mean (folds) and when they apply (the stream processors).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use chalkstream_schemas::{
    ControlBody, ControlPayload, ControlRecord, LogRecord, PartitionId, Timestamp,
};
use uuid::Uuid;

use crate::blobs::BlobStore;
use crate::{AppendError, Error, EventLog, NewRecord, Retry, Topic};

/// Payloads above this become blobs.
pub const INLINE_MAX_BYTES: usize = 64 * 1024;

/// The key of control records, which can be no learner's: those begin with a length.
pub const CONTROL_KEY: &[u8] = b"\xff\xffcontrol";

/// How often a partition that did not acknowledge is tried, and the longest wait in between.
const TRIES: u32 = 12;
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Writes the same record to every partition of the events, and waits for all of them.
pub async fn publish(
    log: &dyn EventLog,
    blobs: &BlobStore,
    body: ControlBody,
) -> Result<ControlRecord, Error> {
    let body = with_blob(blobs, body).await?;
    let record = ControlRecord { control_id: Uuid::now_v7(), issued_at: now(), body };
    let payload = Bytes::from(LogRecord::Control(record.clone()).encode());
    let mut open: Vec<PartitionId> =
        (0..log.partitions(Topic::Events)).map(PartitionId::new).collect();
    let mut wait = Duration::from_millis(20);
    for attempt in 1.. {
        let failed = append(log, &open, &payload, record.issued_at).await;
        let Some((partition, source)) = failed.first().cloned() else { break };
        if attempt == TRIES || source.retry() == Retry::Never || is_stopped(&source) {
            return Err(Error::Append { topic: Topic::Events, partition, source });
        }
        open = failed.into_iter().map(|(partition, _)| partition).collect();
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    Ok(record)
}

/// The bytes of a control record's payload, wherever they are.
pub async fn resolve(blobs: &BlobStore, payload: &ControlPayload) -> Result<Bytes, Error> {
    match payload {
        ControlPayload::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
        ControlPayload::Blob { hash, .. } => blobs.get(*hash).await,
    }
}

/// Appends to the partitions; returns those that did not acknowledge, and why.
async fn append(
    log: &dyn EventLog,
    partitions: &[PartitionId],
    payload: &Bytes,
    timestamp: Timestamp,
) -> Vec<(PartitionId, AppendError)> {
    let records = partitions.iter().map(|partition| NewRecord {
        partition: *partition,
        key: Bytes::from_static(CONTROL_KEY),
        payload: payload.clone(),
        timestamp,
        identity: None,
    });
    let outcomes = log.append(Topic::Events, records.collect()).await;
    partitions
        .iter()
        .zip(outcomes)
        .filter_map(|(partition, outcome)| outcome.err().map(|error| (*partition, error)))
        .collect()
}

/// Moves a payload that is too large into a blob.
async fn with_blob(blobs: &BlobStore, body: ControlBody) -> Result<ControlBody, Error> {
    match body {
        ControlBody::BktParameters {
            school_id,
            model_version,
            table: ControlPayload::Inline(bytes),
        } if bytes.len() > INLINE_MAX_BYTES => {
            let length = bytes.len() as u64;
            let hash = blobs.put(bytes.into()).await?;
            let table = ControlPayload::Blob { hash, bytes: length };
            Ok(ControlBody::BktParameters { school_id, model_version, table })
        }
        body @ (ControlBody::BktParameters { .. } | ControlBody::SchoolSettings { .. }) => Ok(body),
    }
}

/// A stopped log stays stopped, so waiting here helps nobody.
const fn is_stopped(error: &AppendError) -> bool {
    matches!(error, AppendError::Stopped { .. })
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
