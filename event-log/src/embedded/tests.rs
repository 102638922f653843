//! The embedded log against a simple model: lists of batches in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use chalkstream_schemas::{ContentHash, EventIdentity, LogOffset, PartitionId, Timestamp};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{EmbeddedLog, EmbeddedOptions};
use crate::{Delivery, EventLog, LogBounds, NewRecord, SeenIndex, StoredRecord, Topic};

const PARTITIONS: u32 = 3;

#[derive(Clone, Debug)]
enum Action {
    Append { rejected: bool, records: Vec<(u32, i64, Vec<u8>)> },
    Read { partition: u32, from: Index, max_bytes: usize },
    Subscribe { partition: u32, from: Index },
    Trim { before: i64 },
    LookUp { which: Index },
    Reopen { close: bool },
}

fn action() -> impl Strategy<Value = Action> {
    let payload = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..60),
        1 => (any::<u8>(), 1_000..400_000_usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    let record = (0..PARTITIONS, 0_i64..1_000, payload);
    prop_oneof![
        8 => (any::<bool>(), prop::collection::vec(record, 1..20))
            .prop_map(|(rejected, records)| Action::Append { rejected, records }),
        4 => (0..PARTITIONS, any::<Index>(), 0_usize..5_000)
            .prop_map(|(partition, from, max_bytes)| Action::Read { partition, from, max_bytes }),
        3 => (0..PARTITIONS, any::<Index>())
            .prop_map(|(partition, from)| Action::Subscribe { partition, from }),
        2 => (0_i64..1_000).prop_map(|before| Action::Trim { before }),
        2 => any::<Index>().prop_map(|which| Action::LookUp { which }),
        2 => any::<bool>().prop_map(|close| Action::Reopen { close }),
    ]
}

type Batch = Vec<StoredRecord>;

/// What the log should hold.
#[derive(Debug, Default)]
struct Model {
    /// Batches of a partition, oldest first, and the offset of the first.
    partitions: BTreeMap<(Topic, u32), (u64, Vec<Batch>)>,
    seen: Vec<(EventIdentity, ContentHash)>,
}

impl Model {
    fn bounds(&self, topic: Topic, partition: u32) -> LogBounds {
        let Some((first, batches)) = self.partitions.get(&(topic, partition)) else {
            return LogBounds { first: LogOffset::ZERO, end: LogOffset::ZERO };
        };
        let count: usize = batches.iter().map(Vec::len).sum();
        LogBounds { first: LogOffset::new(*first), end: LogOffset::new(first + count as u64) }
    }

    fn append(&mut self, topic: Topic, records: &[NewRecord]) -> Vec<LogOffset> {
        let mut batches = BTreeMap::<u32, Batch>::new();
        let offsets = records.iter().map(|record| {
            let partition = record.partition.get();
            let batch = batches.entry(partition).or_default();
            let end = self.bounds(topic, partition).end.get();
            let offset = LogOffset::new(end + batch.len() as u64);
            let (key, payload) = (record.key.clone(), record.payload.clone());
            batch.push(StoredRecord { offset, timestamp: record.timestamp, key, payload });
            offset
        });
        let offsets = offsets.collect();
        for (partition, batch) in batches {
            self.partitions.entry((topic, partition)).or_default().1.push(batch);
        }
        offsets
    }

    fn from(&self, topic: Topic, partition: u32, from: LogOffset) -> Vec<StoredRecord> {
        let records = self.partitions.get(&(topic, partition));
        let records = records.into_iter().flat_map(|(_, batches)| batches.iter().flatten());
        records.filter(|record| record.offset >= from).cloned().collect()
    }

    fn trim(&mut self, topic: Topic, before: Timestamp) -> u64 {
        let mut gone = 0;
        for ((of, _), (first, batches)) in &mut self.partitions {
            while *of == topic
                && batches.len() > 1
                && batches[0].iter().all(|record| record.timestamp < before)
            {
                gone += batches.remove(0).len() as u64;
                *first = batches[0][0].offset.get();
            }
        }
        gone
    }
}

fn open(path: &Path) -> Arc<EmbeddedLog> {
    let options = EmbeddedOptions { partitions: PARTITIONS, ..EmbeddedOptions::new(path) };
    EmbeddedLog::open(options).unwrap()
}

/// Any offset from first to end, both included.
fn pick(bounds: LogBounds, index: Index) -> LogOffset {
    let span = usize::try_from(bounds.end.get() - bounds.first.get()).unwrap() + 1;
    LogOffset::new(bounds.first.get() + index.index(span) as u64)
}

