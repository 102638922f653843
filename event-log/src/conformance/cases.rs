//! Appending, reading, restarting, refusing, publishing.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use chalkstream_schemas::{
    ControlBody, ControlPayload, LogOffset, LogRecord, PartitionId, SchoolId,
};

use super::{Ground, append_all, read_all, record, texts};
use crate::blobs::BlobStore;
use crate::control::{self, publish};
use crate::{AppendError, DEFAULT_PARTITIONS, Error, Topic};

/// Offsets follow the order of each partition, and the records say what was appended.
pub async fn offsets_rise_in_the_order_of_a_partition(ground: &dyn Ground) {
    let log = ground.open().await;
    let mut expected = [Vec::new(), Vec::new()];
    for batch in 0..20 {
        let records: Vec<_> = (0..25)
            .map(|n| {
                let text = format!("{batch}-{n} {}", "x".repeat(n * 7));
                (u32::from(n % 3 == 0), text)
            })
            .collect();
        let offsets = append_all(
            &*log,
            Topic::Events,
            records.iter().map(|(partition, text)| record(*partition, text)).collect(),
        )
        .await;
        for ((partition, text), offset) in records.into_iter().zip(offsets) {
            expected.get_mut(partition as usize).unwrap().push((offset, text));
        }
    }
    for (partition, expected) in (0..).zip(&expected) {
        let found = read_all(&*log, Topic::Events, partition, LogOffset::ZERO, 1 << 20).await;
        let offsets: Vec<_> = found.iter().map(|record| record.offset).collect();
        let acknowledged: Vec<_> = expected.iter().map(|(offset, _)| *offset).collect();
        assert!(offsets.is_sorted_by(|a, b| a < b), "offsets rise");
        assert_eq!(offsets, acknowledged);
        assert_eq!(
            texts(&found),
            expected.iter().map(|(_, text)| text.clone()).collect::<Vec<_>>()
        );
        if ground.is_gapless() {
            let counted: Vec<_> = (0..).take(expected.len()).map(LogOffset::new).collect();
            assert_eq!(offsets, counted, "from 0 without gaps");
        }
        let first = found.first().unwrap();
        let text = String::from_utf8_lossy(&first.payload).into_owned();
        let sent = record(partition, text);
        assert_eq!((&first.key, first.timestamp), (&sent.key, sent.timestamp));
    }
}

/// A record that cannot go in is refused by itself, and the others go in.
pub async fn every_record_has_its_own_outcome(ground: &dyn Ground) {
    let log = ground.open().await;
    assert_eq!(log.append(Topic::Events, Vec::new()).await.len(), 0);
    let records = vec![record(0, "good"), record(77, "nowhere"), record(0, "also good")];
    let outcomes = log.append(Topic::Events, records).await;
    let [Ok(first), Err(AppendError::NoSuchPartition { partition, .. }), Ok(third)] = &outcomes[..]
    else {
        panic!("{outcomes:?}");
    };
    assert_eq!(partition.get(), 77);
    assert!(first < third);
    let found = read_all(&*log, Topic::Events, 0, LogOffset::ZERO, 1 << 20).await;
    assert_eq!(texts(&found), ["good", "also good"]);
}

/// Many appends at once: each acknowledged record stands exactly once, at its own offset.
pub async fn concurrent_appends_lose_and_double_nothing(ground: &dyn Ground) {
    let log = ground.open().await;
    let writers: Vec<_> = (0..16_u32)
        .map(|writer| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for round in 0..20 {
                    let texts: Vec<_> = (0..10).map(|n| format!("{writer}/{round}/{n}")).collect();
                    let records = texts.iter().map(|text| record(writer % 4, text)).collect();
                    let offsets = append_all(&*log, Topic::Events, records).await;
                    assert!(offsets.is_sorted_by(|a, b| a < b), "the order of one append holds");
                    acknowledged.extend(offsets.into_iter().zip(texts));
                }
                (writer % 4, acknowledged)
            })
        })
        .collect();
    let mut expected = vec![BTreeSet::new(); 4];
    for writer in writers {
        let (partition, acknowledged) = writer.await.unwrap();
        for pair in acknowledged {
            let fresh = expected.get_mut(partition as usize).unwrap().insert(pair);
            assert!(fresh, "an offset was given twice");
        }
    }
    for (partition, expected) in (0..).zip(expected) {
        let found = read_all(&*log, Topic::Events, partition, LogOffset::ZERO, 10_000).await;
        let found: Vec<_> = found.iter().map(|record| record.offset).zip(texts(&found)).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}

