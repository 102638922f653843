//! What becomes of each event: reasons, duplicates, conflicts, and the answer's form.

use std::time::Duration;

use chalkstream_access::Clock as _;
use chalkstream_access::{ByteSize, Scope};
use chalkstream_ingest::IngestOptions;
use chalkstream_schemas::RejectReason;
use serde_json::{Value, json};

use crate::harness::{Reply, school, server, server_with};

const ID: &str = "00000000-0000-4000-8000-000000000001";

fn with(mut event: Value, field: &str, value: Value) -> Value {
    event[field] = value;
    event
}

fn without(mut event: Value, field: &str) -> Value {
    event.as_object_mut().unwrap().remove(field).unwrap();
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_event_is_durable_and_a_broken_one_beside_it_is_named() {
    let server = server().await;
    let good = server.event(ID);
    let broken = without(server.fresh(), "user_id");
    let reply = server.send(&json!([good, broken])).await;
    reply.check(200, [1, 0, 1, 0]);
    let result = &reply.body["results"][0];
    assert_eq!(reply.body["results"].as_array().unwrap().len(), 1);
    assert_eq!(result["index"], 1);
    assert_eq!(result["id"], broken["id"]);
    assert_eq!(result["status"], "rejected");
    assert_eq!(result["reason"], "missing_field");
    assert_eq!(result["field"], "user_id");
    assert!(!result["message"].as_str().unwrap().is_empty());

    let events = server.events().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].id.to_string(), ID);
    assert_eq!(events[0].school_id.as_str(), "lincoln");
    let rejected = server.rejected().await;
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].reason, RejectReason::MissingField);
    assert_eq!(serde_json::from_slice::<Value>(&rejected[0].raw).unwrap(), broken);
    assert!(server.key.starts_with(&rejected[0].key_id));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_of_this_server_is_answered_and_kept() {
    let server = server().await;
    let at = |offset: i64| {
        let now = server.clock.now().as_ms();
        json!(chalkstream_schemas::Timestamp::from_ms(now + offset).to_string())
    };
    const DAY: i64 = 86_400_000;
    let known = server.event(ID);
    server.send(&known).await.check(200, [1, 0, 0, 0]);
    let fresh = || server.fresh();
    let cases = [
        ("malformed_json", json!([1, 2])),
        ("malformed_json", json!("an event")),
        ("missing_field", without(fresh(), "id")),
        ("missing_field", without(fresh(), "type")),
        ("missing_field", with(fresh(), "data", json!({ "correct": true }))),
        ("missing_field", with(fresh(), "data", json!({ "item_id": "q1" }))),
        ("invalid_field", with(fresh(), "user_id", json!(""))),
        ("invalid_field", with(fresh(), "user_role", json!("king"))),
        ("unknown_type", with(fresh(), "type", json!("nonsense"))),
        ("invalid_timestamp", with(fresh(), "occurred_at", json!("yesterday"))),
        ("too_old", with(fresh(), "occurred_at", at(-401 * DAY))),
        ("in_future", with(fresh(), "occurred_at", at(11 * 60_000))),
        ("event_too_large", with(fresh(), "app_notes", json!("x".repeat(70_000)))),
        ("id_conflict", with(known.clone(), "type", json!("login"))),
    ];
    for (reason, event) in &cases {
        // In an array: alone, an array or a string would be another kind of body.
        let reply = server.send(&json!([event])).await;
        reply.check(422, [0, 0, 1, 0]);
        assert_eq!(reply.body["results"][0]["reason"], *reason, "{event} {reply:?}");
        assert!(reply.body["results"][0]["message"].as_str().unwrap().len() > 10, "{reply:?}");
    }
    let all = cases.iter().map(|(_, event)| event).collect::<Vec<_>>();
    server.send(&json!(all)).await.check(422, [0, 0, cases.len() as u64, 0]);

    let kept = server.rejected().await;
    assert_eq!(kept.len(), 2 * cases.len());
    for (reason, event) in &cases {
        let found = kept.iter().filter(|kept| kept.reason.as_str() == *reason).count();
        let expected = cases.iter().filter(|(other, _)| other == reason).count();
        assert_eq!(found, 2 * expected, "{reason}");
        if *reason != "event_too_large" {
            let raw = serde_json::to_vec(event).unwrap();
            assert_eq!(kept.iter().filter(|kept| kept.raw == raw).count(), 2, "{event}");
        }
    }
    assert!(kept.iter().all(|kept| kept.raw.len() <= 64 << 10));
    // The limits themselves are still good.
    let edges = json!([
        with(fresh(), "occurred_at", at(-400 * DAY)),
        with(fresh(), "occurred_at", at(600_000)),
    ]);
    server.send(&edges).await.check(200, [2, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_is_one_within_a_batch_and_across_requests() {
    let server = server().await;
    let event = server.event(ID);
    let reply = server.send(&json!([event, event, event])).await;
    reply.check(200, [1, 2, 0, 0]);
    assert_eq!(reply.body["results"][0], json!({ "index": 1, "id": ID, "status": "duplicate" }));
    server.send(&event).await.check(200, [0, 1, 0, 0]);

    // `sent_at` and the time of receipt are no part of what an event says.
    server.clock.step(Duration::from_secs(3));
    let later = with(event.clone(), "sent_at", json!(server.clock.now().to_string()));
    server.send(&later).await.check(200, [0, 1, 0, 0]);
    // Another user's event with the same id is another event.
    server.send(&with(event.clone(), "user_id", json!("bob"))).await.check(200, [1, 0, 0, 0]);
    // And so is another school's.
    let (key, _) =
        server.keys.create(&school("other"), &[Scope::EventsWrite], server.clock.now()).unwrap();
    let request = server.client.post(server.url("/v1/events")).bearer_auth(key.reveal());
    Reply::of(request.json(&event).send().await.unwrap()).await.check(200, [1, 0, 0, 0]);
    assert_eq!(server.events().await.len(), 3);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_with_other_content_is_a_conflict() {
    let server = server().await;
    let event = server.event(ID);
    let other = with(event.clone(), "data", json!({ "item_id": "q2", "correct": false }));
    let reply = server.send(&json!([event, other, event])).await;
    reply.check(200, [1, 1, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "id_conflict");
    assert_eq!(reply.body["results"][0]["field"], "id");
    assert_eq!(reply.body["results"][0]["id"], ID);
    assert_eq!(reply.body["results"][1]["status"], "duplicate");
    server.send(&other).await.check(422, [0, 0, 1, 0]);
    // A batch whose first is the conflict: what counts is what the log holds.
    let reply = server.send(&json!([other, event])).await;
    reply.check(200, [0, 1, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "id_conflict");
    assert_eq!(server.rejected().await.len(), 3);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_no_uuid_is_answered_as_it_was_sent() {
    let server = server().await;
    let event = server.event("attempt-17");
    server.send(&event).await.check(200, [1, 0, 0, 0]);
    let reply = server.send(&event).await;
    reply.check(200, [0, 1, 0, 0]);
    assert_eq!(reply.body["results"][0]["id"], "attempt-17");
    let stored = server.events().await.remove(0);
    assert_eq!(stored.original_id.as_deref(), Some("attempt-17"));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_results_are_named_on_request_in_order() {
    let server = server().await;
    let ids = ["a", "b", "c", "d"];
    let mut batch = ids.map(|id| server.event(id)).to_vec();
    batch[2]["type"] = json!("nonsense");
    let quiet = server.send(&json!(batch)).await;
    quiet.check(200, [3, 0, 1, 0]);
    batch.insert(0, server.event("new"));
    let reply = server.send_to("?results=all", &json!(batch)).await;
    reply.check(200, [1, 3, 1, 0]);
    let results = reply.body["results"].as_array().unwrap();
    let found = results
        .iter()
        .map(|result| {
            (result["index"].as_u64().unwrap(), result["id"].as_str(), result["status"].as_str())
        })
        .collect::<Vec<_>>();
    let expected = [
        ("new", "accepted"),
        ("a", "duplicate"),
        ("b", "duplicate"),
        ("c", "rejected"),
        ("d", "duplicate"),
    ];
    for ((index, (id, status)), found) in expected.into_iter().enumerate().zip(found) {
        assert_eq!(found, (index as u64, Some(id), Some(status)));
    }
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backfill_lifts_the_age_limit_and_nothing_else() {
    let server = server().await;
    let (key, _) = server
        .keys
        .create(&school("lincoln"), &[Scope::EventsBackfill], server.clock.now())
        .unwrap();
    let old = with(server.fresh(), "occurred_at", json!("1999-12-31T23:59:59Z"));
    let future = with(server.fresh(), "occurred_at", json!("2200-01-01T00:00:00Z"));
    let body = json!([old, future]);
    server.send(&body).await.check(422, [0, 0, 2, 0]);
    let request = server.client.post(server.url("/v1/events")).bearer_auth(key.reveal());
    let reply = Reply::of(request.json(&body).send().await.unwrap()).await;
    reply.check(200, [1, 0, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "in_future");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aliases_and_a_batchs_sent_at_reach_the_log() {
    let server = server().await;
    let now = server.clock.now();
    // This device's clock is an hour behind.
    let behind = chalkstream_schemas::Timestamp::from_ms(now.as_ms() - 3_600_000).to_string();
    let event = json!({
        "client_attempt_id": ID,
        "type": "question_submitted",
        "user_id": "ada",
        "timestamp": behind,
        "data": { "question_id": "q9", "correct": false, "surprise": [1, 2] },
        "tenant": "x",
    });
    server.send(&json!({ "events": [event], "sent_at": behind })).await.check(200, [1, 0, 0, 0]);
    let stored = server.events().await.remove(0);
    assert_eq!(stored.type_name(), "answer_submitted");
    assert_eq!(stored.event_time, now);
    assert_eq!(stored.received_at, now);
    assert!(stored.data.contains("surprise") && stored.extra.contains("tenant"));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learners_events_keep_the_order_of_their_batch() {
    let options = IngestOptions { max_event: ByteSize::kib(4), ..IngestOptions::default() };
    let server = server_with(options).await;
    let batch = (0..1_000)
        .map(|n| {
            with(
                server.event(&format!("e{n}")),
                "data",
                json!({ "item_id": n.to_string(), "correct": true }),
            )
        })
        .collect::<Vec<_>>();
    server.send(&json!(batch)).await.check(200, [1_000, 0, 0, 0]);
    let stored = server.events().await;
    let order = stored.iter().map(|event| event.original_id.clone().unwrap()).collect::<Vec<_>>();
    let expected = (0..1_000).map(|n| format!("e{n}").into_boxed_str()).collect::<Vec<_>>();
    assert_eq!(order, expected);
    server.check_conservation().await;
}
