//! kill -9 of the whole pipeline at random moments, under load, with clients that resend whatever
//! was not answered. Afterwards every acknowledged event stands in `events` and in the lake exactly
//! once, each learner's events in the order they were sent, and every view equals, value for
//! value, a fresh fold of the same log by a second process that nobody disturbed.
//!
//! `CHALKSTREAM_KILLS` sets the number of kills (4; `make soak` asks for 20), `CHALKSTREAM_SEED`
//! repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::folders::{copy_folder, lake_identities};
use crate::support::{self, Running};

const CLIENTS: u64 = 4;
const BATCH: usize = 40;
const VIEWS: &[&str] = &[
    "events",
    "attempts",
    "skill_mastery",
    "sessions",
    "learner_engagement_daily",
    "item_stats",
    "activity_quarter_hourly",
    "rejected_events",
];

#[test]
fn nothing_is_lost_or_doubled_when_the_embedded_pipeline_is_killed() {
    kill_under_load(&[]);
}

#[test]
fn nothing_is_lost_or_doubled_when_the_pipeline_on_kafka_is_killed() {
    let Some(kafka) = chalkstream_event_log::test_support::kafka() else { return };
    kill_under_load(&[
        ("CHALKSTREAM__LOG__KIND", "kafka"),
        ("CHALKSTREAM__LOG__BROKERS", kafka.bootstrap()),
    ]);
}

fn kill_under_load(log: &[(&str, &str)]) {
    let kills = number("CHALKSTREAM_KILLS").unwrap_or(4);
    let seed = number("CHALKSTREAM_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}: repeat with CHALKSTREAM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    // A few learners send as fast as they can: more than anybody's limit.
    let no_limit = [("CHALKSTREAM__INGEST__LIMITS__LEARNER_EVENTS_PER_MINUTE", "0")];
    let environment = &[log, &no_limit].concat();
    let mut pipeline = Running::start_with(&data_dir, environment);
    let key = pipeline.create_key("lincoln", "events:write");
    pipeline.run(&["schools", "set", "lincoln", "--zone", "America/Chicago"]).check(0, &[]);

    let (url, urls) = watch::channel(pipeline.http_url().to_owned());
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(client + 1));
            let client = Client::new(client, key.clone(), urls.clone(), Arc::clone(&stop), rng);
            support::runtime().spawn(client.run())
        })
        .collect();
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(rng.random_range(200..2_500)));
        pipeline.stop(Signal::KILL);
        pipeline = Running::start_with(&data_dir, environment);
        url.send(pipeline.http_url().to_owned()).unwrap();
    }
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let mut sent: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for client in clients {
        sent.extend(support::runtime().block_on(client).unwrap());
    }

    pipeline.wait_until_archived();
    let stored = events_by_learner(&pipeline);
    assert_eq!(stored.len(), sent.len(), "learners, seed {seed}");
    for (learner, ids) in &sent {
        let found = stored.get(learner);
        assert_eq!(found, Some(ids), "events of {learner} in log order, seed {seed}");
    }
    let disturbed = dump_views(&pipeline);
    assert!(pipeline.stop(Signal::TERM).success());

    let identities: BTreeSet<(String, String)> = sent
        .iter()
        .flat_map(|(learner, ids)| ids.iter().map(move |id| (learner.clone(), id.clone())))
        .collect();
    let lake = lake_identities(&data_dir.join("lake/events"));
    assert_eq!(lake.len(), identities.len(), "rows in the lake, seed {seed}");
    let lake: BTreeSet<(String, String)> = lake.into_iter().collect();
    assert!(lake == identities, "the lake holds each event exactly once, seed {seed}");

    let fresh_dir = folder.path().join("fresh");
    for part in ["log", "blobs"] {
        copy_folder(&data_dir.join(part), &fresh_dir.join(part));
    }
    let fresh = Running::start_with(&fresh_dir, log);
    fresh.wait_until_archived();
    let undisturbed = dump_views(&fresh);
    assert!(fresh.stop(Signal::TERM).success());
    for (view, rows) in &undisturbed {
        assert_same_rows(view, rows, &disturbed[view], seed);
    }
}

/// Sends batches of its own learners' events, each until it is answered with 200.
struct Client {
    number: u64,
    key: String,
    urls: watch::Receiver<String>,
    stop: Arc<AtomicBool>,
    rng: StdRng,
    http: reqwest::Client,
    /// Ids in the order sent, by learner: what must be stored.
    sent: BTreeMap<String, Vec<String>>,
    next: u64,
}

impl Client {
    fn new(
        number: u64,
        key: String,
        urls: watch::Receiver<String>,
        stop: Arc<AtomicBool>,
        rng: StdRng,
    ) -> Self {
        let http = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().unwrap();
        Self { number, key, urls, stop, rng, http, sent: BTreeMap::new(), next: 0 }
    }

    async fn run(mut self) -> BTreeMap<String, Vec<String>> {
        while !self.stop.load(Ordering::Relaxed) {
            let (batch, good) = self.batch();
            let answer = self.send_until_answered(&batch).await;
            let safe = answer["accepted"].as_u64().unwrap() + answer["duplicate"].as_u64().unwrap();
            assert_eq!(answer["refused"], 0, "{answer}");
            assert_eq!(safe + answer["rejected"].as_u64().unwrap(), batch.len() as u64, "{answer}");
            for (learner, id) in good {
                self.sent.entry(learner).or_default().push(id);
            }
        }
        self.sent
    }

