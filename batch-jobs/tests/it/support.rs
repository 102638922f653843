//! A log, an index and a lake in one folder, and events made as ingest makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_batch_jobs::archiver::{Archiver, ArchiverHandle, ArchiverOptions};
use chalkstream_batch_jobs::lake::{Lake, LakeOptions, LakeTable};
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use chalkstream_event_log::{EventLog, NewRecord, Topic, partition_of};
use chalkstream_schemas::{
    LearningEvent, LogOffset, LogRecord, ParseContext, PartitionId, SchoolId, Timestamp, Undated,
    parse_event, record_key,
};
use chalkstream_stream_processors::first_seen::{FirstSeen, FirstSeenOptions};
use datafusion::arrow::array::{AsArray, RecordBatch};
use datafusion::arrow::datatypes::Int64Type;
use datafusion::prelude::SessionContext;

pub(crate) const PARTITIONS: u32 = 4;
pub(crate) const SCHOOL: &str = "lincoln";
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Everything that an archiver works on, in one folder.
pub(crate) struct World {
    pub(crate) log: Arc<EmbeddedLog>,
    pub(crate) lake: Lake,
    pub(crate) blobs: BlobStore,
    pub(crate) index: Arc<FirstSeen>,
    received: std::sync::atomic::AtomicI64,
}

impl World {
    pub(crate) fn open(folder: &Path) -> Self {
        let log = EmbeddedLog::open(EmbeddedOptions {
            partitions: PARTITIONS,
            ..EmbeddedOptions::new(folder.join("log"))
        })
        .unwrap();
        let index =
            FirstSeen::open(&FirstSeenOptions::new(folder.join("index")), log.identity()).unwrap();
        Self {
            lake: lake_in(folder),
            blobs: BlobStore::open(folder.join("blobs")).unwrap(),
            index,
            log,
            received: std::sync::atomic::AtomicI64::new(1_767_225_600_000),
        }
    }

    pub(crate) fn options(&self) -> ArchiverOptions {
        let log: Arc<dyn EventLog> = Arc::<EmbeddedLog>::clone(&self.log);
        ArchiverOptions {
            interval: Duration::from_millis(50),
            ..ArchiverOptions::new(
                log,
                self.lake.clone(),
                Arc::clone(&self.index),
                self.blobs.clone(),
            )
        }
    }

    pub(crate) async fn archiver(&self) -> ArchiverHandle {
        Archiver::start(self.options()).await.unwrap()
    }

    /// Appends events given as JSON, in order, as ingest would.
    pub(crate) async fn send(&self, school: &str, events: &[serde_json::Value]) {
        let events: Vec<_> = events.iter().map(|json| self.event(school, json)).collect();
        self.append(&events).await;
    }

    pub(crate) fn event(&self, school: &str, json: &serde_json::Value) -> LearningEvent {
        let received = self.received.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let school = SchoolId::parse(school).unwrap();
        let context = ParseContext {
            school_id: &school,
            received_at: Timestamp::from_ms(received),
            batch_sent_at: None,
            undated: Undated::Rejected,
            max_age: None,
            max_future: Duration::from_secs(10 * 365 * 24 * 3600),
            max_event_bytes: 65_536,
        };
        parse_event(json.to_string().as_bytes(), &context)
            .unwrap_or_else(|rejection| panic!("{json} is rejected: {rejection:?}"))
    }

    pub(crate) async fn append(&self, events: &[LearningEvent]) {
        let records = events
            .iter()
            .map(|event| NewRecord {
                partition: partition_of(&event.school_id, &event.user_id, PARTITIONS),
                key: record_key(&event.school_id, &event.user_id),
                payload: Bytes::from(LogRecord::Event(Box::new(event.clone())).encode()),
                timestamp: event.received_at,
                identity: Some((event.identity(), event.content_hash)),
            })
            .collect();
        for fate in self.log.append(Topic::Events, records).await {
            fate.unwrap();
        }
    }

