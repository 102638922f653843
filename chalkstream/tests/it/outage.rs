//! Ingest nodes while Kafka or Redis is away, as clients and operators meet it, with exact books:
//! what was acknowledged stands in Kafka once, when later copies of an identity are dropped as the
//! processors drop them, and in the order in which each learner's events were sent.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use chalkstream_event_log::kafka::{KafkaLog, KafkaOptions};
use chalkstream_event_log::test_support::{Broker, RedisServer};
use chalkstream_event_log::{EventLog, Topic};
use chalkstream_schemas::{LogOffset, LogRecord, PartitionId};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::load::{Load, Manner};
use crate::roles_alone::{broker, on_kafka};
use crate::support::{Environment, Running, runtime, settings, wait_until};

const SPOOLED: &str = "chalkstream_spool_records";
const ALONE: &str = "chalkstream_dedup_looked_up_without_redis_total";

/// Clients that wait for an answer; a batch that has none when its node is gone is sent again.
const PATIENT: Manner =
    Manner { gives_up: false, pause: Duration::from_millis(10), timeout: Duration::from_secs(60) };

fn node(data_dir: &Path, broker: &Broker, more: &[(&str, &str)]) -> (Running, Environment) {
    let hasty = [("log.breaker.slow_after", "500ms"), ("log.breaker.probe_every", "100ms")];
    let environment = [on_kafka(broker), settings(&hasty), settings(more)].concat();
    (Running::start_role("ingest", data_dir, &environment), environment)
}

/// kill -9 while the spool holds acknowledged events, and Kafka is still away at the next start.
#[test]
fn acknowledged_events_in_the_spool_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = broker(&folder.path().join("kafka"), None) else { return };
    let data_dir = folder.path().join("node");
    let (mut node, environment) = node(&data_dir, &broker, &[("log.spool.enabled", "true")]);
    let key = node.create_key("lincoln", "events:write");
    wait_until("the node is ready", || readyz(&node) == (200, "ready\n".to_owned()));
    let load = Load::start("spooled", &key, &[node.http_url()], PATIENT, 5);
    load.go_on_for(3);

    broker.signal("-STOP");
    wait_until("events wait in the spool", || metric(&node, SPOOLED) >= 200);
    load.go_on_for(3);
    let (status, said) = readyz(&node);
    assert_eq!(status, 200, "{said}");
    for part in ["degraded\n", "Kafka does not answer", "wait in the spool"] {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }
    assert_eq!(metric(&node, "chalkstream_log_breaker_state{state=\"open\"}"), 1);
    let doctor = node.run(&["doctor", "--json"]);
    let found: Value = serde_json::from_str(&doctor.stdout).unwrap();
    assert_eq!((doctor.code, &found["intake"]["breaker"]), (Some(1), &json!("open")), "{found}");
    assert!(found["intake"]["spool"]["records"].as_u64().unwrap() >= 200, "{found}");

    node.stop(Signal::KILL);
    broker.signal("-CONT");
    node = Running::start_role("ingest", &data_dir, &environment);
    load.redirect(&[node.http_url()]);
    load.go_on_for(5);
    let sent = load.stop();
    wait_until("the spool is empty", || metric(&node, SPOOLED) == 0);
    assert!(metric(&node, "chalkstream_spool_forwarded_records_total") >= 200);
    wait_until("the node is ready", || readyz(&node) == (200, "ready\n".to_owned()));
    assert_eq!(node.stop(Signal::TERM).code(), Some(0));
    sent.check(&stored(&broker), "spool and kill -9");
}

/// Without a spool: 503 at once, unready, and back by itself.
#[test]
fn without_a_spool_an_outage_is_a_503_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let Some(broker) = broker(&folder.path().join("kafka"), None) else { return };
    let (node, _) = node(&folder.path().join("node"), &broker, &[]);
    let key = node.create_key("lincoln", "events:write");
    let hasty = Manner { gives_up: true, ..PATIENT };
    let load = Load::start("refused", &key, &[node.http_url()], hasty, 6);
    load.go_on_for(3);
    broker.signal("-STOP");
    wait_until("the node is unready", || readyz(&node).0 == 503);
    for number in 0..50 {
        let (status, retry_after, answer) = post(&node, &key, &event("ada", number));
        assert_eq!((status, &answer["refused"]), (503, &json!(1)), "{answer}");
        assert!(retry_after.is_some(), "{answer}");
    }
    broker.signal("-CONT");
    wait_until("the node is ready", || readyz(&node) == (200, "ready\n".to_owned()));
    load.go_on_for(3);
    let sent = load.stop();
    assert!(!sent.given_up.is_empty());
    assert_eq!(node.stop(Signal::TERM).code(), Some(0));
    let stored = stored(&broker);
    assert!(!stored.contains_key("ada"), "what was refused at once is not there");
    sent.check(&stored, "no spool");
}

