//! The spool and the breaker before a log that hangs, refuses and comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use chalkstream_schemas::{LogOffset, Timestamp};
use rand::Rng as _;

use super::*;
use crate::breaker::BreakerState;
use crate::embedded::{EmbeddedLog, EmbeddedOptions};
use crate::intake::{GuardOptions, GuardedLog, Intake, Kept};
use crate::{LogBounds, LogIdentity, StoredRecord, Subscription};

const PARTITIONS: u32 = 3;
const LIMIT: Duration = Duration::from_secs(30);

/// What the log behind does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Answers,
    /// Takes no call until it answers again.
    Hangs,
    /// Writes, and never says so.
    Swallows,
}

/// A real log with moods.
#[derive(Debug)]
struct Moody {
    real: Arc<EmbeddedLog>,
    mood: watch::Sender<Mood>,
    appends: AtomicUsize,
}

impl Moody {
    fn open(path: &Path) -> Arc<Self> {
        let options = EmbeddedOptions { partitions: PARTITIONS, ..EmbeddedOptions::new(path) };
        let real = EmbeddedLog::open(options).unwrap();
        let (mood, appends) = (watch::Sender::new(Mood::Answers), AtomicUsize::new(0));
        Arc::new(Self { real, mood, appends })
    }

    fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    async fn until_awake(&self) {
        let mut mood = self.mood.subscribe();
        mood.wait_for(|mood| *mood != Mood::Hangs).await.unwrap();
    }

    async fn texts(&self, topic: Topic, partition: u32) -> Vec<String> {
        let partition = PartitionId::new(partition);
        let mut next = LogOffset::ZERO;
        let mut texts = Vec::new();
        loop {
            let found = self.real.read(topic, partition, next, 1 << 20).await.unwrap();
            let Some(last) = found.last() else { return texts };
            next = last.offset.next();
            texts.extend(
                found.iter().map(|record| String::from_utf8(record.payload.to_vec()).unwrap()),
            );
        }
    }
}

#[async_trait]
impl EventLog for Moody {
    fn identity(&self) -> &LogIdentity {
        self.real.identity()
    }

    fn partitions(&self, topic: Topic) -> u32 {
        EventLog::partitions(&*self.real, topic)
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
    ) -> Vec<Result<LogOffset, AppendError>> {
        self.appends.fetch_add(1, Ordering::Relaxed);
        self.until_awake().await;
        let outcomes = EventLog::append(&*self.real, topic, records).await;
        let mut mood = self.mood.subscribe();
        mood.wait_for(|mood| *mood == Mood::Answers).await.unwrap();
        outcomes
    }

    async fn bounds(&self, topic: Topic, partition: PartitionId) -> Result<LogBounds, Error> {
        self.until_awake().await;
        self.real.bounds(topic, partition).await
    }

    async fn read(
        &self,
        topic: Topic,
        partition: PartitionId,
        from: LogOffset,
        max_bytes: usize,
    ) -> Result<Vec<StoredRecord>, Error> {
        self.real.read(topic, partition, from, max_bytes).await
    }

    async fn subscribe(&self, topic: Topic, group: &str) -> Result<Box<dyn Subscription>, Error> {
        self.real.subscribe(topic, group).await
    }

    async fn close(&self) -> Result<(), Error> {
        self.real.close().await
    }
}

fn record(partition: u32, text: impl Into<String>) -> NewRecord {
    NewRecord {
        partition: PartitionId::new(partition),
        key: Bytes::from_static(b"k"),
        payload: Bytes::from(text.into()),
        timestamp: Timestamp::from_ms(1_000),
        identity: None,
    }
}

fn quick() -> GuardOptions {
    GuardOptions { slow_after: Duration::from_millis(100), probe_every: Duration::from_millis(10) }
}

