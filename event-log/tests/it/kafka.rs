//! The log on a real Kafka broker: the suite, rebalances, and trouble with the broker.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chalkstream_event_log::conformance::{
    Ground, PATIENCE, append_all, assigned, next, read_all, record, texts,
};
use chalkstream_event_log::kafka::{KafkaLog, KafkaOptions};
use chalkstream_event_log::test_support::{Broker, kafka, unique_prefix};
use chalkstream_event_log::{
    AppendError, DEFAULT_PARTITIONS, Delivery, Error, EventLog, Retry, Subscription, Topic,
};
use chalkstream_schemas::{LogOffset, PartitionId};
use tempfile::TempDir;

#[derive(Debug)]
struct Cluster {
    options: KafkaOptions,
    folder: TempDir,
}

#[async_trait]
impl Ground for Cluster {
    async fn open(&self) -> Arc<dyn EventLog> {
        KafkaLog::connect(self.options.clone()).await.unwrap()
    }

    async fn open_with_queue(&self, bytes: usize) -> Arc<dyn EventLog> {
        let options = KafkaOptions { queue_bytes: bytes, ..self.options.clone() };
        KafkaLog::connect(options).await.unwrap()
    }

    fn is_gapless(&self) -> bool {
        false
    }

    fn address(&self) -> String {
        format!("kafka={}={}", self.options.brokers, self.options.prefix)
    }

    fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }
}

pub(crate) async fn open(brokers: &str, prefix: &str) -> Arc<dyn EventLog> {
    let options = KafkaOptions { prefix: prefix.into(), ..KafkaOptions::new(brokers) };
    KafkaLog::connect(options).await.unwrap()
}

fn options() -> Option<KafkaOptions> {
    let brokers = kafka()?.bootstrap().to_owned();
    Some(KafkaOptions { prefix: unique_prefix(), ..KafkaOptions::new(brokers) })
}

async fn cluster() -> Option<Cluster> {
    let options = tokio::task::spawn_blocking(options).await.unwrap()?;
    Some(Cluster { options, folder: tempfile::tempdir().unwrap() })
}

