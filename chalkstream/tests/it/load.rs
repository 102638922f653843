//! Load with exact books: clients that send events of every kind, resend what was not answered, and
//! know of each event what must be true of it in the end.
//!
//! Always true: a client's learners are its own, and it sends their next batch only after the one
//! before was answered or given up; so a learner's events stand in the order in which they were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::support::{runtime, wait_until};

const CLIENTS: u64 = 4;
const BATCH: usize = 40;
const ANSWER_DEADLINE: Duration = Duration::from_secs(180);

/// How clients behave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    /// Leave half of what is answered with 429 or 503 as it is, instead of sending it again.
    pub(crate) gives_up: bool,
    /// Between two batches of a client.
    pub(crate) pause: Duration,
    /// A client that has no answer for so long sends again.
    pub(crate) timeout: Duration,
}

impl Default for Manner {
    fn default() -> Self {
        let timeout = Duration::from_secs(30);
        Self { gives_up: false, pause: Duration::ZERO, timeout }
    }
}

/// What must be true in the end.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// Ids in the order sent, by learner: each stands exactly once.
    pub(crate) acknowledged: BTreeMap<String, Vec<String>>,
    /// Answered with 429 or 503, or as refused, and given up: each stands at most once.
    pub(crate) given_up: BTreeSet<String>,
    /// Never.
    rejected: BTreeSet<String>,
    /// Learners with events that were refused and sent again: some of them may have been written
    /// the first time, so their order is open.
    disordered: BTreeSet<String>,
    /// Requests without an answer, and answers that meant "again".
    pub(crate) resent: u64,
}

/// Clients that are sending.
#[derive(Debug)]
pub(crate) struct Load {
    urls: watch::Sender<Vec<String>>,
    stop: Arc<AtomicBool>,
    clients: Vec<(Arc<AtomicU64>, JoinHandle<Sent>)>,
}

impl Load {
    /// Starts them; `name` is a part of their learners' names.
    pub(crate) fn start(name: &str, key: &str, urls: &[&str], manner: Manner, seed: u64) -> Self {
        let (urls, watched) = watch::channel(urls.iter().map(|url| (*url).to_owned()).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS)
            .map(|number| {
                let answered = Arc::new(AtomicU64::new(0));
                let client = Client {
                    name: format!("{name}-{number}"),
                    key: key.to_owned(),
                    urls: watched.clone(),
                    manner,
                    stop: Arc::clone(&stop),
                    answered: Arc::clone(&answered),
                    rng: StdRng::seed_from_u64(seed.wrapping_add(number + 1)),
                    http: reqwest::Client::builder().timeout(manner.timeout).build().unwrap(),
                    sent: Sent::default(),
                };
                (answered, runtime().spawn(client.run()))
            })
            .collect();
        Self { urls, stop, clients }
    }

    /// Where to send from now on.
    pub(crate) fn redirect(&self, urls: &[&str]) {
        self.urls.send(urls.iter().map(|url| (*url).to_owned()).collect()).unwrap();
    }

    /// Waits until every client has had so many more answers of 200.
    #[track_caller]
    pub(crate) fn go_on_for(&self, batches: u64) {
        let now = || -> Vec<u64> {
            self.clients.iter().map(|(answered, _)| answered.load(Ordering::Relaxed)).collect()
        };
        let before = now();
        wait_until("every client was answered again", || {
            let ended = self.clients.iter().any(|(_, client)| client.is_finished());
            ended || now().iter().zip(&before).all(|(now, before)| *now >= before + batches)
        });
    }

    /// Lets every client finish its batch, and adds up.
    #[track_caller]
    pub(crate) fn stop(self) -> Sent {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Sent::default();
        for (_, client) in self.clients {
            let Sent { acknowledged, given_up, rejected, disordered, resent } =
                runtime().block_on(client).unwrap();
            all.acknowledged.extend(acknowledged);
            all.given_up.extend(given_up);
            all.rejected.extend(rejected);
            all.disordered.extend(disordered);
            all.resent += resent;
        }
        all
    }
}

impl Sent {
    /// How many events were acknowledged.
    pub(crate) fn count(&self) -> usize {
        self.acknowledged.values().map(Vec::len).sum()
    }

    /// Compares with what is stored: ids in log order, by learner.
    #[track_caller]
    pub(crate) fn check(&self, stored: &BTreeMap<String, Vec<String>>, what: &str) {
        let mut given_up_stored = 0;
        let mut ids = BTreeSet::new();
        for (learner, found) in stored {
            for id in found {
                assert!(ids.insert(id.as_str()), "{what}: {id} of {learner} stands twice");
                assert!(!self.rejected.contains(id), "{what}: {id} was rejected, and is stored");
            }
            let mut certain: Vec<&String> =
                found.iter().filter(|id| !self.given_up.contains(*id)).collect();
            given_up_stored += found.len() - certain.len();
            let acknowledged = self.acknowledged.get(learner);
            let mut expected: Vec<&String> = acknowledged.into_iter().flatten().collect();
            if self.disordered.contains(learner) {
                certain.sort();
                expected.sort();
            }
            assert_eq!(certain, expected, "{what}: events of {learner} in log order");
        }
        let lost: Vec<_> =
            self.acknowledged.keys().filter(|learner| !stored.contains_key(*learner)).collect();
        assert!(lost.is_empty(), "{what}: nothing is stored of {lost:?}");
        println!(
            "{what}: {} events acknowledged, each once; {} given up, {given_up_stored} of them \
             once; {} rejected, none stored; {} requests sent again",
            self.count(),
            self.given_up.len(),
            self.rejected.len(),
            self.resent,
        );
    }
}