    /// Archives everything that is in the log and stops.
    pub(crate) async fn archive_all(&self) {
        let archiver = self.archiver().await;
        let ends = archiver.log_ends().await.unwrap();
        archiver.wait_for(&ends, DEADLINE).await.unwrap();
        archiver.shutdown(DEADLINE).await.unwrap();
    }

    /// Where the lake's events must stand: the first record of each identity.
    pub(crate) async fn expected_places(&self) -> BTreeMap<(u32, u64), LearningEvent> {
        let mut places = BTreeMap::new();
        for partition in (0..PARTITIONS).map(PartitionId::new) {
            let mut seen = std::collections::BTreeSet::new();
            let mut at = LogOffset::ZERO;
            loop {
                let records = self.log.read(Topic::Events, partition, at, 1 << 20).await.unwrap();
                let Some(last) = records.last() else { break };
                at = last.offset.next();
                for record in records {
                    if let LogRecord::Event(event) =
                        LogRecord::decode(&record.key, &record.payload).unwrap()
                        && seen.insert(event.identity())
                    {
                        places.insert((partition.get(), record.offset.get()), *event);
                    }
                }
            }
        }
        places
    }
}

pub(crate) fn lake_in(folder: &Path) -> Lake {
    let url = folder.join("lake").to_str().unwrap().to_owned();
    Lake::open(&LakeOptions { url, options: BTreeMap::new() }).unwrap()
}

/// Runs SQL over the newest version of a table, under the name `t`.
pub(crate) async fn query(lake: &Lake, table: LakeTable, sql: &str) -> Vec<RecordBatch> {
    let opened = lake.newest(table).await.unwrap().expect("the table exists");
    let session = SessionContext::new();
    opened.update_datafusion_session(&session.state()).unwrap();
    session.register_table("t", opened.table_provider().await.unwrap()).unwrap();
    session.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Partition and offset of every row of a table, sorted.
pub(crate) async fn places(lake: &Lake, table: LakeTable) -> Vec<(u32, u64)> {
    let sql = "SELECT CAST(log_partition AS BIGINT) AS p, log_offset AS o FROM t ORDER BY 1, 2";
    let mut places = Vec::new();
    for batch in query(lake, table, sql).await {
        let partitions = batch.column(0).as_primitive::<Int64Type>();
        let offsets = batch.column(1).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            places.push((
                u32::try_from(partitions.value(row)).unwrap(),
                u64::try_from(offsets.value(row)).unwrap(),
            ));
        }
    }
    places
}

/// Asserts that the lake holds each event of the log exactly once, and nothing else.
pub(crate) async fn check_exactly_once(world: &World) {
    let expected: Vec<_> = world.expected_places().await.into_keys().collect();
    let found = places(&world.lake, LakeTable::Events).await;
    assert_eq!(found.len(), expected.len(), "as many events as the log has identities");
    assert_eq!(found, expected);
}

/// An answer of a learner; `n` makes its id and its time.
pub(crate) fn answer(user: &str, n: u32, correct: bool) -> serde_json::Value {
    serde_json::json!({
        "id": format!("{user}-{n}"),
        "type": "answer_submitted",
        "user_id": user,
        "occurred_at": at(n),
        "data": {
            "item_id": format!("i{}", n % 7),
            "skill_ids": [format!("s{}", n % 3)],
            "correct": correct,
            "time_taken_ms": 1000 + n,
        },
    })
}

/// `n` seconds after the beginning of 2026.
pub(crate) fn at(n: u32) -> String {
    Timestamp::from_ms(1_767_225_600_000 + i64::from(n) * 1000).to_string()
}

/// A file that is compared with what is committed; `CHALKSTREAM_BLESS=1` renews it.
pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

#[track_caller]
pub(crate) fn check_golden(name: &str, found: &str) {
    let path = golden(name);
    if std::env::var("CHALKSTREAM_BLESS").as_deref() == Ok("1") {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, found).unwrap();
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(found, expected, "{} differs", path.display());
}
