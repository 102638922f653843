//! The log fails, is slow, or the client leaves: nothing is lost, doubled, or left reserved.

use std::time::Duration;

use chalkstream_access::Span;
use chalkstream_event_log::{AppendError, Topic};
use chalkstream_ingest::IngestOptions;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::harness::{Server, server, server_with, unacknowledged};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_takes_nothing_is_a_503_and_the_retry_is_accepted_once() {
    let server = server().await;
    let batch = json!([server.event("a"), server.event("b")]);
    server.log.fail(|topic, _| (topic == Topic::Events).then(unacknowledged));
    for _ in 0..3 {
        let reply = server.send(&batch).await;
        reply.check(503, [0, 0, 0, 2]);
        for result in reply.body["results"].as_array().unwrap() {
            assert_eq!(
                (&result["status"], &result["reason"]),
                (&json!("refused"), &json!("unavailable"))
            );
        }
        assert!(server.metric("chalkstream_ingest_log_errors_total{call=\"append\"}").await > 0);
    }
    server.log.heal();
    server.send(&batch).await.check(200, [2, 0, 0, 0]);
    server.send(&batch).await.check(200, [0, 2, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_took_is_safe_and_the_rest_is_refused() {
    let server = server().await;
    // The followers of an event share its fate.
    let ids = ["a", "b", "c", "d", "b", "a"];
    let batch = json!(ids.map(|id| server.event(id)));
    server.log.fail(|topic, index| (topic == Topic::Events && index % 2 == 1).then(unacknowledged));
    let reply = server.send_to("?results=all", &batch).await;
    reply.check(200, [2, 1, 0, 3]);
    let statuses = reply.body["results"].as_array().unwrap().iter();
    let statuses = statuses.map(|result| result["status"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(statuses, ["accepted", "refused", "accepted", "refused", "refused", "duplicate"]);
    server.log.heal();
    server.send(&batch).await.check(200, [2, 4, 0, 0]);
    assert_eq!(server.events().await.len(), 4);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rejected_is_answered_only_when_the_rejected_log_has_it() {
    let server = server().await;
    let batch = json!([server.event("a"), { "broken": true }]);
    server.log.fail(|topic, _| (topic == Topic::Rejected).then(unacknowledged));
    let reply = server.send(&batch).await;
    reply.check(200, [1, 0, 0, 1]);
    assert_eq!(reply.body["results"][0]["reason"], "unavailable");
    server.send(&json!([{ "broken": true }])).await.check(503, [0, 0, 0, 1]);
    // A conflict found beside it is no exception.
    let mut other = server.event("a");
    other["type"] = json!("login");
    server.send(&other).await.check(503, [0, 0, 0, 1]);
    server.log.heal();
    server.send(&batch).await.check(200, [0, 1, 1, 0]);
    server.send(&other).await.check(422, [0, 0, 1, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_read_refuses_and_doubles_nothing() {
    let server = server().await;
    let batch = json!([server.event("a"), server.event("b")]);
    server.send(&server.event("a")).await.check(200, [1, 0, 0, 0]);
    server.log.fail_lookups();
    server.send(&batch).await.check(503, [0, 0, 0, 2]);
    server.log.heal();
    server.send(&batch).await.check(200, [1, 1, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_too_large_for_the_log_is_rejected_for_good() {
    let server = server().await;
    server.log.fail(|topic, _| {
        let too_large = AppendError::TooLarge { bytes: 100, limit_bytes: 10 };
        (topic == Topic::Events).then_some(too_large)
    });
    let reply = server.send(&server.event("a")).await;
    reply.check(422, [0, 0, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "event_too_large");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_in_time_is_a_503_and_its_outcome_is_kept() {
    let options = IngestOptions { request_timeout: Span::millis(300), ..IngestOptions::default() };
    let server = server_with(options).await;
    server.log.close_gate();
    let reply = server.send(&server.event("a")).await;
    reply.check_problem(503, "unacknowledged", "send all of them again");
    assert_eq!((server.books().in_flight, server.ingest.lifecycle().working()), (1, 1));
    // A retry waits for the first, and says so when its own time is up.
    server.send(&server.event("a")).await.check(503, [0, 0, 0, 1]);
    server.log.open_gate();
    server.books_become("the late outcome", |books| books.accepted == 1).await;
    server.send(&server.event("a")).await.check(200, [0, 1, 0, 0]);
    assert_eq!(server.events().await.len(), 1);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_safe_already_is_named_where_the_answer_cannot_wait() {
    let options = IngestOptions { request_timeout: Span::millis(300), ..IngestOptions::default() };
    let server = server_with(options).await;
    let (safe, new) = (server.event("safe"), server.event("new"));
    server.send(&safe).await.check(200, [1, 0, 0, 0]);
    let batch = json!([new, safe, { "broken": true }]);
    let known = json!([{ "index": 1, "id": "safe", "status": "duplicate" }]);
    server.log.close_gate();
    let reply = server.send(&batch).await;
    reply.check_problem(503, "unacknowledged", "send all of them again");
    assert_eq!(reply.body["results"], known, "{reply:?}");
    server.log.open_gate();
    server.books_become("the late outcome", |books| books.in_flight == 0).await;
    server.send(&batch).await.check(200, [0, 2, 1, 0]);
    // A bug is no other case.
    server.log.fail(|topic, _| {
        assert!(topic != Topic::Events, "injected by the test");
        None
    });
    let reply = server.send(&json!([server.event("newer"), safe])).await;
    reply.check_problem(500, "internal", "send all of them again");
    assert_eq!(reply.body["results"], known, "{reply:?}");
    // Of nothing known nothing is said.
    let reply = server.send(&server.event("newest")).await;
    reply.check_problem(500, "internal", "send all of them again");
    assert_eq!(reply.body.get("results"), None, "{reply:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bug_in_the_middle_of_a_request_leaves_nothing_behind() {
    let server = server().await;
    let batch = json!([server.event("a"), server.event("b"), { "broken": true }]);
    server.log.fail(|topic, _| {
        assert!(topic != Topic::Events, "injected by the test");
        None
    });
    let reply = server.send(&batch).await;
    reply.check_problem(500, "internal", "send all of them again");
    let books = server.books();
    assert!(books.balanced(), "{books:?}");
    assert_eq!((books.received, books.refused, books.undecided, books.in_flight), (3, 3, 3, 0));
    let panics = "chalkstream_ingest_internal_errors_total{kind=\"panic\"}";
    assert_eq!(server.metric(panics).await, 1);
    assert_eq!(server.metric("chalkstream_ingest_reserved_ids").await, 0);
    assert_eq!(server.metric("chalkstream_ingest_in_flight_bytes").await, 0);
    assert_eq!(server.ingest.lifecycle().working(), 0);
    server.log.heal();
    server.send(&batch).await.check(200, [2, 0, 1, 0]);
    assert_eq!(server.events().await.len(), 2);
}

fn head(server: &Server, length: usize) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n",
        server.key
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_nothing_along() {
    let server = server().await;
    server.log.close_gate();
    let body = json!([server.event("a"), server.event("b")]).to_string();
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(format!("{}{body}", head(&server, body.len())).as_bytes()).await.unwrap();
    server.log.arrived(1).await;
    drop(stream);
    let left = "chalkstream_ingest_requests_total{route=\"/v1/events\",status=\"disconnected\"}";
    let started = std::time::Instant::now();
    while server.metric(left).await == 0 {
        assert!(started.elapsed() < crate::harness::LIMIT, "the server did not notice");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.books().in_flight, 2);
    server.log.open_gate();
    server.books_become("the outcome", |books| books.accepted == 2).await;
    server.send(&json!([server.event("a"), server.event("b")])).await.check(200, [0, 2, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_in_the_middle_of_its_body_sent_nothing() {
    let server = server().await;
    for _ in 0..20 {
        let body = json!([server.event("a")]).to_string();
        let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
        let request = format!("{}{body}", head(&server, body.len() + 10_000));
        stream.write_all(request.as_bytes()).await.unwrap();
        drop(stream);
    }
    let started = std::time::Instant::now();
    while server.metric("chalkstream_ingest_in_flight_bytes").await > 0
        // The scraping client keeps one or two of its own.
        || server.metric("chalkstream_ingest_connections").await > 4
    {
        assert!(started.elapsed() < crate::harness::LIMIT, "the server did not notice");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(server.books().received, 0);
    server.send(&server.event("a")).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}
