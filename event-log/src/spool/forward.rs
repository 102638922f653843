//! Forwarding: the oldest segment into Kafka, round by round, until nothing waits.
//!
//! Always true: within a partition, a record is appended only after Kafka acknowledged the one
//! before it or in the same append; positions move over what was acknowledged and nothing else;
//! what fails is tried again for ever. A round holds at most [`BATCH_BYTES`] a partition.
//! A partition that Kafka cannot take holds up the segments behind it: they are durable meanwhile.

use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::{LogOffset, PartitionId};
use tokio::task::JoinSet;

use super::Spool;
use super::segments::{self, Lane, Positions, size_of};
use crate::embedded::EmbeddedLog;
use crate::error::chain;
use crate::{AppendError, Error, EventLog, NewRecord, StoredRecord, Topic};

/// The group under which a segment keeps how far forwarding is.
pub(super) const GROUP: &str = "forwarded";

/// Read from one partition and appended at once.
const BATCH_BYTES: usize = 256 << 10;

/// The wait after something failed.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The wait for a segment that others have not let go of yet.
const LOCKED_WAIT: Duration = Duration::from_millis(10);

/// Forwards until the spool is closed.
pub(super) async fn run(spool: Arc<Spool>) {
    let mut closing = spool.closing.subscribe();
    tokio::select! {
        _ = closing.wait_for(|closing| *closing) => {}
        () = forward(&spool) => {}
    }
}

async fn forward(spool: &Arc<Spool>) {
    loop {
        let oldest = spool.segments.lock().oldest();
        let Some((number, log)) = oldest else {
            spool.filled.notified().await;
            continue;
        };
        if let Err(error) = drain(spool, number, log).await {
            let reason = chain(&error);
            tracing::error!(
                segment = number,
                reason,
                "the spool could not be forwarded; trying again"
            );
            stuck(spool, Some(&reason));
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
}

fn stuck(spool: &Spool, reason: Option<&str>) {
    *spool.stuck.lock() = reason.map(Into::into);
}

/// Forwards one segment until it is empty, and deletes it.
async fn drain(
    spool: &Arc<Spool>,
    number: u64,
    log: Option<Arc<EmbeddedLog>>,
) -> Result<(), Error> {
    let log = match log {
        Some(log) => log,
        None => open(spool, number).await?,
    };
    loop {
        let positions = spool.segments.lock().positions(number);
        let round = read_round(&log, &positions).await?;
        if round.is_empty() {
            if spool.segments.lock().retire(number) {
                break;
            }
            spool.filled.notified().await;
            continue;
        }
        let oldest = round.iter().flat_map(|(_, records)| records.first());
        let oldest = oldest.map(|record| record.timestamp.as_ms()).min();
        spool.segments.lock().set_oldest(oldest);
        let failed = append_round(spool, number, round).await;
        keep_positions(spool, number, &log).await;
        match failed {
            None => stuck(spool, None),
            Some(((topic, partition), error)) => {
                tracing::warn!(%topic, %partition, %error, "the spool is not forwarded; trying again");
                stuck(spool, Some(&format!("{topic} {partition}: {error}")));
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
    // A log that failed says so once more; everything in it is in Kafka.
    if let Err(error) = log.close().await {
        tracing::debug!(%error, segment = number, "a segment was not closed cleanly");
    }
    drop(log);
    segments::remove(spool.options.path.join(number.to_string())).await?;
    // There is room again, whatever failed before.
    *spool.paused.lock() = None;
    stuck(spool, None);
    Ok(())
}

/// Opens a segment of the row, once everybody else has let go of it.
async fn open(spool: &Spool, number: u64) -> Result<Arc<EmbeddedLog>, Error> {
    loop {
        match segments::open(&spool.options, spool.partitions, number).await {
            Err(Error::Locked { .. }) => tokio::time::sleep(LOCKED_WAIT).await,
            opened => return opened,
        }
    }
}

/// The next records of every partition that has any.
async fn read_round(
    log: &EmbeddedLog,
    positions: &Positions,
) -> Result<Vec<(Lane, Vec<StoredRecord>)>, Error> {
    let mut round = Vec::new();
    for topic in Topic::ALL {
        for partition in (0..EventLog::partitions(log, topic)).map(PartitionId::new) {
            let lane = (topic, partition);
            let from = positions.get(&lane).copied().unwrap_or(LogOffset::ZERO);
            if from < log.bounds(topic, partition).await?.end {
                round.push((lane, log.read(topic, partition, from, BATCH_BYTES).await?));
            }
        }
    }
    Ok(round)
}

/// Appends each partition's records; moves the positions. Returns one failure, if there is any.
async fn append_round(
    spool: &Arc<Spool>,
    number: u64,
    round: Vec<(Lane, Vec<StoredRecord>)>,
) -> Option<(Lane, AppendError)> {
    let mut appends = JoinSet::new();
    for ((topic, partition), records) in round {
        let target = Arc::clone(&spool.target);
        appends.spawn(async move {
            let outcomes = target.append(topic, renewed(partition, &records)).await;
            ((topic, partition), records, outcomes)
        });
    }
    let mut failed = None;
    while let Some(appended) = appends.join_next().await {
        let Ok((lane, records, outcomes)) = appended else {
            // Its position has not moved, so the next round reads it again.
            tracing::error!("an append of the spool had a bug");
            continue;
        };
        // What follows a failure goes again with it, to keep the order.
        let acknowledged = outcomes.iter().take_while(|outcome| outcome.is_ok()).count();
        let records = records.get(..acknowledged).unwrap_or_default();
        if let Some(last) = records.last() {
            let size = |record: &StoredRecord| size_of(&record.key, &record.payload);
            let sizes: Vec<_> = records.iter().map(size).collect();
            spool.breaker.succeeded();
            spool.segments.lock().forwarded(number, lane, &sizes, last.offset.next());
            spool.shrunk.send_modify(|times| *times += 1);
        }
        if let Some(error) = outcomes.into_iter().find_map(Result::err) {
            failed = Some((lane, error));
        }
    }
    failed
}

fn renewed(partition: PartitionId, records: &[StoredRecord]) -> Vec<NewRecord> {
    let renew = |record: &StoredRecord| NewRecord {
        partition,
        key: record.key.clone(),
        payload: record.payload.clone(),
        timestamp: record.timestamp,
        identity: None,
    };
    records.iter().map(renew).collect()
}

/// Writes down how far it is. Where that fails, a restart forwards more of the segment again.
async fn keep_positions(spool: &Spool, number: u64, log: &EmbeddedLog) {
    let positions = spool.segments.lock().positions(number);
    for topic in Topic::ALL {
        let of_topic = positions.iter().filter(|((of, _), _)| *of == topic);
        let of_topic: Vec<_> = of_topic.map(|((_, partition), at)| (*partition, *at)).collect();
        let kept = async { log.subscribe(topic, GROUP).await?.commit(&of_topic).await };
        if let Err(error) = kept.await {
            tracing::debug!(%error, "the spool's position was not written");
        }
    }
}