/// Closing and opening again changes nothing; offsets go on where they were.
pub async fn a_reopened_log_keeps_everything_and_stays_the_same_log(ground: &dyn Ground) {
    let log = ground.open().await;
    let identity = log.identity().clone();
    assert_eq!(identity.partitions, DEFAULT_PARTITIONS);
    assert!(!identity.cluster_id.is_empty());
    let first = append_all(&*log, Topic::Events, vec![record(2, "before")]).await;
    log.close().await.unwrap();
    drop(log);

    let log = ground.open().await;
    assert_eq!(*log.identity(), identity);
    let second = append_all(&*log, Topic::Events, vec![record(2, "after")]).await;
    assert!(first < second);
    let found = read_all(&*log, Topic::Events, 2, LogOffset::ZERO, 1 << 20).await;
    assert_eq!(texts(&found), ["before", "after"]);
    log.close().await.unwrap();
}

/// Reading begins exactly where it is asked to, stops near the bytes asked for, and ends empty.
pub async fn ranges_can_be_read_from_any_offset(ground: &dyn Ground) {
    let log = ground.open().await;
    let mut offsets = Vec::new();
    for size in [1, 7, 40, 2, 90] {
        let records = (0..size).map(|n| record(1, format!("{size}-{n} {}", "y".repeat(100))));
        offsets.extend(append_all(&*log, Topic::Events, records.collect()).await);
    }
    let partition = PartitionId::new(1);
    let all = read_all(&*log, Topic::Events, 1, LogOffset::ZERO, 1 << 20).await;
    assert_eq!(all.iter().map(|record| record.offset).collect::<Vec<_>>(), offsets);
    for at in [0, 1, 5, 8, 47, 48, 49, 50, 139] {
        let from = *offsets.get(at).unwrap();
        let rest = read_all(&*log, Topic::Events, 1, from, 3_000).await;
        assert_eq!(Some(&rest[..]), all.get(at..), "from the record number {at}");
        let one = log.read(Topic::Events, partition, from, 1).await.unwrap();
        assert_eq!(Some(&one[..]), all.get(at..=at), "at least one, and not many");
    }
    let end = offsets.last().unwrap().next();
    assert_eq!(log.read(Topic::Events, partition, end, 1_000).await.unwrap(), []);
    let beyond = log.read(Topic::Events, partition, end.next(), 1_000).await;
    assert!(matches!(beyond, Err(Error::OutOfRange { .. })), "{beyond:?}");
    let nowhere = log.read(Topic::Events, PartitionId::new(99), LogOffset::ZERO, 1_000).await;
    assert!(matches!(nowhere, Err(Error::NoSuchPartition { .. })), "{nowhere:?}");
}

/// Bounds are empty at first and then tell the next offset.
pub async fn bounds_tell_where_a_partition_begins_and_ends(ground: &dyn Ground) {
    let log = ground.open().await;
    let partition = PartitionId::new(3);
    let before = log.bounds(Topic::Events, partition).await.unwrap();
    assert_eq!(before.first, before.end);
    let offsets = append_all(&*log, Topic::Events, vec![record(3, "a"), record(3, "b")]).await;
    let after = log.bounds(Topic::Events, partition).await.unwrap();
    assert_eq!(after.first, before.first);
    assert_eq!(Some(after.end), offsets.last().map(|offset| offset.next()));
    let nowhere = log.bounds(Topic::Events, PartitionId::new(99)).await;
    assert!(matches!(nowhere, Err(Error::NoSuchPartition { .. })), "{nowhere:?}");
}

/// What goes to one topic is not seen in another.
pub async fn topics_are_apart(ground: &dyn Ground) {
    let log = ground.open().await;
    append_all(&*log, Topic::Events, vec![record(0, "event")]).await;
    append_all(&*log, Topic::Rejected, vec![record(0, "rejected")]).await;
    for (topic, text) in [(Topic::Events, "event"), (Topic::Rejected, "rejected")] {
        let found = read_all(&*log, topic, 0, LogOffset::ZERO, 1 << 20).await;
        assert_eq!(texts(&found), [text]);
    }
}