async fn run(actions: Vec<Action>) {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    let mut model = Model::default();
    let mut serial = 0_u64;
    for action in actions {
        match action {
            Action::Append { rejected, records } => {
                let topic = if rejected { Topic::Rejected } else { Topic::Events };
                let records: Vec<_> = records
                    .into_iter()
                    .map(|(partition, ms, payload)| {
                        serial += 1;
                        let mut id = [0; 16];
                        id[..8].copy_from_slice(&serial.to_be_bytes());
                        let identity = EventIdentity::from_bytes(id);
                        let content = ContentHash::from_bytes(id.map(|byte| byte ^ 0x5a));
                        model.seen.push((identity, content));
                        NewRecord {
                            partition: PartitionId::new(partition),
                            key: Bytes::from(format!("key {serial}")),
                            payload: payload.into(),
                            timestamp: Timestamp::from_ms(ms),
                            identity: Some((identity, content)),
                        }
                    })
                    .collect();
                let expected = model.append(topic, &records);
                let outcomes = log.append(topic, records).await;
                let found: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
                assert_eq!(found, expected);
            }
            Action::Read { partition, from, max_bytes } => {
                let topic = Topic::Events;
                let from = pick(model.bounds(topic, partition), from);
                let expected = model.from(topic, partition, from);
                let id = PartitionId::new(partition);
                let found = log.read(topic, id, from, max_bytes).await.unwrap();
                assert_eq!(found[..], expected[..found.len()]);
                assert_eq!(found.is_empty(), expected.is_empty());
                let bytes: usize =
                    found.iter().map(|record| record.key.len() + record.payload.len()).sum();
                assert!(found.len() <= 1 || bytes <= max_bytes);
            }
            Action::Subscribe { partition, from } => {
                let topic = Topic::Events;
                let from = pick(model.bounds(topic, partition), from);
                let expected = model.from(topic, partition, from);
                let mut reader = log.subscribe(topic, "model").await.unwrap();
                assert!(matches!(reader.next().await.unwrap(), Delivery::Assigned(_)));
                reader.start(PartitionId::new(partition), from).await.unwrap();
                let mut found = Vec::new();
                while found.len() < expected.len() {
                    let Delivery::Records { records, .. } = reader.next().await.unwrap() else {
                        panic!("only records follow");
                    };
                    found.extend(records);
                }
                assert_eq!(found, expected);
            }
            Action::Trim { before } => {
                let before = Timestamp::from_ms(before);
                let gone = log.trim(Topic::Events, before).await.unwrap();
                assert_eq!(gone, model.trim(Topic::Events, before));
            }
            Action::LookUp { which } => {
                if !model.seen.is_empty() {
                    let (identity, content) = *which.get(&model.seen);
                    let unknown = EventIdentity::from_bytes([0xee; 16]);
                    let found = log.lookup(&[unknown, identity]).await.unwrap();
                    assert_eq!(found, [None, Some(content)]);
                }
            }
            Action::Reopen { close } => {
                if close {
                    log.close().await.unwrap();
                }
                drop(log);
                log = open(folder.path());
            }
        }
        for partition in 0..PARTITIONS {
            for topic in Topic::ALL {
                let found = log.bounds(topic, PartitionId::new(partition)).await.unwrap();
                assert_eq!(found, model.bounds(topic, partition));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_a_list_would(actions in prop::collection::vec(action(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(actions));
    }
}

/// Entries outlive the retention and are dropped with the records they belong to.
#[tokio::test]
async fn trimming_also_forgets_identities() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(folder.path());
    let identity = (EventIdentity::from_bytes([1; 16]), ContentHash::from_bytes([2; 16]));
    let record = |ms, identity| NewRecord {
        partition: PartitionId::new(0),
        key: Bytes::from_static(b"k"),
        payload: Bytes::from_static(b"p"),
        timestamp: Timestamp::from_ms(ms),
        identity,
    };
    for ms in [10, 20] {
        assert!(log.append(Topic::Events, vec![record(ms, Some(identity))]).await[0].is_ok());
    }
    assert_eq!(log.trim(Topic::Events, Timestamp::from_ms(15)).await.unwrap(), 1);
    assert_eq!(log.lookup(&[identity.0]).await.unwrap(), [Some(identity.1)], "within the horizon");
    log.shared.run(|store| store.seen.seal(1).map_err(store.error("seal"))).await.unwrap();
    assert_eq!(log.lookup(&[identity.0]).await.unwrap(), [Some(identity.1)], "in a table");
    let far = Timestamp::MAX;
    assert_eq!(log.trim(Topic::Events, far).await.unwrap(), 0, "the newest batch stays");
    assert_eq!(log.lookup(&[identity.0]).await.unwrap(), [None], "beyond the horizon");
    // A trim never breaks what comes after it.
    assert!(log.append(Topic::Events, vec![record(30, Some(identity))]).await[0].is_ok());
    assert_eq!(log.lookup(&[identity.0]).await.unwrap(), [Some(identity.1)]);
}
