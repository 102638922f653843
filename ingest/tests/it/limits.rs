//! Limits of credentials, learners and schools: what is refused, what is told, and who is not touched.

use std::time::Duration;

use chalkstream_access::{ByteSize, Clock as _, Grant, LimitsOptions, Scope, Span};
use chalkstream_event_log::Topic;
use chalkstream_ingest::IngestOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{LIMIT, Reply, Server, school, server, server_with, unacknowledged};

/// As many a minute and at once, so that time passing in a test adds nothing.
fn learner(events: u32) -> IngestOptions {
    limits(LimitsOptions {
        learner_events_per_minute: events,
        learner_burst: Span::secs(60),
        ..LimitsOptions::default()
    })
}

fn limits(limits: LimitsOptions) -> IngestOptions {
    IngestOptions { limits, ..IngestOptions::default() }
}

fn of(server: &Server, user: &str, n: usize) -> Value {
    let mut event = server.event(&format!("{user}-{n}"));
    event["user_id"] = json!(user);
    event
}

fn results(reply: &Reply) -> Vec<(u64, &str, &str)> {
    let text = |result: &Value, name: &str| result[name].as_str().unwrap_or_default().to_owned();
    let results = reply.body["results"].as_array().unwrap();
    results
        .iter()
        .map(|result| {
            assert!(text(result, "message").contains("Retry-After"), "{result}");
            let (reason, scope) = (result["reason"].as_str(), result["scope"].as_str());
            assert_eq!(result["status"], "refused");
            (result["index"].as_u64().unwrap(), reason.unwrap(), scope.unwrap_or_default())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_over_the_limit_is_refused_and_others_are_not() {
    let server = server_with(learner(3)).await;
    let batch = (0..5).flat_map(|n| [of(&server, "ada", n), of(&server, "bob", n % 3)]);
    let mut batch = batch.collect::<Vec<_>>();
    // A later event of the refused learner that came before, in another request or this one.
    batch.push(of(&server, "cyd", 0));
    let reply = server.send(&json!(batch)).await;
    reply.check(200, [7, 2, 0, 2]);
    let refused = reply.body["results"].as_array().unwrap();
    let refused = refused.iter().filter(|result| result["status"] == "refused");
    let refused = refused.map(|result| result["id"].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(refused, ["ada-3", "ada-4"], "the latest of the learner, in order");
    // Two events at three a minute.
    assert_eq!(reply.retry_after, Some(40));
    let hits = "chalkstream_ingest_limit_hits_total{scope=\"learner\",limit=\"events\"}";
    assert_eq!(server.metric(hits).await, 2);

    // Everything refused for a limit is 429; what is new of others passes still.
    let reply = server.send(&of(&server, "ada", 3)).await;
    reply.check(429, [0, 0, 0, 1]);
    assert_eq!(results(&reply), [(0, "rate_limited", "learner")]);
    server.send(&of(&server, "cyd", 1)).await.check(200, [1, 0, 0, 0]);
    // Another school's learner of the same name is another learner.
    let other = server.another_key("monroe", Scope::EventsWrite);
    server.send_as(&other, &of(&server, "ada", 3)).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sending_everything_again_gets_further_each_time() {
    // A burst of 50, and 6,000 a minute to refill it in half a second.
    let options = limits(LimitsOptions {
        learner_events_per_minute: 6_000,
        learner_burst: Span::millis(500),
        ..LimitsOptions::default()
    });
    let server = server_with(options).await;
    let batch = json!((0..120).map(|n| of(&server, "ada", n)).collect::<Vec<_>>());
    let (mut stored, mut rounds) = (0, 0);
    while stored < 120 {
        let reply = server.send(&batch).await;
        let [accepted, duplicate, rejected, refused] = reply.tally();
        assert_eq!((duplicate, rejected), (stored, 0), "what was stored costs nothing");
        assert_eq!(accepted + duplicate + refused, 120);
        stored += accepted;
        rounds += 1;
        assert!(rounds < 100, "{stored} of 120 after {rounds} rounds");
        if refused > 0 {
            // A server under load answers later than it looked at the limit.
            assert_eq!(reply.retry_after, Some(1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let ids = server.events().await.into_iter().map(|event| event.original_id.unwrap());
    let sent = (0..120).map(|n| format!("ada-{n}"));
    assert!(ids.map(String::from).eq(sent), "a learner's events keep their order");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_rejected_events_and_failures_count_against_no_learner() {
    let server = server_with(learner(4)).await;
    let first = json!([of(&server, "ada", 0), of(&server, "ada", 1)]);
    server.send(&first).await.check(200, [2, 0, 0, 0]);
    for _ in 0..5 {
        server.send(&first).await.check(200, [0, 2, 0, 0]);
    }
    let mut broken = of(&server, "ada", 2);
    broken["type"] = json!("no_such_type");
    for _ in 0..5 {
        server.send(&broken).await.check(422, [0, 0, 1, 0]);
    }
    server.log.fail(|topic, _| (topic == Topic::Events).then(unacknowledged));
    let second = json!([of(&server, "ada", 2), of(&server, "ada", 3)]);
    for _ in 0..5 {
        server.send(&second).await.check(503, [0, 0, 0, 2]);
    }
    server.log.heal();
    server.send(&second).await.check(200, [2, 0, 0, 0]);
    server.send(&of(&server, "ada", 4)).await.check(429, [0, 0, 0, 1]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_of_a_refused_event_in_the_batch_are_refused_for_the_same_reason() {
    let server = server_with(learner(1)).await;
    let batch = json!([0, 1, 1, 0].map(|n| of(&server, "ada", n)));
    let reply = server.send(&batch).await;
    reply.check(200, [1, 1, 0, 2]);
    let reply = server.send(&json!([1, 1].map(|n| of(&server, "ada", n)))).await;
    reply.check(429, [0, 0, 0, 2]);
    assert_eq!(results(&reply), [0, 1].map(|n| (n, "rate_limited", "learner")));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_has_no_limit_per_learner() {
    let server = server().await;
    let key = server.another_key("lincoln", Scope::EventsBackfill);
    let batch = json!((0..1_500).map(|n| of(&server, "ada", n)).collect::<Vec<_>>());
    server.send_as(&key, &batch).await.check(200, [1_500, 0, 0, 0]);
    // Without the scope a thousand pass at once, and a few more while the request is decided.
    let batch = json!((0..1_500).map(|n| of(&server, "bob", n)).collect::<Vec<_>>());
    let reply = server.send(&batch).await;
    let [accepted, _, _, refused] = reply.tally();
    assert_eq!((reply.status, accepted + refused), (200, 1_500));
    assert!((1_000..1_400).contains(&accepted), "{accepted}");
    assert!(reply.retry_after > Some(5), "{:?}", reply.retry_after);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_school_has_its_quota_of_new_events_a_day() {
    let options = limits(LimitsOptions { school_events_per_day: 5, ..LimitsOptions::default() });
    let server = server_with(options).await;
    let users = ["ada", "bob", "cyd"];
    let batch = |n| json!(users.map(|user| of(&server, user, n)));
    server.send(&batch(0)).await.check(200, [3, 0, 0, 0]);
    server.send(&batch(0)).await.check(200, [0, 3, 0, 0]);
    let reply = server.send(&batch(1)).await;
    reply.check(200, [2, 0, 0, 1]);
    assert_eq!(results(&reply), [(2, "quota_exceeded", "school")]);
    let until_midnight = reply.retry_after.unwrap();
    assert!((1..=86_400).contains(&until_midnight), "{until_midnight}");
    server.send(&batch(2)).await.check(429, [0, 0, 0, 3]);
    // Another school's quota is its own, and the next day begins anew.
    let other = server.another_key("monroe", Scope::EventsWrite);
    server.send_as(&other, &batch(0)).await.check(200, [3, 0, 0, 0]);
    server.clock.step(Duration::from_secs(until_midnight));
    server.send(&batch(2)).await.check(200, [3, 0, 0, 0]);
    server.check_conservation().await;
}

/// Its body is neither decompressed nor read for events: a body at fault would be a 400.
#[tokio::test(flavor = "multi_thread")]
async fn requests_over_the_limit_are_refused_before_their_body_is_read() {
    let options = limits(LimitsOptions {
        credential_requests_per_second: 1,
        credential_burst: Span::secs(2),
        ..LimitsOptions::default()
    });
    let server = server_with(options).await;
    let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
    let mut refused = None;
    for _ in 0..20 {
        let reply = server.send_bytes(&headers, b"no gzip at all".to_vec()).await;
        match reply.status {
            400 => _ = reply.check_problem(400, "broken-compression", ""),
            _ => refused = Some(reply),
        }
    }
    let reply = refused.expect("one request a second");
    reply.check_problem(429, "rate-limited", "requests");
    assert_eq!((reply.retry_after, &reply.body["scope"]), (Some(1), &json!("credential")));
    assert!(!reply.body.to_string().contains(&server.key), "{reply:?}");
    let other = server.another_key("lincoln", Scope::EventsWrite);
    server.send_as(&other, &server.fresh()).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_batch_passes_whole_and_its_credential_pays_the_debt() {
    let options = limits(LimitsOptions {
        credential_events_per_second: 10,
        credential_burst: Span::secs(1),
        learner_events_per_minute: 0,
        ..LimitsOptions::default()
    });
    let server = server_with(options).await;
    let batch = json!((0..3_000).map(|n| of(&server, "ada", n)).collect::<Vec<_>>());
    server.send(&batch).await.check(200, [3_000, 0, 0, 0]);
    let reply = server.send(&server.fresh()).await;
    reply.check_problem(429, "rate-limited", "events");
    let wait = reply.retry_after.unwrap();
    assert!((200..=300).contains(&wait), "3,000 events at ten a second: {wait}");
    assert_eq!(reply.body["scope"], "credential");
    let hits = "chalkstream_ingest_limit_hits_total{scope=\"credential\",limit=\"events\"}";
    assert_eq!(server.metric(hits).await, 1);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_good_for_more_after_a_refusal() {
    let options = limits(LimitsOptions {
        credential_requests_per_second: 1,
        credential_burst: Span::secs(1),
        ..LimitsOptions::default()
    });
    let server = server_with(options).await;
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let body = json!((0..400).map(|n| of(&server, "ada", n)).collect::<Vec<_>>()).to_string();
    assert!(body.len() > 50_000, "more than a socket takes before somebody reads");
    let request = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.key,
        body.len()
    );
    let mut statuses = Vec::new();
    let started = std::time::Instant::now();
    // Until one was refused and a later one, on the same connection, was taken.
    while !statuses.windows(2).any(|pair| pair == [429, 200]) {
        stream.write_all(request.as_bytes()).await.unwrap();
        statuses.push(status_of_answer(&mut stream).await);
        assert!(started.elapsed() < LIMIT, "{statuses:?}");
    }
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    server.check_conservation().await;
}

/// Reads one answer to its end.
async fn status_of_answer(stream: &mut tokio::net::TcpStream) -> u16 {
    let mut answer = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() == length.expect("answers have a length").parse::<usize>().unwrap() {
                return head.split(' ').nth(1).unwrap().parse().unwrap();
            }
        }
        let mut piece = [0; 4_096];
        let read = tokio::time::timeout(LIMIT, stream.read(&mut piece)).await.unwrap().unwrap();
        assert!(read > 0, "the server closed the connection: {text}");
        answer.extend_from_slice(&piece[..read]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_credential_cannot_hold_all_bytes_in_flight() {
    let options = IngestOptions {
        max_body: ByteSize::kib(64),
        max_event: ByteSize::kib(64),
        max_in_flight: ByteSize::kib(128),
        ..limits(LimitsOptions { credential_in_flight_percent: 50, ..LimitsOptions::default() })
    };
    let server = server_with(options).await;
    let batch = || json!((0..200).map(|_| server.fresh()).collect::<Vec<_>>());
    let other = server.another_key("monroe", Scope::EventsWrite);
    server.log.close_gate();
    let (first, second) = tokio::join!(async { server.send(&batch()).await }, async {
        server.log.arrived(1).await;
        let reply = server.send(&batch()).await;
        reply.check_problem(429, "rate-limited", "bytes");
        assert_eq!(reply.body["scope"], "credential");
        let (second, ()) = tokio::join!(async { server.send_as(&other, &batch()).await }, async {
            server.log.arrived(2).await;
            server.log.open_gate();
        });
        second
    });
    first.check(200, [200, 0, 0, 0]);
    second.check(200, [200, 0, 0, 0]);
    let hits = "chalkstream_ingest_limit_hits_total{scope=\"credential\",limit=\"bytes\"}";
    assert_eq!(server.metric(hits).await, 1);
    server.check_conservation().await;
}

/// A key that anybody can read invents no learners without end, and takes little room for events.
#[tokio::test(flavor = "multi_thread")]
async fn a_publishable_key_has_limits_of_its_own() {
    let server = server_with(limits(LimitsOptions {
        publishable_events_per_second: 1,
        publishable_new_users_per_minute: 3,
        credential_burst: Span::secs(20),
        ..LimitsOptions::default()
    }))
    .await;
    let mut grant = Grant::new(school("lincoln"), &[Scope::EventsWrite]);
    grant.publishable = true;
    let (key, _info) = server.keys.issue(grant, None, server.clock.now()).unwrap();
    let send = async |n: usize, users: &[&str]| {
        let events = users.iter().map(|user| of(&server, user, n)).collect::<Vec<_>>();
        server.send_as(key.reveal(), &json!(events)).await
    };
    let reply = send(0, &["ada", "bob", "ada", "cyd", "dan", "eve", "dan"]).await;
    reply.check(200, [3, 1, 0, 3]);
    let refused = reply.body["results"].as_array().unwrap().iter();
    let refused = refused.filter(|result| result["reason"] == "too_many_users");
    assert_eq!(refused.clone().count(), 3, "{reply:?}");
    assert!(refused.clone().all(|result| result["scope"] == "credential"), "{reply:?}");
    // Whom the key has brought is not new; a secret key has no such limit.
    send(1, &["ada", "bob", "cyd"]).await.check(200, [3, 0, 0, 0]);
    server.send(&of(&server, "dan", 0)).await.check(200, [1, 0, 0, 0]);
    let hits = "chalkstream_ingest_limit_hits_total{scope=\"credential\",limit=\"new_users\"}";
    assert_eq!(server.metric(hits).await, 2);
    // Ten events are paid for, and twenty may come at once.
    let many = vec!["ada"; 30];
    send(2, &many).await.check(200, [1, 29, 0, 0]);
    send(3, &["ada"]).await.check_problem(429, "rate-limited", "more events than it may");
    let own = (0..50).map(|n| of(&server, "fay", n)).collect::<Vec<_>>();
    server.send(&json!(own)).await.check(200, [50, 0, 0, 0]);
    server.check_conservation().await;
}

/// The quota is the school's: no right of a key, and no other limit that is off, opens it.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_holds_where_learners_have_no_limit() {
    for learner_events_per_minute in [0, 1_000] {
        let server = server_with(limits(LimitsOptions {
            school_events_per_day: 3,
            learner_events_per_minute,
            ..LimitsOptions::default()
        }))
        .await;
        let backfill = server.key_with(&[Scope::EventsBackfill]);
        let events = (0..5).map(|n| of(&server, "ada", n)).collect::<Vec<_>>();
        let reply = server.send_as(&backfill, &json!(events)).await;
        reply.check(200, [3, 0, 0, 2]);
        server.send(&of(&server, "bob", 0)).await.check(429, [0, 0, 0, 1]);
        server.check_conservation().await;
    }
}
