//! Kafka is paused or killed under load, with a spool and without: every acknowledged record is in
//! Kafka, in its learner's order once copies are dropped; what was refused at once is nowhere.
//!
//! `CHALKSTREAM_PAUSE_SECONDS` sets how long the broker hangs (6; the figure is 30).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::conformance::{PATIENCE, read_all, record, texts};
use chalkstream_event_log::intake::{GuardOptions, GuardedLog};
use chalkstream_event_log::kafka::{KafkaLog, KafkaOptions};
use chalkstream_event_log::spool::SpoolOptions;
use chalkstream_event_log::test_support::{Broker, kafka};
use chalkstream_event_log::{DEFAULT_PARTITIONS, EventLog, Intake, Kept, Topic};
use chalkstream_schemas::LogOffset;
use tokio::task::JoinSet;

/// Longer than the pause: what is under way is not given up before Kafka answers again.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

const QUICK: GuardOptions = GuardOptions {
    slow_after: Duration::from_millis(500),
    probe_every: Duration::from_millis(100),
};

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Paused,
    Killed,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_broker_costs_nothing_with_a_spool() {
    under_load(Trouble::Paused, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_broker_without_a_spool_is_refused_at_once() {
    under_load(Trouble::Paused, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_costs_nothing_with_a_spool() {
    under_load(Trouble::Killed, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_broker_without_a_spool_is_refused_at_once() {
    under_load(Trouble::Killed, false).await;
}

async fn under_load(trouble: Trouble, spooled: bool) {
    // Asked for first, so that what is missing is skipped or named in one place.
    let Some(_) = tokio::task::spawn_blocking(kafka).await.unwrap() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut broker = Some(start(folder.path()).await);
    let options = KafkaOptions {
        delivery_timeout: DELIVERY_TIMEOUT,
        ..KafkaOptions::new(broker.as_ref().unwrap().bootstrap())
    };
    let log = KafkaLog::connect(options).await.unwrap();
    let of_log = || Arc::clone(&log) as Arc<dyn EventLog>;
    let guarded = if spooled {
        let patient = log.patient().unwrap();
        let spool = SpoolOptions::new(folder.path().join("spool"));
        GuardedLog::with_spool(of_log(), patient, QUICK, spool).await.unwrap()
    } else {
        GuardedLog::new(of_log(), QUICK)
    };

    let stop = Arc::new(AtomicBool::new(false));
    let mut learners = JoinSet::new();
    for learner in 0..8 {
        let patient = learner % 2 == 0;
        learners.spawn(learn(learner, patient, Arc::clone(&guarded), Arc::clone(&stop)));
    }
    until(
        "the load to be in Kafka",
        || Arc::clone(&guarded),
        |guarded| guarded.status().breaker.unwrap().state == BreakerState::Closed,
    )
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    match trouble {
        Trouble::Paused => broker.as_ref().unwrap().signal("-STOP"),
        Trouble::Killed => tokio::task::block_in_place(|| broker.take().unwrap().kill()),
    }
    until(
        "the breaker to open",
        || Arc::clone(&guarded),
        |guarded| guarded.status().breaker.unwrap().state == BreakerState::Open,
    )
    .await;
    tokio::time::sleep(pause()).await;
    match trouble {
        Trouble::Paused => broker.as_ref().unwrap().signal("-CONT"),
        Trouble::Killed => broker = Some(start(folder.path()).await),
    }
    until(
        "Kafka to be asked again",
        || Arc::clone(&guarded),
        |guarded| {
            let status = guarded.status();
            let idle = status.spool.is_none_or(|spool| spool.records == 0);
            idle && status.breaker.unwrap().state == BreakerState::Closed
        },
    )
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut diaries = Vec::new();
    while let Some(diary) = learners.join_next().await {
        diaries.push(diary.unwrap());
    }
    until(
        "the spool to be empty",
        || Arc::clone(&guarded),
        |guarded| guarded.status().spool.is_none_or(|spool| spool.records == 0),
    )
    .await;
    let status = guarded.status();
    guarded.close().await.unwrap();
    // Whatever the producer still has comes before the count.
    log.close().await.unwrap();
    let log = KafkaLog::connect(KafkaOptions::new(broker.as_ref().unwrap().bootstrap()));
    check(&*log.await.unwrap(), &diaries).await;
    let in_spool: usize = diaries.iter().map(|diary| diary.in_spool).sum();
    let refused: usize = diaries.iter().map(|diary| diary.refused_at_once.len()).sum();
    println!(
        "{trouble:?}, spool {spooled}: {in_spool} in the spool, {refused} refused, {status:?}"
    );
    assert_eq!(in_spool > 0, spooled, "{status:?}");
    assert_eq!(refused > 0, !spooled, "{status:?}");
    drop(broker);
}

/// What a learner was told.
#[derive(Default)]
struct Diary {
    learner: u32,
    acknowledged: Vec<String>,
    refused_at_once: BTreeSet<String>,
    in_spool: usize,
}

/// Sends one record after the other, each once the one before was answered. A patient learner sends
/// again what was refused; another one goes on to the next.
async fn learn(learner: u32, patient: bool, log: Arc<GuardedLog>, stop: Arc<AtomicBool>) -> Diary {
    let mut diary = Diary { learner, ..Diary::default() };
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let text = format!("{learner}:{n}");
        let mut may_be_written = false;
        loop {
            let sent = vec![record(learner % DEFAULT_PARTITIONS, text.clone())];
            let outcome = log.append(Topic::Events, sent).await.remove(0);
            match outcome {
                Ok(kept) => {
                    diary.in_spool += usize::from(kept == Kept::InSpool);
                    diary.acknowledged.push(text);
                    break;
                }
                Err(error) => may_be_written |= error.may_be_written(),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            if !patient {
                if !may_be_written {
                    diary.refused_at_once.insert(text);
                }
                break;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    diary
}

async fn check(log: &dyn EventLog, diaries: &[Diary]) {
    for diary in diaries {
        let partition = diary.learner % DEFAULT_PARTITIONS;
        let found = read_all(log, Topic::Events, partition, LogOffset::ZERO, 1 << 20).await;
        let own = format!("{}:", diary.learner);
        let mut seen = BTreeSet::new();
        let first_copies: Vec<_> = texts(&found)
            .into_iter()
            .filter(|text| text.starts_with(&own) && seen.insert(text.clone()))
            .collect();
        let places: BTreeMap<_, _> =
            first_copies.iter().enumerate().map(|(at, text)| (text, at)).collect();
        let mut last = None;
        for text in &diary.acknowledged {
            let at = places.get(text).copied();
            assert!(at.is_some(), "{text} was acknowledged and is not in Kafka");
            assert!(at > last, "{text} stands before what was acknowledged earlier");
            last = at;
        }
        for text in &diary.refused_at_once {
            assert!(!places.contains_key(text), "{text} was refused and stands in Kafka");
        }
        assert!(!diary.acknowledged.is_empty());
    }
}

async fn start(folder: &Path) -> Broker {
    let folder = folder.join("kafka");
    tokio::task::spawn_blocking(move || Broker::start_on(&folder, None)).await.unwrap().unwrap()
}

async fn until<T>(what: &str, of: impl Fn() -> T, done: impl Fn(&T) -> bool) {
    let began = Instant::now();
    while !done(&of()) {
        assert!(began.elapsed() < PATIENCE * 2, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn pause() -> Duration {
    let seconds = std::env::var("CHALKSTREAM_PAUSE_SECONDS");
    Duration::from_secs(seconds.map_or(6, |seconds| seconds.parse().unwrap()))
}
