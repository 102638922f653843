use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chalkstream_event_log::{
    AppendError, EventLog, LogBounds, LogIdentity, NewRecord, StoredRecord, Subscription, Topic,
};
use chalkstream_schemas::{ContentHash, EventIdentity, LogOffset, PartitionId, Timestamp};

use super::{Error, FirstSeen, FirstSeenOptions, NoHistory, Seen, SeenRange, Verdict};

const P: PartitionId = PartitionId::ZERO;
const DAY_MS: i64 = 24 * 3600 * 1000;

fn log(cluster: &str) -> LogIdentity {
    LogIdentity { cluster_id: cluster.into(), partitions: 2, partitioner: "test" }
}

fn open(path: &std::path::Path) -> Arc<FirstSeen> {
    let options = FirstSeenOptions {
        horizon: Duration::from_secs(30 * 24 * 3600),
        ..FirstSeenOptions::new(path)
    };
    let index = FirstSeen::open(&options, &log("a")).unwrap();
    if index.contiguous(P).unwrap().is_none() {
        index.partition(P).unwrap().lock().begin_at(LogOffset::ZERO);
    }
    index
}

fn seen(offset: u64, id: u64, content: u8, day: i64) -> Seen {
    let hash = blake3::hash(&id.to_le_bytes());
    let mut identity = [0; 16];
    identity.copy_from_slice(&hash.as_bytes()[..16]);
    Seen {
        identity: EventIdentity::from_bytes(identity),
        content_hash: ContentHash::from_bytes([content; 16]),
        offset: LogOffset::new(offset),
        timestamp: Timestamp::from_ms(day * DAY_MS),
    }
}

fn range(events: &[Seen]) -> SeenRange {
    SeenRange {
        from: events.first().unwrap().offset,
        through: events.last().unwrap().offset.next(),
        fingerprint: None,
        events: events.to_vec(),
    }
}

fn duplicate(of: u64, same_content: bool) -> Verdict {
    Verdict::Duplicate { of: LogOffset::new(of), same_content }
}

#[test]
fn only_a_smaller_offset_makes_a_duplicate_however_often_it_is_observed() {
    let folder = tempfile::tempdir().unwrap();
    let events =
        [seen(0, 1, 0, 0), seen(1, 2, 0, 0), seen(2, 1, 0, 0), seen(3, 1, 9, 0), seen(4, 3, 0, 0)];
    let expected = vec![
        Verdict::First,
        Verdict::First,
        duplicate(0, true),
        duplicate(0, false),
        Verdict::First,
    ];
    for _ in 0..2 {
        let index = open(folder.path());
        assert_eq!(index.observe(P, &range(&events)).unwrap(), expected);
        // Ahead of a checkpoint: any suffix again gives the same.
        for from in 0..events.len() {
            assert_eq!(index.observe(P, &range(&events[from..])).unwrap(), expected[from..]);
        }
        index.persist().unwrap();
        assert_eq!(index.contiguous(P).unwrap(), Some(LogOffset::new(5)));
        assert_eq!(index.observe(P, &range(&events[1..])).unwrap(), expected[1..]);
    }
}

#[test]
fn the_horizon_is_measured_between_log_timestamps_and_holds_for_replays() {
    let folder = tempfile::tempdir().unwrap();
    let events = [seen(0, 1, 0, 0), seen(1, 1, 0, 20), seen(2, 1, 0, 40), seen(3, 1, 0, 45)];
    // Day 20 is a duplicate of day 0; day 40 is too far from it, and counts again.
    let expected = vec![Verdict::First, duplicate(0, true), Verdict::First, duplicate(2, true)];
    let index = open(folder.path());
    assert_eq!(index.observe(P, &range(&events)).unwrap(), expected);
    for from in 0..events.len() {
        assert_eq!(index.observe(P, &range(&events[from..])).unwrap(), expected[from..]);
    }
}

#[test]
fn a_gap_is_an_error_and_not_a_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    index.observe(P, &range(&[seen(0, 1, 0, 0)])).unwrap();
    let gap = index.observe(P, &range(&[seen(2, 2, 0, 0)]));
    assert!(matches!(gap, Err(Error::Gap { .. })), "{gap:?}");
    let other = index.observe(PartitionId::new(1), &range(&[seen(0, 2, 0, 0)]));
    assert!(matches!(other, Err(Error::Gap { contiguous: None, .. })), "{other:?}");
}

