//! Keys change while the server runs, from another process's point of view.

use std::time::{Duration, Instant};

use chalkstream_access::{Clock as _, KeyStore, Scope};
use serde_json::json;

use crate::harness::{Reply, Server, school, server};

const SOON: Duration = Duration::from_secs(10);

async fn status_of(server: &Server, key: &str) -> Reply {
    let request = server.client.post(server.url("/v1/events")).bearer_auth(key);
    Reply::of(request.json(&json!([])).send().await.unwrap()).await
}

async fn becomes(server: &Server, key: &str, status: u16) -> Reply {
    let started = Instant::now();
    loop {
        let reply = status_of(server, key).await;
        if reply.status == status {
            return reply;
        }
        assert!(started.elapsed() < SOON, "waited for {status}: {reply:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_works_and_stops_working_within_seconds() {
    let server = server().await;
    let command = KeyStore::open(server.keys.path().unwrap()).unwrap();
    let now = server.clock.now();
    let (key, info) = command.create(&school("new"), &[Scope::EventsWrite], now).unwrap();
    becomes(&server, key.reveal(), 200).await.check(200, [0, 0, 0, 0]);
    command.revoke(&info.key_id, now).unwrap();
    let reply = becomes(&server, key.reveal(), 401).await;
    reply.check_problem(401, "revoked-key", &info.key_id);
    assert!(!reply.body.to_string().contains(key.reveal()));
    status_of(&server, &server.key).await.check(200, [0, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_the_scope_is_a_403() {
    let server = server().await;
    let text = std::fs::read_to_string(server.keys.path().unwrap()).unwrap();
    std::fs::write(server.keys.path().unwrap(), text.replace("\"events:write\"", "")).unwrap();
    let reply = becomes(&server, &server.key, 403).await;
    reply.check_problem(403, "missing-scope", "--scope events:write");
    assert!(reply.headers.contains_key("www-authenticate"));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_key_file_locks_nobody_out() {
    let server = server().await;
    let good = std::fs::read_to_string(server.keys.path().unwrap()).unwrap();
    let ready = async || server.get("/readyz").await.text().await.unwrap();
    assert_eq!(ready().await, "ready\n");
    std::fs::write(server.keys.path().unwrap(), "format = nonsense").unwrap();
    let started = Instant::now();
    while !ready().await.starts_with("degraded\nchanges of write keys have not been seen for ") {
        assert!(started.elapsed() < SOON, "{}", ready().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    status_of(&server, &server.key).await.check(200, [0, 0, 0, 0]);
    std::fs::write(server.keys.path().unwrap(), good.replace("lincoln", "harbour")).unwrap();
    let started = Instant::now();
    loop {
        let event = server.fresh();
        server.send(&event).await.check(200, [1, 0, 0, 0]);
        let stored = server.events().await;
        if stored.iter().any(|event| event.school_id.as_str() == "harbour") {
            break;
        }
        assert!(started.elapsed() < SOON, "the repaired file was not read");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(ready().await, "ready\n");
    server.check_conservation().await;
}