async fn guarded(log: &Arc<Moody>, spool: SpoolOptions) -> Arc<GuardedLog> {
    let log = || Arc::clone(log) as Arc<dyn EventLog>;
    GuardedLog::with_spool(log(), log(), quick(), spool).await.unwrap()
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn waiting(guarded: &GuardedLog) -> u64 {
    guarded.status().spool.unwrap().records
}

fn state(guarded: &GuardedLog) -> BreakerState {
    guarded.status().breaker.unwrap().state
}

fn segments_in(path: &Path) -> usize {
    segments::numbers(path).unwrap().len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_spool_a_log_that_hangs_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(folder.path());
    let guarded = GuardedLog::new(Arc::clone(&log) as Arc<dyn EventLog>, quick());
    let outcomes = guarded.append(Topic::Events, vec![record(0, "a")]).await;
    assert_eq!(outcomes[0].as_ref().unwrap(), &Kept::InLog(LogOffset::ZERO));
    log.set(Mood::Hangs);
    let (one, two) = tokio::join!(
        guarded.append(Topic::Events, vec![record(0, "b")]),
        guarded.append(Topic::Rejected, vec![record(1, "c")]),
    );
    for outcomes in [one, two] {
        assert!(matches!(outcomes[..], [Err(AppendError::Unacknowledged { .. })]), "{outcomes:?}");
    }
    assert_eq!(state(&guarded), BreakerState::Open);
    let asked = log.appends.load(Ordering::Relaxed);
    for _ in 0..100 {
        let outcomes = guarded.append(Topic::Events, vec![record(0, "d")]).await;
        let [Err(error @ AppendError::Unavailable { .. })] = &outcomes[..] else {
            panic!("{outcomes:?}")
        };
        assert!(!error.may_be_written());
    }
    assert_eq!(log.appends.load(Ordering::Relaxed), asked, "nobody waited for the log");

    log.set(Mood::Answers);
    until("a trial", || state(&guarded) == BreakerState::HalfOpen).await;
    assert!(guarded.append(Topic::Events, vec![record(0, "e")]).await[0].is_ok());
    assert_eq!(state(&guarded), BreakerState::Closed);
    let texts = log.texts(Topic::Events, 0).await;
    assert!(texts.iter().all(|text| text != "d"), "what was refused at once is nowhere: {texts:?}");
    guarded.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_survives_a_restart_and_is_forwarded_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(&folder.path().join("log"));
    let options = SpoolOptions::new(folder.path().join("spool"));
    let first = guarded(&log, options.clone()).await;
    log.set(Mood::Hangs);
    for n in 0..50 {
        let records = vec![record(0, format!("a{n:02}")), record(2, format!("b{n:02}"))];
        let outcomes = first.append(Topic::Events, records).await;
        let kept: Vec<_> = outcomes.into_iter().map(Result::unwrap).collect();
        assert_eq!(kept, [Kept::InSpool; 2]);
        let outcomes = first.append(Topic::Rejected, vec![record(0, format!("r{n:02}"))]).await;
        assert!(outcomes[0].is_ok());
    }
    assert_eq!(waiting(&first), 150);
    let status = first.status().spool.unwrap();
    assert!(status.bytes > 150 * 64 && status.oldest_age.unwrap() > Duration::from_secs(1));
    first.close().await.unwrap();
    let late = first.append(Topic::Events, vec![record(0, "late")]).await;
    assert!(late[0].is_err(), "{late:?}");
    drop(first);

    let second = guarded(&log, options.clone()).await;
    assert_eq!(waiting(&second), 150, "what was acknowledged is still there");
    // New records of a partition follow those that wait, though nobody knows of trouble yet.
    let outcomes = second.append(Topic::Events, vec![record(0, "a50"), record(1, "c")]).await;
    assert_eq!(outcomes[0].as_ref().unwrap(), &Kept::InSpool);
    log.set(Mood::Answers);
    until("everything to be forwarded", || waiting(&second) == 0).await;
    until("the folder to be empty", || segments_in(&options.path) == 0).await;
    let expected: Vec<_> = (0..=50).map(|n| format!("a{n:02}")).collect();
    assert_eq!(first_copies(log.texts(Topic::Events, 0).await), expected);
    assert_eq!(first_copies(log.texts(Topic::Events, 2).await).len(), 50);
    assert_eq!(first_copies(log.texts(Topic::Rejected, 0).await).len(), 50);
    until("the breaker to close", || state(&second) == BreakerState::Closed).await;
    let outcomes = second.append(Topic::Events, vec![record(0, "a51")]).await;
    assert!(matches!(outcomes[0], Ok(Kept::InLog(_))), "{outcomes:?}");
    second.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_spool_refuses_and_forwarding_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(&folder.path().join("log"));
    let spool = folder.path().join("spool");
    let options = SpoolOptions { max_bytes: 200_000, segment_bytes: 50_000, path: spool.clone() };
    let guarded = guarded(&log, options).await;
    log.set(Mood::Hangs);
    let mut acknowledged = Vec::new();
    let refused = loop {
        let text = format!("{:04} {}", acknowledged.len(), "x".repeat(5_000));
        match &guarded.append(Topic::Events, vec![record(1, text.clone())]).await[..] {
            [Ok(kept)] => assert_eq!(*kept, Kept::InSpool),
            [Err(error)] => break error.clone(),
            outcomes => panic!("{outcomes:?}"),
        }
        acknowledged.push(text);
    };
    assert!(matches!(refused, AppendError::Busy { limit_bytes: 200_000, .. }), "{refused}");
    assert!(!refused.may_be_written());
    assert!(segments_in(&spool) >= 4, "{}", segments_in(&spool));
    assert_eq!(guarded.status().spool.unwrap().refused, 1);
    log.set(Mood::Answers);
    until("room", || waiting(&guarded) == 0).await;
    assert_eq!(first_copies(log.texts(Topic::Events, 1).await), acknowledged);
    assert!(guarded.append(Topic::Events, vec![record(1, "again")]).await[0].is_ok());
    guarded.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_spool_is_never_forwarded_to_another_log() {
    let folder = tempfile::tempdir().unwrap();
    let options = SpoolOptions::new(folder.path().join("spool"));
    let (one, other) =
        (Moody::open(&folder.path().join("one")), Moody::open(&folder.path().join("other")));
    let guarded_one = guarded(&one, options.clone()).await;
    one.set(Mood::Hangs);
    assert!(guarded_one.append(Topic::Events, vec![record(0, "a")]).await[0].is_ok());
    let open = |log: &Arc<Moody>| {
        let log = Arc::clone(log) as Arc<dyn EventLog>;
        Spool::open(options.clone(), log, Breaker::new("test"))
    };
    assert!(matches!(open(&one).await, Err(Error::Locked { .. })), "one process at a time");
    guarded_one.close().await.unwrap();
    drop(guarded_one);
    let error = open(&other).await.unwrap_err();
    assert!(matches!(error, Error::ForeignSpool { .. }), "{error}");
    assert!(error.hint().unwrap().contains("log.spool.path"));
    one.set(Mood::Answers);
    let spool = open(&one).await.unwrap();
    until("it to be empty", || spool.status().records == 0 && segments_in(&options.path) == 0)
        .await;
    spool.close().await.unwrap();
    drop(spool);
    open(&other).await.expect("an empty spool is for any log").close().await.unwrap();
}

/// Nobody pauses for the spool to become empty; it is left all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_steady_load_records_go_to_the_log_again() {
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(&folder.path().join("log"));
    let guarded = guarded(&log, SpoolOptions::new(folder.path().join("spool"))).await;
    log.set(Mood::Hangs);
    let mut learners = tokio::task::JoinSet::new();
    for learner in 0..6_u32 {
        let guarded = Arc::clone(&guarded);
        learners.spawn(async move {
            let (mut spooled, mut direct) = (0, 0);
            // Until it has been through the spool, and then past it for a while.
            while spooled == 0 || direct < 50 {
                let records = vec![record(learner % PARTITIONS, "x")];
                match guarded.append(Topic::Events, records).await[0] {
                    Ok(Kept::InSpool) => (spooled, direct) = (spooled + 1, 0),
                    Ok(Kept::InLog(_)) => direct += 1,
                    Err(_) => {}
                }
            }
        });
    }
    until("records to wait", || waiting(&guarded) > 100).await;
    log.set(Mood::Answers);
    let all = async { while learners.join_next().await.transpose().unwrap().is_some() {} };
    tokio::time::timeout(LIMIT, all).await.expect("the spool is never left");
    assert_eq!((waiting(&guarded), state(&guarded)), (0, BreakerState::Closed));
    guarded.close().await.unwrap();
}

/// The disk under the spool is full: refused; what it acknowledged is forwarded, and that makes room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_under_the_spool_refuses_and_forwarding_makes_room() {
    let Ok(disk) = std::env::var("CHALKSTREAM_TEST_FULL_SPOOL") else {
        let folder = tempfile::tempdir().unwrap();
        // A small disk of its own, in a namespace that ends with the child.
        let script = format!(
            "mount -t tmpfs -o size=24m none '{0}' && exec '{1}' --exact \
             spool::tests::a_full_disk_under_the_spool_refuses_and_forwarding_makes_room --nocapture",
            folder.path().display(),
            std::env::current_exe().unwrap().display()
        );
        let child = std::process::Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .env("CHALKSTREAM_TEST_FULL_SPOOL", folder.path())
            .output();
        let output = child.expect("the tool `unshare` (util-linux) is needed for a small disk");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let skip = std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some();
        if skip && (said.contains("unshare failed") || said.contains("mount:")) {
            println!("skipped: no disk of its own can be mounted here: {said}");
            return;
        }
        assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(folder.path());
    let path = Path::new(&disk).join("spool");
    let options = SpoolOptions { segment_bytes: 4 << 20, ..SpoolOptions::new(&path) };
    let guarded = guarded(&log, options).await;
    let noises: String = (0..200_000).map(|_| rand::rng().random_range('!'..='~')).collect();
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        log.set(Mood::Hangs);
        let before = acknowledged.len();
        let refused = loop {
            let from = rand::rng().random_range(0..100_000);
            let noise = noises.get(from..from + 100_000).unwrap();
            let text = format!("{:05} {noise}", acknowledged.len());
            match &guarded.append(Topic::Events, vec![record(1, text.clone())]).await[..] {
                [Ok(kept)] => assert_eq!(*kept, Kept::InSpool),
                [Err(error)] => break error.clone(),
                outcomes => panic!("{outcomes:?}"),
            }
            acknowledged.push(text);
            assert!(acknowledged.len() < 2_000, "the disk never gets full");
        };
        assert!(acknowledged.len() > before + 50, "{refused} after {}", acknowledged.len());
        let status = guarded.status().spool.unwrap();
        assert!(status.shut.is_some(), "{status:?}, {refused}");
        // Again and again, it stays a refusal.
        for _ in 0..20 {
            let again = guarded.append(Topic::Events, vec![record(1, "more")]).await;
            assert!(again[0].is_err(), "{again:?}");
        }
        log.set(Mood::Answers);
        until("room", || waiting(&guarded) == 0 && segments_in(&path) == 0).await;
        assert_eq!(guarded.status().spool.unwrap().shut, None, "round {round}");
    }
    let found = first_copies(log.texts(Topic::Events, 1).await);
    // One that was refused may have come through all the same, once.
    let known: BTreeSet<_> = acknowledged.iter().collect();
    let found: Vec<_> = found.into_iter().filter(|text| known.contains(text)).collect();
    assert!(found == acknowledged, "everything acknowledged is there, in order");
    guarded.close().await.unwrap();
}