#[test]
fn what_was_not_persisted_lags_and_never_leaves_a_hole() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    index.observe(P, &range(&[seen(0, 1, 0, 0)])).unwrap();
    index.persist().unwrap();
    index.observe(P, &range(&[seen(1, 2, 0, 0)])).unwrap();
    drop(index);
    let index = open(folder.path());
    assert_eq!(index.contiguous(P).unwrap(), Some(LogOffset::new(1)));
    assert_eq!(
        index.observe(P, &range(&[seen(1, 2, 0, 0), seen(2, 1, 0, 0)])).unwrap(),
        vec![Verdict::First, duplicate(0, true)]
    );
}

#[test]
fn an_index_of_another_log_or_a_damaged_one_begins_empty() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index");
    let options = FirstSeenOptions::new(&path);
    let index = FirstSeen::open(&options, &log("a")).unwrap();
    index.partition(P).unwrap().lock().begin_at(LogOffset::ZERO);
    index.observe(P, &range(&[seen(0, 1, 0, 0)])).unwrap();
    index.persist().unwrap();
    let second = FirstSeen::open(&options, &log("a"));
    assert!(matches!(second, Err(Error::Locked { .. })), "{second:?}");
    drop(index);
    let index = FirstSeen::open(&options, &log("b")).unwrap();
    assert_eq!(index.contiguous(P).unwrap(), None);
    drop(index);
    for entry in walk(&path) {
        std::fs::write(&entry, b"not what was written").unwrap();
    }
    let index = FirstSeen::open(&options, &log("b")).unwrap();
    assert_eq!(index.contiguous(P).unwrap(), None);
}

fn walk(path: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[test]
fn a_horizon_shorter_than_the_logs_retention_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = FirstSeenOptions {
        horizon: Duration::from_secs(10),
        log_retention: Some(Duration::from_secs(11)),
        ..FirstSeenOptions::new(folder.path())
    };
    let refused = FirstSeen::open(&options, &log("a"));
    assert!(matches!(refused, Err(Error::HorizonTooShort { .. })), "{refused:?}");
}

#[test]
fn many_events_are_first_at_their_own_offset_however_often_they_are_observed() {
    const EVENTS: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    let events: Vec<Seen> = (0..EVENTS).map(|n| seen(n, n, 0, 0)).collect();
    for _ in 0..2 {
        for batch in events.chunks(2_000) {
            let verdicts = index.observe(P, &range(batch)).unwrap();
            assert!(verdicts.iter().all(|verdict| *verdict == Verdict::First));
        }
    }
}

/// A log that takes a record in, which somebody else observes, while it is asked for its end.
#[derive(Debug)]
struct Growing {
    index: Arc<FirstSeen>,
    identity: LogIdentity,
}

#[async_trait]
impl EventLog for Growing {
    fn identity(&self) -> &LogIdentity {
        &self.identity
    }

    fn partitions(&self, _topic: Topic) -> u32 {
        self.identity.partitions
    }

    async fn append(
        &self,
        _topic: Topic,
        _records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        Vec::new()
    }

    async fn bounds(
        &self,
        _topic: Topic,
        _partition: PartitionId,
    ) -> Result<LogBounds, chalkstream_event_log::Error> {
        let bounds = LogBounds { first: LogOffset::ZERO, end: LogOffset::new(1) };
        self.index.observe(P, &range(&[seen(1, 2, 0, 0)])).unwrap();
        Ok(bounds)
    }

    async fn read(
        &self,
        _topic: Topic,
        _partition: PartitionId,
        _from: LogOffset,
        _max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, chalkstream_event_log::Error> {
        Ok(Vec::new())
    }

    async fn subscribe(
        &self,
        _topic: Topic,
        _group: &str,
    ) -> Result<Box<dyn Subscription>, chalkstream_event_log::Error> {
        Err(chalkstream_event_log::Error::Internal { what: "nobody subscribes here" })
    }

    async fn close(&self) -> Result<(), chalkstream_event_log::Error> {
        Ok(())
    }
}

#[tokio::test]
async fn an_index_that_grows_while_the_end_is_asked_for_is_not_of_another_log() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    index.observe(P, &range(&[seen(0, 1, 0, 0)])).unwrap();
    let growing = Growing { index: Arc::clone(&index), identity: log("a") };
    index.catch_up(&growing, &NoHistory, P, LogOffset::new(1)).await.unwrap();
    assert_eq!(index.contiguous(P).unwrap(), Some(LogOffset::new(2)));
}
