//! Segment's calls: its official Python SDK as it is, and bodies as the SDKs send them.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use chalkstream_access::{Clock as _, Span};
use chalkstream_ingest::IngestOptions;
use serde_json::{Value, json};

use crate::compress::gzip;
use crate::harness::{Reply, Server, server, server_with, unacknowledged};

async fn send(server: &Server, path: &str, body: &Value) -> Reply {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{}:", server.key));
    let request =
        server.client.post(server.url(path)).header("authorization", format!("Basic {pair}"));
    Reply::of(request.json(body).send().await.unwrap()).await
}

fn track(server: &Server, id: &str, event: &str, properties: Value) -> Value {
    json!({
        "type": "track", "event": event, "userId": "ada", "anonymousId": null, "messageId": id,
        "timestamp": now(server), "integrations": {}, "properties": properties,
        "context": { "library": { "name": "analytics-python", "version": "2.4.0" } },
    })
}

fn now(server: &Server) -> String {
    server.clock.now().to_string()
}

fn batch(server: &Server, messages: &[Value]) -> Value {
    json!({ "batch": messages, "sentAt": now(server), "writeKey": "of the header" })
}

fn answer() -> Value {
    json!({ "item_id": "q1", "correct": true })
}

#[track_caller]
fn check(reply: &Reply, status: u16, success: bool) {
    assert_eq!((reply.status, &reply.body["success"]), (status, &json!(success)), "{reply:?}");
    assert_eq!(reply.content_type, "application/json");
    assert_eq!(reply.retry_after.is_some(), [429, 503].contains(&status), "{reply:?}");
    if !success {
        assert!(reply.body["code"].is_string() && reply.body["message"].is_string(), "{reply:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_python_sdk_works_as_it_is() {
    let server = server().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let made =
        tokio::process::Command::new(root.join("deploy/dev/python-env")).output().await.unwrap();
    if !made.status.success() {
        let reason = String::from_utf8_lossy(&made.stderr).into_owned();
        let may_skip = std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some();
        assert!(may_skip, "deploy/dev/python-env: {reason}");
        return println!("skipped: {reason}");
    }
    let python = String::from_utf8(made.stdout).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/segment_client.py");
    let run = tokio::process::Command::new(python.trim())
        .arg(script)
        .env("CHALKSTREAM_URL", server.url(""))
        .env("CHALKSTREAM_KEY", &server.key)
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(Duration::from_secs(120), run).await.unwrap().unwrap();
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stdout.ends_with("all good\n"), "{stdout}\n{stderr}");

    let events = server.events().await;
    let of_type = |name: &str| events.iter().filter(|event| event.type_name() == name).count();
    assert_eq!(of_type("answer_submitted"), 3);
    assert_eq!(of_type("custom.badge_earned"), 3);
    assert_eq!(of_type("page_view"), 4);
    assert_eq!(events.len(), 10);
    let named = events.iter().find(|event| event.original_id.as_deref() == Some("not-a-uuid-True"));
    assert_eq!(named.unwrap().extra.as_ref(), "{\"event\":\"Badge Earned\"}");
    assert!(events.iter().any(|event| event.user_id.as_str() == "anonymous-1"));
    // Nobody's address or name has come along.
    assert!(events.iter().all(|event| !format!("{event:?}").contains("example.org")));
    assert_eq!(server.rejected().await.len(), 1);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_done_when_nothing_needs_sending_again() {
    let server = server().await;
    let identify = json!({ "type": "identify", "userId": "ada", "messageId": "i", "traits": {} });
    let messages = [
        identify,
        track(&server, "m-1", "answer_submitted", answer()),
        track(&server, "m-2", "Answer Submitted", json!({ "correct": true })),
        json!(7),
    ];
    let reply = send(&server, "/v1/batch", &batch(&server, &messages)).await;
    check(&reply, 200, true);
    assert_eq!((&reply.body["accepted"], &reply.body["skipped"]), (&json!(1), &json!(1)));
    let results = reply.body["results"].as_array().unwrap();
    let found =
        results.iter().map(|result| (&result["index"], &result["reason"])).collect::<Vec<_>>();
    assert_eq!(
        found,
        [(&json!(2), &json!("missing_field")), (&json!(3), &json!("malformed_json"))]
    );
    // A retry of the batch, with another sentAt: nothing is doubled.
    let mut again = batch(&server, &messages[..2]);
    server.clock.step(Duration::from_secs(30));
    again["sentAt"] = json!(now(&server));
    check(&send(&server, "/v1/batch", &again).await, 200, true);
    check(&send(&server, "/v1/batch", &batch(&server, &[])).await, 200, true);
    assert_eq!(server.events().await.len(), 1);
    // All of it rejected: SDKs must drop it.
    let reply = send(&server, "/v1/batch", &batch(&server, &messages[2..])).await;
    check(&reply, 400, false);
    assert_eq!(reply.body["code"], "rejected");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_sent_again_with_its_batch() {
    let server = server().await;
    server.log.fail(|topic, index| {
        (topic == chalkstream_event_log::Topic::Events && index == 0).then(unacknowledged)
    });
    let messages = [
        track(&server, "m-1", "answer_submitted", answer()),
        track(&server, "m-2", "answer_submitted", answer()),
    ];
    let reply = send(&server, "/v1/batch", &batch(&server, &messages)).await;
    check(&reply, 503, false);
    assert_eq!(reply.body["code"], "refused");
    // Of what must be sent again, what is safe already is named as well.
    assert_eq!(statuses(&reply), ["refused", "accepted"], "{reply:?}");
    let reply = send(&server, "/v1/batch", &batch(&server, &messages)).await;
    check(&reply, 503, false);
    assert_eq!(statuses(&reply), ["refused", "duplicate"], "{reply:?}");
    server.log.heal();
    let reply = send(&server, "/v1/batch", &batch(&server, &messages)).await;
    check(&reply, 200, true);
    assert_eq!(reply.body.get("results"), None, "{reply:?}");
    assert_eq!(server.events().await.len(), 2);
    server.check_conservation().await;
}

fn statuses(reply: &Reply) -> Vec<&str> {
    let results = reply.body["results"].as_array().expect("an array of results").iter();
    results.map(|result| result["status"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_wait_names_what_is_safe_by_its_place() {
    let options = IngestOptions { request_timeout: Span::millis(300), ..IngestOptions::default() };
    let server = server_with(options).await;
    let safe = track(&server, "safe", "answer_submitted", answer());
    let new = track(&server, "new", "answer_submitted", answer());
    let identify = json!({ "type": "identify", "userId": "ada", "messageId": "i", "traits": {} });
    check(
        &send(&server, "/v1/batch", &batch(&server, std::slice::from_ref(&safe))).await,
        200,
        true,
    );
    server.log.close_gate();
    let reply = send(&server, "/v1/batch", &batch(&server, &[identify, new, safe])).await;
    check(&reply, 503, false);
    let known = json!([{ "index": 2, "id": "safe", "status": "duplicate" }]);
    assert_eq!((&reply.body["code"], &reply.body["results"]), (&json!("unacknowledged"), &known));
    server.log.open_gate();
    server.books_become("the late outcome", |books| books.in_flight == 0).await;
    server.check_conservation().await;
}

/// Some SDKs name no time but the batch's, which is another one at each retry.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_another_time_of_sending_is_a_duplicate() {
    let server = server().await;
    let mut undated = track(&server, "m-1", "answer_submitted", answer());
    undated.as_object_mut().unwrap().remove("timestamp");
    let dated = track(&server, "m-2", "answer_submitted", answer());
    let mut sent = batch(&server, &[undated.clone(), dated]);
    let first = server.clock.now();
    check(&send(&server, "/v1/batch", &sent).await, 200, true);
    for again in [json!("soon"), json!(7), Value::Null, json!(now(&server))] {
        server.clock.step(Duration::from_secs(40));
        // Where the one cannot be read the other counts.
        for (own, of_batch) in [(&again, now(&server)), (&json!(now(&server)), again.to_string())] {
            sent["batch"][0]["sentAt"] = own.clone();
            sent["sentAt"] = json!(of_batch);
            let reply = send(&server, "/v1/batch", &sent).await;
            check(&reply, 200, true);
            assert_eq!((&reply.body["accepted"], reply.body.get("results")), (&json!(2), None));
        }
    }
    let events = server.events().await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.occurred_at == first), "{events:?}");
    // Without any time there is none to take.
    let reply = send(&server, "/v1/batch", &json!({ "batch": [undated], "sentAt": "soon" })).await;
    check(&reply, 400, false);
    assert_eq!(reply.body["results"][0]["field"], "occurred_at", "{reply:?}");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_may_stand_in_the_body() {
    let server = server().await;
    let client = |path: &str| server.client.post(server.url(path));
    let message = |id: &str| track(&server, id, "Login", json!({}));
    // As the Node SDK of 1.x and 2.x does it, and browsers' as plain text.
    let body = json!({ "batch": [message("m-1")], "sentAt": now(&server), "writeKey": server.key });
    check(&Reply::of(client("/v1/batch").json(&body).send().await.unwrap()).await, 200, true);
    let mut body = message("m-2");
    body["writeKey"] = json!(server.key);
    let request = client("/v1/track").header("content-type", "text/plain").body(body.to_string());
    check(&Reply::of(request.send().await.unwrap()).await, 200, true);
    assert_eq!(server.events().await.len(), 2);
    assert!(
        server.events().await.iter().all(|event| event.extra.as_ref() == "{\"event\":\"Login\"}")
    );

    for (key, status, code) in [
        (json!(null), 401, "missing-credential"),
        (json!(""), 401, "missing-credential"),
        (json!("csk_nobody"), 401, "unknown-key"),
        (json!("no\nheader"), 401, "missing-credential"),
        (json!(7), 400, "broken-body"),
    ] {
        let body = json!({ "batch": [message("m-3")], "writeKey": key });
        let reply = Reply::of(client("/v1/batch").json(&body).send().await.unwrap()).await;
        check(&reply, status, false);
        assert_eq!(reply.body["code"], code, "{reply:?}");
    }
    // Before the key is known little is read.
    let large =
        json!({ "batch": [{ "x": "y".repeat(600 << 10) }], "writeKey": server.key }).to_string();
    let request = client("/v1/batch").header("content-type", "application/json");
    let reply =
        Reply::of(request.try_clone().unwrap().body(large.clone()).send().await.unwrap()).await;
    check(&reply, 413, false);
    let packed = request.header("content-encoding", "gzip").body(gzip(large.as_bytes()));
    check(&Reply::of(packed.send().await.unwrap()).await, 413, false);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_what_sdks_read() {
    let server = server().await;
    for (path, body, status, code) in [
        ("/v1/batch", json!([]), 400, "broken-body"),
        ("/v1/batch", json!({ "batch": 7 }), 400, "broken-body"),
        ("/v1/track", json!([]), 400, "broken-body"),
        ("/v1/track", json!({}), 400, "rejected"),
        ("/v1/batch?key=csk_secret", json!({ "batch": [] }), 400, "broken-query"),
        ("/v1/batch?keys=csk_secret", json!({ "batch": [] }), 400, "broken-query"),
    ] {
        let reply = send(&server, path, &body).await;
        check(&reply, status, false);
        assert_eq!(reply.body["code"], code, "{reply:?}");
        assert!(!reply.body.to_string().contains("secret"));
    }
    let lines = server.client.post(server.url("/v1/batch")).bearer_auth(&server.key);
    let lines = lines.header("content-type", "application/x-ndjson").body("{}");
    check(&Reply::of(lines.send().await.unwrap()).await, 415, false);
    // `validate` holds here, too.
    let body = batch(&server, &[track(&server, "m", "Login", json!({}))]);
    check(&send(&server, "/v1/batch?validate=true", &body).await, 200, true);
    assert!(server.events().await.is_empty());
    server.check_conservation().await;
}
