//! An orderly end: unready, drain, and never longer than the deadline.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chalkstream_access::{Drained, Span};
use chalkstream_ingest::IngestOptions;
use serde_json::json;

use crate::harness::{server, server_with};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_answered_before_the_end() {
    let mut server = server().await;
    let log = Arc::clone(&server.log);
    log.close_gate();
    let request = server.post("").json(&json!([server.event("a")]));
    let sent = tokio::spawn(async move { request.send().await.unwrap().status().as_u16() });
    log.arrived(1).await;
    let address = server.address();
    let lifecycle = server.ingest.lifecycle().clone();
    assert_eq!(lifecycle.not_ready(), None);
    let opens = async {
        while lifecycle.not_ready().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // Unready, and no longer listening, while the request is still under way.
        let started = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            assert!(started.elapsed() < crate::harness::LIMIT, "it still listens");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(lifecycle.working(), 1);
        log.open_gate();
    };
    let (drained, ()) = tokio::join!(server.shutdown(), opens);
    assert_eq!(drained, Drained { abandoned: 0, connections: 0 });
    assert_eq!(sent.await.unwrap(), 200);
    assert_eq!(server.events().await.len(), 1);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_does_not() {
    let options = IngestOptions { drain_timeout: Span::millis(300), ..IngestOptions::default() };
    let mut server = server_with(options).await;
    server.log.close_gate();
    let request = server.post("").json(&json!([server.event("a")]));
    let sent = tokio::spawn(async move { request.send().await });
    server.log.arrived(1).await;
    let started = Instant::now();
    let drained = server.shutdown().await;
    assert_eq!(drained, Drained { abandoned: 1, connections: 1 });
    assert!(started.elapsed() < Duration::from_secs(5));
    server.log.open_gate();
    sent.await.unwrap().unwrap();
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_so_on_open_connections() {
    let server = server().await;
    assert_eq!(server.get("/readyz").await.status(), 200);
    server.ingest.lifecycle().drain();
    assert_eq!(server.get("/livez").await.status(), 200);
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status(), 503);
    assert!(ready.headers().contains_key("retry-after"));
    server.send(&server.fresh()).await.check_problem(503, "not-ready", "stopping");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_a_sentence() {
    let server = server().await;
    let taken = server.address().to_string();
    let options = IngestOptions { listen: taken.clone(), ..IngestOptions::default() };
    let parts = chalkstream_ingest::IngestParts {
        log: Arc::clone(&server.log) as _,
        seen: Arc::clone(&server.log) as _,
        keys: server.keys.clone(),
        quota: Arc::new(chalkstream_access::NodeQuota::default()),
        clock: Arc::clone(&server.clock) as _,
        registry: Default::default(),
    };
    let second = chalkstream_ingest::Ingest::new(options, parts).unwrap();
    let error = second.bind().await.unwrap_err();
    assert!(error.to_string().contains(&taken), "{error}");
    assert!(error.hint().contains("--listen"));
}