    /// Good events of every kind that a fold reads, some sent twice, one broken now and then.
    fn batch(&mut self) -> (Vec<Value>, Vec<(String, String)>) {
        let (mut batch, mut good) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let event = self.event();
            let text = |name: &str| event[name].as_str().unwrap().to_owned();
            good.push((text("user_id"), text("id")));
            batch.push(event);
            if self.rng.random_ratio(1, 25) {
                batch.push(batch[self.rng.random_range(0..batch.len())].clone());
            }
        }
        if self.rng.random_ratio(1, 5) {
            let mut broken = self.event();
            broken["type"] = json!("no_such_type");
            batch.push(broken);
        }
        (batch, good)
    }

    fn event(&mut self) -> Value {
        self.next += 1;
        let learner = format!("learner-{}-{}", self.number, self.rng.random_range(0..20));
        // Up to three hours ago: late events, sessions that join, and two local days.
        let late = if self.rng.random_ratio(1, 10) { 10_800_000 } else { 60_000 };
        let age = chrono::TimeDelta::milliseconds(self.rng.random_range(0..late));
        let (kind, data) = match self.rng.random_range(0..8) {
            0..4 => ("answer_submitted", self.answer()),
            4 => (
                "video_watch",
                json!({"video_id": "v1", "duration_seconds": self.rng.random_range(0.0..90.0)}),
            ),
            5 => ("page_view", json!({"page": "/home", "duration_seconds": 3})),
            6 => (
                "quiz_complete",
                json!({"quiz_id": "q1", "score": self.rng.random_range(0..100), "duration_seconds": 60}),
            ),
            _ => ("lesson_complete", json!({"lesson_id": "l1", "progress": 1})),
        };
        let id = uuid::Uuid::from_u128(self.rng.random()).to_string();
        let mut event = json!({
            "id": id, "type": kind, "user_id": learner, "course_id": "algebra",
            "occurred_at": (chrono::Utc::now() - age).to_rfc3339(), "data": data,
        });
        if self.rng.random_ratio(1, 2) {
            event["session_id"] = json!(format!("s{}", self.rng.random_range(0..3)));
        }
        event
    }

    fn answer(&mut self) -> Value {
        let skills: Vec<String> = (0..self.rng.random_range(0..3))
            .map(|_| format!("skill-{}", self.rng.random_range(0..10)))
            .collect();
        json!({
            "item_id": format!("item-{}", self.rng.random_range(0..30)),
            "skill_ids": skills,
            "correct": self.rng.random_bool(0.6),
            "time_taken_ms": self.rng.random_range(500..60_000),
            "answer": format!("option {}", self.rng.random_range(0..3)),
        })
    }

    async fn send_until_answered(&mut self, batch: &[Value]) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(180);
        loop {
            let url = format!("{}/v1/events", self.urls.borrow_and_update().as_str());
            let request = self.http.post(url).bearer_auth(&self.key).json(&batch);
            let problem = match request.send().await {
                Ok(response) if response.status() == 200 => match response.json().await {
                    Ok(answer) => return answer,
                    Err(error) => error.to_string(),
                },
                Ok(response) if response.status().is_client_error() => {
                    panic!("{}: {}", response.status(), response.text().await.unwrap())
                }
                Ok(response) => response.status().to_string(),
                Err(error) => error.to_string(),
            };
            let now = tokio::time::Instant::now();
            assert!(now < deadline, "a batch had no answer for 180 s: {problem}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Ids as the clients wrote them, in log order, by learner.
fn events_by_learner(pipeline: &Running) -> BTreeMap<String, Vec<String>> {
    let query =
        "SELECT user_id, toString(id) FROM events ORDER BY log_partition, log_offset FORMAT TSV";
    let rows = pipeline.ask(query);
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows.lines() {
        let (learner, id) = row.split_once('\t').unwrap();
        events.entry(learner.to_owned()).or_default().push(id.to_owned());
    }
    events
}

/// Every row of every view, in one order.
fn dump_views(pipeline: &Running) -> BTreeMap<&'static str, Vec<String>> {
    let mut views = BTreeMap::new();
    for view in VIEWS {
        let query = format!("SELECT * FROM {view} ORDER BY ALL FORMAT JSONEachRow");
        let rows: Vec<String> = pipeline.ask(&query).lines().map(str::to_owned).collect();
        assert!(!rows.is_empty(), "{view} is empty: the comparison would prove nothing");
        views.insert(*view, rows);
    }
    views
}

#[track_caller]
fn assert_same_rows(view: &str, undisturbed: &[String], disturbed: &[String], seed: u64) {
    let differs = undisturbed.iter().zip(disturbed).find(|(a, b)| a != b);
    assert!(
        differs.is_none() && undisturbed.len() == disturbed.len(),
        "{view} differs after kill -9, seed {seed}: {} rows undisturbed, {} disturbed, first difference {differs:#?}",
        undisturbed.len(),
        disturbed.len(),
    );
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}