/// Rows of `user_id` and `id` in log order, as ClickHouse's TSV, by learner.
pub(crate) fn by_learner(rows: &str) -> BTreeMap<String, Vec<String>> {
    let mut events: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows.lines() {
        let (learner, id) = row.split_once('\t').unwrap();
        events.entry(learner.to_owned()).or_default().push(id.to_owned());
    }
    events
}

/// The query whose rows [`by_learner`] takes.
pub(crate) const EVENTS: &str =
    "SELECT user_id, toString(id) FROM events ORDER BY log_partition, log_offset FORMAT TSV";

struct Client {
    name: String,
    key: String,
    urls: watch::Receiver<Vec<String>>,
    manner: Manner,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    rng: StdRng,
    http: reqwest::Client,
    sent: Sent,
}

/// Events to send, and what is known of them.
struct Batch {
    events: Vec<Value>,
    /// Learner and id of each good one, once.
    good: Vec<(String, String)>,
    broken: Option<String>,
}

impl Client {
    async fn run(mut self) -> Sent {
        while !self.stop.load(Ordering::Relaxed) {
            let batch = self.batch();
            let answer = self.send(&batch).await;
            self.book(batch, &answer);
            tokio::time::sleep(self.manner.pause).await;
        }
        self.sent
    }

    /// Each event's fate: named in `results`, or accepted. `Null` is an answer that names none.
    fn book(&mut self, batch: Batch, answer: &Value) {
        let Batch { events, good, broken } = batch;
        let named: BTreeMap<usize, &str> = answer["results"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|result| {
                let index = usize::try_from(result["index"].as_u64().unwrap()).unwrap();
                (index, result["status"].as_str().unwrap())
            })
            .collect();
        let mut safe = BTreeSet::new();
        for (index, event) in events.iter().enumerate().filter(|_| !answer.is_null()) {
            let id = event["id"].as_str().unwrap();
            match (named.get(&index).copied(), broken.as_deref() == Some(id)) {
                (None | Some("accepted" | "duplicate"), false) => {
                    safe.insert(id);
                }
                (Some("rejected"), true) | (Some("refused"), _) => {}
                (fate, broken) => panic!("{id}, broken: {broken}, was {fate:?}: {answer}"),
            }
        }
        for (learner, id) in good {
            if safe.contains(id.as_str()) {
                self.sent.acknowledged.entry(learner).or_default().push(id);
            } else {
                self.sent.given_up.insert(id);
            }
        }
        self.sent.rejected.extend(broken);
        if answer["refused"] == 0 {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The last answer to the batch: one that settles it, or one at which it was given up.
    async fn send(&mut self, batch: &Batch) -> Value {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        loop {
            let url = {
                let urls = self.urls.borrow_and_update();
                urls[self.rng.random_range(0..urls.len())].clone()
            };
            let request = self.http.post(format!("{url}/v1/events"));
            let request = request.bearer_auth(&self.key).json(&batch.events);
            let problem = match whole_answer(request).await {
                Ok((200, answer)) if answer["refused"] == 0 => return answer,
                Ok((status @ (200 | 429 | 503), answer)) => {
                    if self.manner.gives_up && self.rng.random() {
                        return if answer["results"].is_array() { answer } else { Value::Null };
                    }
                    let learners = batch.good.iter().map(|(learner, _)| learner.clone());
                    self.sent.disordered.extend(learners);
                    format!("{status}: {answer}")
                }
                Ok((status, answer)) => {
                    assert!(status >= 500, "{status}: {answer}");
                    format!("{status}: {answer}")
                }
                Err(error) => error.to_string(),
            };
            self.sent.resent += 1;
            let in_time = Instant::now() < deadline;
            assert!(in_time, "a batch had no answer for {ANSWER_DEADLINE:?}: {problem}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Good events of every kind that a fold reads, some sent twice, one broken now and then.
    fn batch(&mut self) -> Batch {
        let mut batch = Batch { events: Vec::new(), good: Vec::new(), broken: None };
        let text = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        for _ in 0..BATCH {
            let event = self.event();
            batch.good.push((text(&event, "user_id"), text(&event, "id")));
            batch.events.push(event);
            if self.rng.random_ratio(1, 25) {
                let again = batch.events[self.rng.random_range(0..batch.events.len())].clone();
                batch.events.push(again);
            }
        }
        if self.rng.random_ratio(1, 5) {
            let mut broken = self.event();
            broken["type"] = json!("no_such_type");
            batch.broken = Some(text(&broken, "id"));
            batch.events.push(broken);
        }
        batch
    }

    fn event(&mut self) -> Value {
        let learner = format!("learner-{}-{}", self.name, self.rng.random_range(0..20));
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
}

/// Status and body, which is whole or an error.
async fn whole_answer(request: reqwest::RequestBuilder) -> Result<(u16, Value), reqwest::Error> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.json().await?))
}
