//! Counts of what became of events: those of the books and of the answers, hour by hour.

use std::collections::BTreeMap;
use std::time::Duration;

use chalkstream_access::{Clock as _, Scope};
use chalkstream_event_log::Topic;
use chalkstream_ingest::TailFilter;
use serde_json::{Value, json};

use crate::harness::{Reply, Server, school, server, unacknowledged};

/// Every row as (school, app, type, status, reason), with the hour's place among the hours.
async fn counted(server: &Server) -> BTreeMap<[String; 6], u64> {
    let outcomes = server.outcomes().await;
    let mut hours: Vec<_> = outcomes.keys().map(|series| series.hour).collect();
    hours.sort();
    hours.dedup();
    let row = |(series, events): (chalkstream_schemas::OutcomeSeries, u64)| {
        assert_eq!(series.hour.as_ms() % 3_600_000, 0);
        assert!(series.key_id.starts_with("csk_"));
        let hour = hours.iter().position(|hour| *hour == series.hour).unwrap();
        let (status, reason) = (series.outcome.status(), series.outcome.reason());
        let names = [&series.app, &series.type_name, status, reason].map(str::to_owned);
        let [app, type_name, status, reason] = names;
        ([hour.to_string(), series.school_id.to_string(), app, type_name, status, reason], events)
    };
    outcomes.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_counted_by_hour_school_app_type_status_and_reason() {
    let mut server = server().await;
    let with = |mut event: Value, field: &str, value: Value| {
        event[field] = value;
        event
    };
    let good = with(server.fresh(), "app", json!("web"));
    let old = with(server.fresh(), "occurred_at", json!("2001-01-01T00:00:00Z"));
    let alias = with(server.fresh(), "type", json!("question_submitted"));
    let unknown = with(server.fresh(), "type", json!("made_up"));
    let batch = json!([good, good, alias, old, unknown, "no event"]);
    server.send(&batch).await.check(200, [2, 1, 3, 0]);
    let (other, _) =
        server.keys.create(&school("adams"), &[Scope::EventsWrite], server.clock.now()).unwrap();
    let mine = server.client.post(server.url("/v1/events")).bearer_auth(other.reveal());
    Reply::of(mine.json(&json!([server.fresh()])).send().await.unwrap())
        .await
        .check(200, [1, 0, 0, 0]);
    server.clock.step(Duration::from_secs(3600));
    server.send(&json!([server.fresh()])).await.check(200, [1, 0, 0, 0]);
    server.log.fail(|topic, _| (topic == Topic::Events).then(unacknowledged));
    server.send(&json!([server.fresh()])).await.check(503, [0, 0, 0, 1]);
    let books = server.books();
    server.shutdown().await;

    let answer = "answer_submitted";
    let expected = [
        (["0", "adams", "", answer, "accepted", ""], 1),
        (["0", "lincoln", "", "", "rejected", "malformed_json"], 1),
        (["0", "lincoln", "", "", "rejected", "unknown_type"], 1),
        (["0", "lincoln", "", answer, "accepted", ""], 1),
        (["0", "lincoln", "", answer, "rejected", "too_old"], 1),
        (["0", "lincoln", "web", answer, "accepted", ""], 1),
        (["0", "lincoln", "web", answer, "duplicate", ""], 1),
        (["1", "lincoln", "", answer, "accepted", ""], 1),
        (["1", "lincoln", "", answer, "refused", "unavailable"], 1),
    ];
    let counted = counted(&server).await;
    let expected = expected.map(|(row, events)| (row.map(str::to_owned), events));
    assert_eq!(counted, BTreeMap::from(expected));
    assert_eq!(counted.values().sum::<u64>(), books.received);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_sees_each_event_with_its_fate() {
    let server = server().await;
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    let mut watcher = server.ingest.tail();
    let good = server.fresh();
    let mut broken = server.fresh();
    broken["data"] = json!({ "correct": true });
    server.send(&json!([good, broken])).await.check(200, [1, 0, 1, 0]);
    let (first, second) = (watcher.recv().await.unwrap(), watcher.recv().await.unwrap());
    assert_eq!((first.id.as_deref(), first.status.as_str()), (good["id"].as_str(), "accepted"));
    assert_eq!(second.id.as_deref(), broken["id"].as_str());
    assert_eq!(
        (second.reason.as_deref(), second.field.as_deref()),
        (Some("missing_field"), Some("data.item_id"))
    );
    for event in [&first, &second] {
        assert_eq!(event.user_id.as_deref(), Some("ada"));
        assert_eq!(event.type_name.as_deref(), Some("answer_submitted"));
    }
    let rejected = TailFilter { status: Some("rejected".to_owned()), ..TailFilter::default() };
    assert!(!rejected.wants(&first) && rejected.wants(&second));
    let bob = TailFilter { user: Some("bob".to_owned()), ..rejected };
    assert!(!bob.wants(&second));

    // Who does not listen hinders nobody, and is told what was missed.
    let many: Vec<Value> = (0..5_000).map(|_| server.fresh()).collect();
    for _ in 0..2 {
        server.send(&json!(many)).await;
    }
    let missed = watcher.recv().await.unwrap_err();
    assert!(
        matches!(missed, tokio::sync::broadcast::error::RecvError::Lagged(1_808)),
        "{missed:?}"
    );
    server.check_conservation().await;
}
