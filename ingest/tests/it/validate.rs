//! `?validate=true`: the same answer, and nothing stored, reserved or counted as received.

use serde_json::json;

use crate::harness::server;

const VALIDATE: &str = "?validate=true";

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_answers_as_the_request_would_and_changes_nothing() {
    let server = server().await;
    let known = server.fresh();
    server.send(&known).await.check(200, [1, 0, 0, 0]);
    let mut conflict = known.clone();
    conflict["data"]["correct"] = json!(false);
    let new = server.fresh();
    let broken = json!({ "id": "x", "type": "answer_submitted", "user_id": "ada" });
    let batch = json!([known, conflict, new, new, broken]);

    let before = server.books();
    let first = server.send_to("?validate=true&results=all", &batch).await;
    first.check(200, [1, 2, 2, 0]);
    // Asked again it is the same: the new event is still new.
    let second = server.send_to("?results=all&validate=true", &batch).await;
    assert_eq!(second.body, first.body);
    assert_eq!(server.books(), before);
    assert!(server.rejected().await.is_empty());
    assert_eq!(server.events().await.len(), 1);
    server.check_conservation().await;
    let metric = |fate| format!("chalkstream_ingest_validated_events_total{{fate=\"{fate}\"}}");
    for (fate, count) in [("accepted", 2), ("duplicate", 4), ("rejected", 4), ("refused", 0)] {
        assert_eq!(server.metric(&metric(fate)).await, count, "{fate}");
    }

    let real = server.send_to("?results=all", &batch).await;
    assert_eq!(real.body, first.body);
    server.send_to("?validate=false", &batch).await.check(200, [0, 3, 2, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_has_the_statuses_of_the_request() {
    let server = server().await;
    server.send_to(VALIDATE, &json!([])).await.check(200, [0, 0, 0, 0]);
    server.send_to(VALIDATE, &json!([{}, 7])).await.check(422, [0, 0, 2, 0]);
    server.send_to(VALIDATE, &json!("text")).await.check_problem(400, "broken-body", "array");
    server.log.fail_lookups();
    server.send_to(VALIDATE, &server.fresh()).await.check(503, [0, 0, 0, 1]);
    server.log.heal();
    // The log is not asked: it may be closed.
    server.log.close_gate();
    server.send_to(VALIDATE, &json!([server.fresh(), {}])).await.check(200, [1, 0, 1, 0]);
    server.log.open_gate();
    assert_eq!(server.books().received, 0);
    server.check_conservation().await;
}