/// Learners that wait for each answer, before a log whose mood changes at random, over two starts:
/// whatever was acknowledged is there, and the first copies are in the order of each learner.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mood_of_the_log_loses_or_reorders_a_learners_events() {
    let folder = tempfile::tempdir().unwrap();
    let log = Moody::open(&folder.path().join("log"));
    let mut sent: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    let mut times_opened = 0;
    for start in 0..2 {
        let options = SpoolOptions {
            max_bytes: 1 << 20,
            segment_bytes: 2_000,
            path: folder.path().join("spool"),
        };
        let guarded = guarded(&log, options).await;
        log.set(Mood::Hangs);
        let mut learners = tokio::task::JoinSet::new();
        for learner in 0..9_u32 {
            let guarded = Arc::clone(&guarded);
            learners.spawn(async move {
                let mut acknowledged = Vec::new();
                for n in 0..60 {
                    let text = format!("{learner}:{start}:{n}");
                    let partition = learner % PARTITIONS;
                    // As a client does: again and again until it is taken.
                    loop {
                        let records = vec![record(partition, text.clone())];
                        if guarded.append(Topic::Events, records).await[0].is_ok() {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    acknowledged.push(text);
                }
                (learner, acknowledged)
            });
        }
        let moods = [Mood::Hangs, Mood::Answers, Mood::Swallows, Mood::Answers];
        let (moody, watched) = (Arc::clone(&log), Arc::clone(&guarded));
        let changing = tokio::spawn(async move {
            let opened = || watched.status().breaker.is_some_and(|it| it.times_opened > 0);
            until("the breaker to open", opened).await;
            for turn in 0.. {
                moody.set(moods[turn % moods.len()]);
                let ms = rand::rng().random_range(1..200);
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        });
        while let Some(learner) = learners.join_next().await {
            let (learner, acknowledged) = learner.unwrap();
            sent.entry(learner).or_default().extend(acknowledged);
        }
        changing.abort();
        drop(changing.await);
        if start == 1 {
            log.set(Mood::Answers);
            until("everything to be forwarded", || waiting(&guarded) == 0).await;
        }
        times_opened += guarded.status().breaker.unwrap().times_opened;
        guarded.close().await.unwrap();
        // Copies that were under way come whenever the log answers.
        log.set(Mood::Answers);
    }
    assert!(times_opened > 0, "there was no trouble at all");
    for (learner, expected) in sent {
        let texts = log.texts(Topic::Events, learner % PARTITIONS).await;
        let own = texts.into_iter().filter(|text| text.starts_with(&format!("{learner}:")));
        assert_eq!(first_copies(own.collect()), expected, "learner {learner}");
    }
}

/// What remains when all but the first copy of each is dropped, as the processors do.
fn first_copies(texts: Vec<String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}
