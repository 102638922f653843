//! What every log must do, as tests that run on each of them.
//!
//! In: a [`Ground`] that opens logs. Each case is a function of [`cases`]; the macro
//! [`conformance_tests!`](crate::conformance_tests) turns all of them into tests.
//! Always true: a case knows the trait alone, so what it finds holds for any log.
#![expect(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

pub mod cases;
pub mod crash;
pub mod subscriptions;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use chalkstream_schemas::{LogOffset, PartitionId, Timestamp};

use crate::{Delivery, EventLog, NewRecord, StoredRecord, Subscription, Topic};

/// When every record of the suite was received: now, or the log's retention would take them away.
static NOW: LazyLock<Timestamp> = LazyLock::new(|| {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap())
});

/// How long a case waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Opens logs of one kind for the suite.
#[async_trait]
pub trait Ground: Send + Sync + fmt::Debug {
    /// Opens the log; the first time it is created, empty, with 12 partitions.
    async fn open(&self) -> Arc<dyn EventLog>;

    /// Opens the log with room for about so many bytes before it is busy.
    async fn open_with_queue(&self, bytes: usize) -> Arc<dyn EventLog>;

    /// Whether offsets begin at 0 and have no gaps.
    fn is_gapless(&self) -> bool;

    /// What a child process needs to open the same log: see [`crash`].
    fn address(&self) -> String;

    /// A folder for whatever the case needs besides.
    fn folder(&self) -> PathBuf;
}

/// Turns every case into a test on the ground that `$ground()` makes; `None` skips.
#[macro_export]
macro_rules! conformance_tests {
    ($ground:path) => {
        $crate::conformance_tests! { @each $ground: cases:
            offsets_rise_in_the_order_of_a_partition
            every_record_has_its_own_outcome
            concurrent_appends_lose_and_double_nothing
            a_reopened_log_keeps_everything_and_stays_the_same_log
            ranges_can_be_read_from_any_offset
            bounds_tell_where_a_partition_begins_and_ends
            topics_are_apart
            a_full_queue_refuses_and_what_it_took_is_there
            a_closed_log_refuses
            control_records_reach_every_partition
            large_control_payloads_become_blobs
        }
        $crate::conformance_tests! { @each $ground: subscriptions:
            nothing_comes_before_start
            a_reader_resumes_from_any_offset
            a_started_partition_can_be_started_over
            a_dropped_next_loses_nothing
            a_reader_without_patience_gets_on
            records_that_come_later_wake_a_reader
            groups_read_apart
            group_offsets_survive_a_restart
            starting_out_of_range_is_an_error
        }
        $crate::conformance_tests! { @each $ground: crash:
            acknowledged_records_survive_kill_9
        }
    };
    (@each $ground:path: $module:ident: $($case:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $case() {
            if let Some(ground) = $ground().await {
                $crate::conformance::$module::$case(&ground).await;
            }
        }
    )*};
}

/// A record for a partition; the text is all that the suite looks at.
pub fn record(partition: u32, text: impl Into<String>) -> NewRecord {
    let text = text.into();
    NewRecord {
        partition: PartitionId::new(partition),
        key: Bytes::from(format!("key of {text}")),
        payload: Bytes::from(text),
        timestamp: *NOW,
        identity: None,
    }
}

/// Appends and expects every record to be acknowledged.
pub async fn append_all(
    log: &dyn EventLog,
    topic: Topic,
    records: Vec<NewRecord>,
) -> Vec<LogOffset> {
    let count = records.len();
    let outcomes = log.append(topic, records).await;
    assert_eq!(outcomes.len(), count, "one outcome per record");
    outcomes.into_iter().map(|outcome| outcome.unwrap()).collect()
}

/// Reads a partition from `from` to its end, in pieces of about `step` bytes.
pub async fn read_all(
    log: &dyn EventLog,
    topic: Topic,
    partition: u32,
    from: LogOffset,
    step: usize,
) -> Vec<StoredRecord> {
    let mut found: Vec<StoredRecord> = Vec::new();
    let mut next = from;
    loop {
        let piece = log.read(topic, PartitionId::new(partition), next, step).await.unwrap();
        let Some(last) = piece.last() else { return found };
        next = last.offset.next();
        found.extend(piece);
    }
}

/// The texts of records.
pub fn texts(records: &[StoredRecord]) -> Vec<String> {
    records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
}

/// The next delivery, within [`PATIENCE`].
pub async fn next(reader: &mut dyn Subscription, awaited: &str) -> Delivery {
    match tokio::time::timeout(PATIENCE, reader.next()).await {
        Ok(delivery) => delivery.unwrap(),
        Err(_elapsed) => panic!("waited {PATIENCE:?} for {awaited}"),
    }
}

/// Waits until the reader holds all of `partitions` partitions.
pub async fn assigned(reader: &mut dyn Subscription, partitions: u32) -> Vec<PartitionId> {
    let mut held = Vec::new();
    while held.len() < partitions as usize {
        match next(reader, "the assignment of all partitions").await {
            Delivery::Assigned(more) => held.extend(more),
            Delivery::Revoked(gone) => held.retain(|partition| !gone.contains(partition)),
            Delivery::Records { .. } => panic!("records came before start"),
        }
    }
    held.sort();
    held
}

/// Collects records of a partition until there are `count` of them.
pub async fn collect(
    reader: &mut dyn Subscription,
    partition: u32,
    count: usize,
) -> Vec<StoredRecord> {
    let mut found = Vec::new();
    while found.len() < count {
        match next(reader, &format!("{count} records, after {}", found.len())).await {
            Delivery::Records { partition: of, records } => {
                assert_eq!(of.get(), partition, "only this partition was started");
                assert!(!records.is_empty(), "a delivery has records");
                found.extend(records);
            }
            Delivery::Assigned(_) | Delivery::Revoked(_) => {}
        }
    }
    found
}