/// Redis is killed and started again under load: two nodes take every event all the time, and know
/// of each other's again when it is back.
#[test]
fn redis_may_be_killed_under_two_nodes() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let Some(redis) = RedisServer::start_on(&at("redis"), "") else { return };
    let Some(broker) = broker(&at("kafka"), None) else { return };
    let url = format!("redis://{}", redis.address());
    let shared = [("ingest.dedup.kind", "redis"), ("ingest.dedup.redis_url", url.as_str())];
    let (a, _) = node(&at("a"), &broker, &shared);
    let (b, _) = node(&at("b"), &broker, &shared);
    let key = a.create_key("lincoln", "events:write");
    let count = |node: &Running, fate: &str, number| {
        let (status, _, answer) = post(node, &key, &event("ada", number));
        assert_eq!(status, 200, "{answer}");
        answer[fate].as_u64().unwrap()
    };
    wait_until("the other node knows the key", || post(&b, &key, &event("ada", 0)).0 == 200);
    let known_to_both = |numbers: std::ops::Range<u64>| {
        for number in numbers {
            assert_eq!(count(&a, "accepted", number), 1);
            assert_eq!(count(&b, "duplicate", number), 1, "the other node knows");
        }
    };
    known_to_both(1..20);
    let load = Load::start("redis", &key, &[a.http_url(), b.http_url()], PATIENT, 7);
    load.go_on_for(5);
    redis.kill();
    wait_until("both nodes say so", || {
        [&a, &b].iter().all(|node| {
            let (status, said) = readyz(node);
            status == 200 && said.starts_with("degraded") && said.contains("Redis does not answer")
        })
    });
    for number in 100..120 {
        assert_eq!(count(&a, "accepted", number), 1);
        assert_eq!(count(&a, "duplicate", number), 1, "a node knows what it took itself");
        assert_eq!(count(&b, "refused", number), 0, "the processors count it once");
    }
    load.go_on_for(5);
    let _redis = RedisServer::start_on(&at("redis"), "").unwrap();
    wait_until("both are ready", || [&a, &b].iter().all(|node| readyz(node).1 == "ready\n"));
    known_to_both(200..220);
    load.go_on_for(5);
    let sent = load.stop();
    for node in [a, b] {
        assert!(
            metric(&node, ALONE) > 0 && metric(&node, "chalkstream_dedup_redis_errors_total") > 0
        );
        assert_eq!(node.stop(Signal::TERM).code(), Some(0));
    }
    let mut stored = stored(&broker);
    assert_eq!(stored.remove("ada").unwrap().len(), 60);
    sent.check(&stored, "Redis killed");
}

/// The same number is the same event.
fn event(learner: &str, number: u64) -> Value {
    static AT: LazyLock<String> = LazyLock::new(|| chrono::Utc::now().to_rfc3339());
    json!({
        "id": uuid::Uuid::from_u128(u128::from(number)).to_string(), "type": "page_view",
        "user_id": learner, "occurred_at": *AT,
        "data": {"page": format!("/{number}")},
    })
}

/// Status, `Retry-After` and answer.
fn post(node: &Running, key: &str, event: &Value) -> (u16, Option<String>, Value) {
    let request = reqwest::Client::new().post(format!("{}/v1/events", node.http_url()));
    runtime().block_on(async {
        let answer = request.bearer_auth(key).json(event).send().await.unwrap();
        let wait = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().into());
        (answer.status().as_u16(), wait, answer.json().await.unwrap())
    })
}

fn get(node: &Running, path: &str) -> (u16, String) {
    runtime().block_on(async {
        let answer = reqwest::get(format!("{}{path}", node.http_url())).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    })
}

fn readyz(node: &Running) -> (u16, String) {
    get(node, "/readyz")
}

#[track_caller]
fn metric(node: &Running, series: &str) -> u64 {
    let (_, text) = get(node, "/metrics");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
}

/// Ids that Kafka holds in log order, by learner, without later copies.
fn stored(broker: &Broker) -> BTreeMap<String, Vec<String>> {
    let mut seen = BTreeSet::new();
    let mut stored: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in runtime().block_on(records(broker)) {
        let LogRecord::Event(event) = record else { continue };
        let (learner, id) = (event.user_id.as_str().to_owned(), event.id.to_string());
        if seen.insert((learner.clone(), id.clone())) {
            stored.entry(learner).or_default().push(id);
        }
    }
    stored
}

async fn records(broker: &Broker) -> Vec<LogRecord> {
    let log = KafkaLog::connect(KafkaOptions::new(broker.bootstrap())).await.unwrap();
    let mut all = Vec::new();
    for partition in (0..log.partitions(Topic::Events)).map(PartitionId::new) {
        let end = log.bounds(Topic::Events, partition).await.unwrap().end;
        let mut next = LogOffset::ZERO;
        while next < end {
            let records = log.read(Topic::Events, partition, next, 1 << 20).await.unwrap();
            let Some(last) = records.last() else { break };
            next = last.offset.next();
            all.extend(
                records
                    .iter()
                    .map(|record| LogRecord::decode(&record.key, &record.payload).unwrap()),
            );
        }
    }
    all
}