chalkstream_event_log::conformance_tests!(cluster);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_keeps_the_partitions_it_was_created_with() {
    let Some(cluster) = cluster().await else { return };
    let three = KafkaOptions { partitions: 3, ..cluster.options.clone() };
    KafkaLog::connect(three).await.unwrap().close().await.unwrap();
    let log = cluster.open().await;
    assert_eq!((log.identity().partitions, log.partitions(Topic::Events)), (3, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_too_large_is_refused_alone() {
    let Some(cluster) = cluster().await else { return };
    let options = KafkaOptions { record_max_bytes: 100, ..cluster.options.clone() };
    let log = KafkaLog::connect(options).await.unwrap();
    let records = vec![record(0, "a"), record(0, "b".repeat(200)), record(0, "c")];
    let outcomes = log.append(Topic::Events, records).await;
    let [Ok(_), Err(AppendError::TooLarge { limit_bytes: 100, .. }), Ok(_)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
}

#[tokio::test]
async fn weaker_promises_and_unknown_properties_are_refused() {
    let with = |key: &str, value: &str| KafkaOptions {
        properties: BTreeMap::from([(key.to_owned(), value.to_owned())]),
        ..KafkaOptions::new("127.0.0.1:1")
    };
    let error = KafkaLog::connect(with("acks", "1")).await.unwrap_err();
    assert_eq!(error.to_string(), "log.kafka.acks must be all");
    let error = KafkaLog::connect(with("no.such.thing", "1")).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Never);
    assert_eq!(error.hint().unwrap(), "correct the property `no.such.thing` under [log.kafka]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_does_not_answer_is_named_and_may_come_back() {
    let options = KafkaOptions {
        request_timeout: Duration::from_millis(500),
        ..KafkaOptions::new("127.0.0.1:1")
    };
    let error = KafkaLog::connect(options).await.unwrap_err();
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    assert_eq!(error.retry(), Retry::Later);
    assert!(error.hint().unwrap().contains("check that Kafka runs"));
}

/// While the broker hangs, nothing is acknowledged and nobody waits for ever; then it goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_to_a_hanging_broker_is_unacknowledged_in_time() {
    // Asked for first, so that what is missing is skipped or named in one place.
    let Some(_) = cluster().await else { return };
    let broker = tokio::task::spawn_blocking(Broker::start).await.unwrap().unwrap();
    let signal = |name: &str| {
        let sent = Command::new("kill").args([name, &broker.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    };
    let options = KafkaOptions {
        delivery_timeout: Duration::from_secs(1),
        properties: BTreeMap::from([("socket.timeout.ms".to_owned(), "1000".to_owned())]),
        ..KafkaOptions::new(broker.bootstrap())
    };
    let log = KafkaLog::connect(options).await.unwrap();
    let deadline = Instant::now() + PATIENCE;
    acknowledged(&*log, "before", deadline).await;
    signal("-STOP");
    let asked = Instant::now();
    let outcomes = log.append(Topic::Events, vec![record(0, "meanwhile")]).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let [Err(error @ AppendError::Unacknowledged { .. })] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert!(error.may_be_written());
    assert_eq!(error.retry(), Retry::Later);
    assert_eq!(log.queued_bytes(), 0, "what failed does not count against the limit");
    signal("-CONT");

    let after = acknowledged(&*log, "after", Instant::now() + PATIENCE).await;
    let found = read_all(&*log, Topic::Events, 0, LogOffset::ZERO, 1 << 20).await;
    assert_eq!(texts(&found).first().map(String::as_str), Some("before"));
    assert!(found.iter().any(|record| record.offset == after));
}

/// Appends again and again until it is acknowledged: a new topic, too, takes its time.
async fn acknowledged(log: &dyn EventLog, text: &str, deadline: Instant) -> LogOffset {
    loop {
        let outcomes = log.append(Topic::Events, vec![record(0, text)]).await;
        match outcomes.into_iter().next().unwrap() {
            Ok(offset) => return offset,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

/// Two readers of a group share the partitions, and when one leaves the other gets its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_move_between_the_readers_of_a_group() {
    let Some(cluster) = cluster().await else { return };
    let log = cluster.open().await;
    for partition in 0..DEFAULT_PARTITIONS {
        let records = (0..10).map(|n| record(partition, format!("{partition}:{n}")));
        append_all(&*log, Topic::Events, records.collect()).await;
    }
    let mut first = log.subscribe(Topic::Events, "shared").await.unwrap();
    let mut of_first: BTreeSet<_> =
        assigned(&mut *first, DEFAULT_PARTITIONS).await.into_iter().collect();
    for partition in &of_first {
        first.start(*partition, LogOffset::ZERO).await.unwrap();
    }
    let mut second = log.subscribe(Topic::Events, "shared").await.unwrap();
    let mut of_second = BTreeSet::new();
    let mut found: BTreeMap<PartitionId, Vec<String>> = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while of_second.len() < 6 || of_first.len() > 6 {
        assert!(tokio::time::Instant::now() < deadline, "{of_first:?} and {of_second:?}");
        tokio::select! {
            delivery = first.next() => {
                step(&mut *first, delivery.unwrap(), &mut of_first, &mut found, false).await;
            }
            delivery = second.next() => {
                step(&mut *second, delivery.unwrap(), &mut of_second, &mut found, true).await;
            }
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    }
    assert!(of_first.is_disjoint(&of_second), "{of_first:?} and {of_second:?}");
    assert_eq!((of_first.len(), of_second.len()), (6, 6));

    drop(second);
    while of_first.len() < 12 {
        let delivery = next(&mut *first, "the partitions of the reader that left").await;
        step(&mut *first, delivery, &mut of_first, &mut found, true).await;
    }
    // Whoever held a partition last reads it from the beginning, so nothing is missing.
    let complete = |found: &BTreeMap<PartitionId, Vec<String>>| {
        (0..DEFAULT_PARTITIONS).all(|partition| {
            let texts = found.get(&PartitionId::new(partition));
            texts.is_some_and(|texts| texts.len() >= 10)
        })
    };
    while !complete(&found) {
        let delivery = next(&mut *first, "the rest of the records").await;
        step(&mut *first, delivery, &mut of_first, &mut found, true).await;
    }
    for (partition, texts) in &found {
        let expected: Vec<_> = (0..10).map(|n| format!("{}:{n}", partition.get())).collect();
        assert_eq!(texts[texts.len() - 10..], expected, "in order, from the start");
    }
}

/// Follows a delivery; a partition that comes is started over.
async fn step(
    reader: &mut dyn Subscription,
    delivery: Delivery,
    held: &mut BTreeSet<PartitionId>,
    found: &mut BTreeMap<PartitionId, Vec<String>>,
    start: bool,
) {
    match delivery {
        Delivery::Assigned(partitions) => {
            for partition in partitions {
                held.insert(partition);
                if start {
                    found.remove(&partition);
                    reader.start(partition, LogOffset::ZERO).await.unwrap();
                }
            }
        }
        Delivery::Revoked(partitions) => held.retain(|held| !partitions.contains(held)),
        Delivery::Records { partition, records } => {
            assert!(held.contains(&partition), "records of a partition that is not held");
            found.entry(partition).or_default().extend(texts(&records));
        }
    }
}

/// Records that were appended while a reader was slow wait in the broker, not in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything_in_order() {
    let Some(cluster) = cluster().await else { return };
    let log = cluster.open().await;
    let mut reader = log.subscribe(Topic::Events, "slow").await.unwrap();
    assigned(&mut *reader, DEFAULT_PARTITIONS).await;
    reader.start(PartitionId::new(0), LogOffset::ZERO).await.unwrap();
    let text = |n: usize| format!("{n} {}", "q".repeat(2_000));
    for round in 0..20 {
        let records = (round * 1_000..(round + 1) * 1_000).map(|n| record(0, text(n)));
        append_all(&*log, Topic::Events, records.collect()).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut seen = 0;
    while seen < 20_000 {
        let Delivery::Records { records, .. } = next(&mut *reader, "all records").await else {
            panic!("only records follow");
        };
        for found in texts(&records) {
            assert_eq!(found, text(seen));
            seen += 1;
        }
    }
    let all = read_all(&*log, Topic::Events, 0, LogOffset::ZERO, 1 << 22).await;
    assert_eq!(all.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committing_what_is_not_held_is_an_error() {
    let Some(cluster) = cluster().await else { return };
    let log = cluster.open().await;
    let mut reader = log.subscribe(Topic::Events, "g").await.unwrap();
    let refused = reader.commit(&[(PartitionId::new(0), LogOffset::ZERO)]).await;
    assert!(matches!(refused, Err(Error::NotAssigned { .. })), "{refused:?}");
}
