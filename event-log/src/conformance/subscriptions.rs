//! Readers: assignment, start, resuming, groups.

use std::sync::Arc;
use std::time::Duration;

use chalkstream_schemas::{LogOffset, PartitionId};

use super::{Ground, PATIENCE, append_all, assigned, collect, next, record, texts};
use crate::{DEFAULT_PARTITIONS, Delivery, Error, EventLog, Topic};

const EVENTS: Topic = Topic::Events;

async fn fill(log: &dyn EventLog, partition: u32, count: usize) -> Vec<LogOffset> {
    let mut offsets = Vec::new();
    for start in (0..count).step_by(10) {
        let records = (start..count.min(start + 10)).map(|n| record(partition, n.to_string()));
        offsets.extend(append_all(log, EVENTS, records.collect()).await);
    }
    offsets
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// A reader is assigned every partition and is silent until it starts one.
pub async fn nothing_comes_before_start(ground: &dyn Ground) {
    let log = ground.open().await;
    fill(&*log, 0, 20).await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    let held = assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    assert_eq!(held, (0..DEFAULT_PARTITIONS).map(PartitionId::new).collect::<Vec<_>>());
    let silence = tokio::time::timeout(Duration::from_millis(300), reader.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    reader.start(PartitionId::new(0), LogOffset::ZERO).await.unwrap();
    assert_eq!(texts(&collect(&mut *reader, 0, 20).await), numbers(0..20));
}

/// From any offset on, exactly the records from there on come, in order.
pub async fn a_reader_resumes_from_any_offset(ground: &dyn Ground) {
    let log = ground.open().await;
    let offsets = fill(&*log, 7, 45).await;
    for at in [0, 1, 9, 10, 33, 44] {
        let mut reader = log.subscribe(EVENTS, "resuming").await.unwrap();
        assigned(&mut *reader, DEFAULT_PARTITIONS).await;
        reader.start(PartitionId::new(7), *offsets.get(at).unwrap()).await.unwrap();
        let found = collect(&mut *reader, 7, 45 - at).await;
        assert_eq!(texts(&found), numbers(at..45));
        let expected = offsets.get(at..).unwrap();
        assert_eq!(found.iter().map(|record| record.offset).collect::<Vec<_>>(), expected);
    }
}

/// Starting again goes back, or ahead, and nothing of before is mixed in.
pub async fn a_started_partition_can_be_started_over(ground: &dyn Ground) {
    let log = ground.open().await;
    let offsets = fill(&*log, 1, 30).await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    let partition = PartitionId::new(1);
    reader.start(partition, *offsets.first().unwrap()).await.unwrap();
    collect(&mut *reader, 1, 1).await;
    reader.start(partition, *offsets.get(20).unwrap()).await.unwrap();
    assert_eq!(texts(&collect(&mut *reader, 1, 10).await), numbers(20..30));
    reader.start(partition, *offsets.get(5).unwrap()).await.unwrap();
    assert_eq!(texts(&collect(&mut *reader, 1, 25).await), numbers(5..30));
}

/// `next` may be dropped at any await and called again.
pub async fn a_dropped_next_loses_nothing(ground: &dyn Ground) {
    let log = ground.open().await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    reader.start(PartitionId::new(0), LogOffset::ZERO).await.unwrap();
    let writer = {
        let log = Arc::clone(&log);
        tokio::spawn(async move { fill(&*log, 0, 400).await })
    };
    let mut found = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut patience_us = 1;
    while found.len() < 400 {
        assert!(tokio::time::Instant::now() < deadline, "after {} of 400 records", found.len());
        patience_us = patience_us % 5_000 + 97;
        let waited = Duration::from_micros(patience_us);
        match tokio::time::timeout(waited, reader.next()).await {
            Err(_dropped) => {}
            Ok(Ok(Delivery::Records { records, .. })) => found.extend(records),
            Ok(other) => panic!("{other:?}"),
        }
    }
    writer.await.unwrap();
    assert_eq!(texts(&found), numbers(0..400));
}

/// A caller that never waits for `next`, but asks again and again, gets everything: what one `next`
/// has begun is not begun anew by the following one.
pub async fn a_reader_without_patience_gets_on(ground: &dyn Ground) {
    let log = ground.open().await;
    fill(&*log, 0, 60).await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    reader.start(PartitionId::new(0), LogOffset::ZERO).await.unwrap();
    let mut found = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while found.len() < 60 {
        assert!(tokio::time::Instant::now() < deadline, "after {} of 60 records", found.len());
        let polled = std::future::poll_fn(|cx| {
            let mut next = reader.next();
            std::task::Poll::Ready(next.as_mut().poll(cx))
        });
        match polled.await {
            std::task::Poll::Pending => tokio::time::sleep(Duration::from_millis(1)).await,
            std::task::Poll::Ready(Ok(Delivery::Records { records, .. })) => found.extend(records),
            std::task::Poll::Ready(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(texts(&found), numbers(0..60));
}

/// A reader at the end waits, and an append wakes it.
pub async fn records_that_come_later_wake_a_reader(ground: &dyn Ground) {
    let log = ground.open().await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    let held = assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    for partition in &held {
        reader.start(*partition, LogOffset::ZERO).await.unwrap();
    }
    for round in 0..5 {
        let appending = {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                append_all(&*log, EVENTS, vec![record(round, format!("round {round}"))]).await
            })
        };
        let delivery = next(&mut *reader, "the record of this round").await;
        let Delivery::Records { partition, records } = delivery else { panic!("{delivery:?}") };
        assert_eq!((partition.get(), texts(&records)), (round, vec![format!("round {round}")]));
        appending.await.unwrap();
    }
}

/// Two groups get everything each, and their offsets do not touch.
pub async fn groups_read_apart(ground: &dyn Ground) {
    let log = ground.open().await;
    let offsets = fill(&*log, 2, 25).await;
    let partition = PartitionId::new(2);
    let mut processor = log.subscribe(EVENTS, "processor").await.unwrap();
    let mut archiver = log.subscribe(EVENTS, "archiver").await.unwrap();
    for reader in [&mut processor, &mut archiver] {
        assigned(&mut **reader, DEFAULT_PARTITIONS).await;
        reader.start(partition, LogOffset::ZERO).await.unwrap();
        assert_eq!(texts(&collect(&mut **reader, 2, 25).await), numbers(0..25));
    }
    let middle = *offsets.get(10).unwrap();
    processor.commit(&[(partition, middle)]).await.unwrap();
    assert_eq!(processor.committed(partition).await.unwrap(), Some(middle));
    assert_eq!(archiver.committed(partition).await.unwrap(), None);
}

/// The group's offset is there for the next reader of the group, also after a restart.
pub async fn group_offsets_survive_a_restart(ground: &dyn Ground) {
    let log = ground.open().await;
    let offsets = fill(&*log, 0, 20).await;
    let partition = PartitionId::new(0);
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    assert_eq!(reader.committed(partition).await.unwrap(), None);
    for at in [3, 12] {
        reader.commit(&[(partition, *offsets.get(at).unwrap())]).await.unwrap();
    }
    drop(reader);
    log.close().await.unwrap();
    drop(log);
    let log = ground.open().await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    let committed = reader.committed(partition).await.unwrap();
    assert_eq!(committed, offsets.get(12).copied());
    reader.start(partition, committed.unwrap()).await.unwrap();
    assert_eq!(texts(&collect(&mut *reader, 0, 8).await), numbers(12..20));
}

/// What cannot be read is refused when it is started, not skipped.
pub async fn starting_out_of_range_is_an_error(ground: &dyn Ground) {
    let log = ground.open().await;
    let offsets = fill(&*log, 0, 5).await;
    let mut reader = log.subscribe(EVENTS, "g").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    let beyond = offsets.last().unwrap().next().next();
    let started = reader.start(PartitionId::new(0), beyond).await;
    assert!(matches!(started, Err(Error::OutOfRange { .. })), "{started:?}");
    let nowhere = reader.start(PartitionId::new(99), LogOffset::ZERO).await;
    let refused = matches!(nowhere, Err(Error::NoSuchPartition { .. } | Error::NotAssigned { .. }));
    assert!(refused, "{nowhere:?}");
}
