//! Browsers' beacons: plain text with a publishable key in the query, which appears nowhere else.

use std::io::Write;
use std::sync::{Arc, Mutex};

use chalkstream_access::{Clock as _, Grant, Scope};
use serde_json::json;

use crate::harness::{Reply, Server, school, server};

const CHILD: &str = "CHALKSTREAM_TEST_QUERIES";

fn publishable(server: &Server) -> String {
    let mut grant = Grant::new(school("lincoln"), &[Scope::EventsWrite]);
    grant.publishable = true;
    let (key, _info) = server.keys.issue(grant, None, server.clock.now()).unwrap();
    key.reveal().to_owned()
}

/// What `navigator.sendBeacon(url, text)` sends.
async fn beacon(server: &Server, query: &str, body: String) -> Reply {
    let request = server.client.post(server.url(&format!("/v1/events?{query}")));
    let request = request.header("content-type", "text/plain;charset=UTF-8").body(body);
    Reply::of(request.send().await.unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beacon_brings_events_with_a_publishable_key() {
    let server = server().await;
    let key = publishable(&server);
    let event = server.fresh();
    beacon(&server, &format!("key={key}"), event.to_string()).await.check(200, [1, 0, 0, 0]);
    let batch =
        json!({ "sent_at": server.clock.now().to_string(), "events": [event, server.fresh()] });
    let query = format!("key={key}&results=all");
    beacon(&server, &query, batch.to_string()).await.check(200, [1, 1, 0, 0]);
    beacon(&server, &format!("key={key}"), "text".to_owned()).await.check_problem(
        400,
        "broken-body",
        "line 1",
    );
    // A `Blob` of JSON has its own content type; a key in the query is a key all the same.
    let url = server.url(&format!("/v1/events?key={key}"));
    let reply = Reply::of(server.client.post(&url).json(&json!([])).send().await.unwrap()).await;
    reply.check(200, [0; 4]);
    // In the header the key writes too, but plain text is for beacons alone.
    let header = server.client.post(server.url("/v1/events")).bearer_auth(&key);
    let reply = header.header("content-type", "text/plain").body("[]").send().await.unwrap();
    Reply::of(reply).await.check_problem(415, "unsupported-type", "browsers' beacons");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_key_in_the_query_is_refused_and_named_for_revoking() {
    let server = server().await;
    let reply = beacon(&server, &format!("key={}", server.key), server.fresh().to_string()).await;
    reply.check_problem(403, "secret-in-query", "is secret");
    let key_id = server.keys.list()[0].key_id.clone();
    assert!(reply.body["detail"].as_str().unwrap().contains(&key_id), "{reply:?}");
    assert!(!reply.body.to_string().contains(&server.key));
    beacon(&server, "key=csk_nobody", "[]".to_owned()).await.check_problem(401, "unknown-key", "");
    beacon(&server, "", "[]".to_owned()).await.check_problem(401, "missing-credential", "");
    // Two credentials may contradict each other.
    let url = server.url(&format!("/v1/events?key={}", publishable(&server)));
    let both = server.client.post(&url).bearer_auth(&server.key).json(&json!([server.fresh()]));
    let reply = Reply::of(both.send().await.unwrap()).await;
    reply.check_problem(400, "broken-query", "`Authorization`");
    assert_eq!(server.books().received, 0);
    server.check_conservation().await;
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// All that is logged is caught in a process of its own.
#[test]
fn a_query_reaches_no_log_no_answer_and_no_metric() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(search_for_queries());
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "beacons::a_query_reaches_no_log_no_answer_and_no_metric", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed") && said.contains("searched"), "{said}");
}

async fn search_for_queries() {
    let said = Said::default();
    let writer = said.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .init();
    let server = server().await;
    let key = publishable(&server);
    let secret = server.key.clone();
    tracing::error!("the log is caught");
    let mut answers = String::new();
    for path in
        ["/v1/events", "/v1/batch", "/v1/track", "/v1/nowhere", "/livez", "/v1/schemas/login"]
    {
        for query in [
            format!("key={key}"),
            format!("key={secret}"),
            format!("key={secret}&key={secret}"),
            format!("token={secret}"),
            secret.to_string(),
            format!("results={secret}"),
            "key=csk_unknown_needle".to_owned(),
        ] {
            for body in [server.fresh().to_string(), "{".to_owned()] {
                let url = server.url(&format!("{path}?{query}"));
                let request =
                    server.client.post(url).header("content-type", "text/plain").body(body);
                answers.push_str(&request.send().await.unwrap().text().await.unwrap());
            }
        }
    }
    // The client of this test logs into the same place; its lines are its own.
    let said = String::from_utf8(said.0.lock().unwrap().clone()).unwrap();
    let said = said
        .lines()
        .filter(|line| !line.contains("reqwest") && !line.contains("hyper_util::client"));
    let said = said.collect::<Vec<_>>().join("\n");
    let metrics = server.get("/metrics").await.text().await.unwrap();
    assert!(said.contains("the log is caught"));
    assert!(answers.contains("secret-in-query") && answers.contains("\"accepted\":1"), "{answers}");
    for (place, text) in [("log", &said), ("answers", &answers), ("metrics", &metrics)] {
        for needle in [&key, &secret, &"unknown_needle".to_owned()] {
            assert!(!text.contains(needle.as_str()), "{place} holds {needle}:\n{text}");
        }
    }
    println!("searched {} bytes of log", said.len());
    server.check_conservation().await;
}