/// More than the queue holds is refused as busy; what was acknowledged is there, nothing else.
pub async fn a_full_queue_refuses_and_what_it_took_is_there(ground: &dyn Ground) {
    let log = ground.open_with_queue(64 * 1024).await;
    let mut appends = tokio::task::JoinSet::new();
    for n in 0..1_000 {
        let log = Arc::clone(&log);
        appends.spawn(async move {
            let text = format!("{n} {}", "z".repeat(8_000));
            let outcomes = log.append(Topic::Events, vec![record(5, text.clone())]).await;
            (text, outcomes.into_iter().next().unwrap())
        });
    }
    let mut expected = BTreeSet::new();
    let mut busy = 0;
    while let Some(append) = appends.join_next().await {
        match append.unwrap() {
            (text, Ok(offset)) => assert!(expected.insert((offset, text))),
            (_, Err(AppendError::Busy { limit_bytes, .. })) => {
                assert!(limit_bytes <= 64 * 1024);
                busy += 1;
            }
            (_, Err(other)) => panic!("{other}"),
        }
    }
    assert!(busy > 0, "8 MB at once do not fit into 64 KiB");
    assert!(!expected.is_empty(), "something fits");
    let found = read_all(&*log, Topic::Events, 5, LogOffset::ZERO, 1 << 20).await;
    let found: Vec<_> = found.iter().map(|record| record.offset).zip(texts(&found)).collect();
    assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    let later = append_all(&*log, Topic::Events, vec![record(5, "there is room again")]).await;
    assert_eq!(later.len(), 1);
}

/// After `close`, appends are refused and nothing hangs.
pub async fn a_closed_log_refuses(ground: &dyn Ground) {
    let log = ground.open().await;
    append_all(&*log, Topic::Events, vec![record(0, "a")]).await;
    log.close().await.unwrap();
    log.close().await.unwrap();
    let outcomes = log.append(Topic::Events, vec![record(0, "b")]).await;
    assert!(matches!(&outcomes[..], [Err(AppendError::Stopped { .. })]), "{outcomes:?}");
    let read = log.read(Topic::Events, PartitionId::new(0), LogOffset::ZERO, 1).await;
    assert!(read.is_err(), "{read:?}");
}

/// One control record stands in every partition, the same in each.
pub async fn control_records_reach_every_partition(ground: &dyn Ground) {
    let log = ground.open().await;
    let blobs = BlobStore::open(ground.folder().join("blobs")).unwrap();
    let body = ControlBody::SchoolSettings {
        school_id: SchoolId::parse("lincoln").unwrap(),
        name: "Lincoln".into(),
        time_zone: "Europe/Berlin".into(),
    };
    append_all(&*log, Topic::Events, vec![record(4, "an event before")]).await;
    let published = publish(&*log, &blobs, body.clone()).await.unwrap();
    assert_eq!(published.body, body);
    for partition in 0..log.partitions(Topic::Events) {
        let found = read_all(&*log, Topic::Events, partition, LogOffset::ZERO, 1 << 20).await;
        assert_eq!(found.len(), 1 + usize::from(partition == 4));
        let last = found.last().unwrap();
        let LogRecord::Control(record) = LogRecord::decode(&last.key, &last.payload).unwrap()
        else {
            panic!("not a control record");
        };
        assert_eq!(record, published);
    }
}

/// A payload too large for a record is a blob, and resolves to the same bytes.
pub async fn large_control_payloads_become_blobs(ground: &dyn Ground) {
    let log = ground.open().await;
    let blobs = BlobStore::open(ground.folder().join("blobs")).unwrap();
    let table = vec![9; control::INLINE_MAX_BYTES + 1];
    let body = ControlBody::BktParameters {
        school_id: None,
        model_version: "m1".into(),
        table: ControlPayload::Inline(table.clone()),
    };
    let published = publish(&*log, &blobs, body).await.unwrap();
    let ControlBody::BktParameters { table: payload, .. } = &published.body else {
        panic!("{published:?}");
    };
    let hash = *blake3::hash(&table).as_bytes();
    assert_eq!(*payload, ControlPayload::Blob { hash, bytes: table.len() as u64 });
    assert_eq!(control::resolve(&blobs, payload).await.unwrap(), Bytes::from(table));
}
