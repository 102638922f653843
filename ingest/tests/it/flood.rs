//! A flood from one key: that key is refused, cheaply; nobody else is, and memory stays bounded.
//!
//! How fast others are meanwhile is measured by the bench, not here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chalkstream_access::{ByteSize, LimitsOptions, Scope, Span};
use chalkstream_ingest::IngestOptions;
use serde_json::json;

use crate::harness::{Reply, Server, server_with};

const REQUESTS_PER_SECOND: u32 = 2;
const CONNECTIONS: usize = 8;
const SHARE_PERCENT: u8 = 50;

async fn send(server: &Server, key: &str, events: usize) -> Reply {
    let batch = json!((0..events).map(|_| server.fresh()).collect::<Vec<_>>());
    server.send_as(key, &batch).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_refused_and_nobody_else_is() {
    let options = IngestOptions {
        max_body: ByteSize::mib(1),
        max_in_flight: ByteSize::mib(2),
        limits: LimitsOptions {
            credential_requests_per_second: REQUESTS_PER_SECOND,
            credential_burst: Span::secs(1),
            credential_in_flight_percent: SHARE_PERCENT,
            learner_events_per_minute: 0,
            ..LimitsOptions::default()
        },
        ..IngestOptions::default()
    };
    let server = Arc::new(server_with(options).await);
    let quiet = server.another_key("monroe", Scope::EventsWrite);
    let stop = Arc::new(AtomicBool::new(false));
    let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
    let flood = (0..CONNECTIONS).map(|_| {
        let (server, stop, counts) = (Arc::clone(&server), Arc::clone(&stop), Arc::clone(&counts));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let reply = send(&server, &server.key, 10).await;
                let [taken, refused] = &*counts;
                match reply.status {
                    200 => taken.fetch_add(1, Ordering::Relaxed),
                    _ => {
                        reply.check_problem(429, "rate-limited", "requests");
                        assert_eq!(reply.body["scope"], "credential");
                        assert_eq!(reply.retry_after, Some(1));
                        refused.fetch_add(1, Ordering::Relaxed)
                    }
                };
            }
        })
    });
    let flood = flood.collect::<Vec<_>>();
    let started = std::time::Instant::now();
    let [taken, refused] = &*counts;
    let mut others = 0;
    // Until the flood has been 20 times its limit for as long as it lasted, burst included.
    let limit = || {
        let seconds = started.elapsed().as_secs() + 2;
        seconds * u64::from(REQUESTS_PER_SECOND)
    };
    let twenty_times =
        || taken.load(Ordering::Relaxed) + refused.load(Ordering::Relaxed) >= 20 * limit();
    while others < 10 || !twenty_times() {
        assert!(started.elapsed() < Duration::from_secs(60), "{counts:?} in a minute");
        // Within its own limit, which is the same.
        send(&server, &quiet, 1).await.check(200, [1, 0, 0, 0]);
        others += 1;
        let held = server.metric("chalkstream_ingest_in_flight_bytes").await;
        let limit = server.metric("chalkstream_ingest_in_flight_limit_bytes").await;
        assert!(held <= limit, "{held} of {limit}");
        tokio::time::sleep(Duration::from_secs(1) / REQUESTS_PER_SECOND).await;
    }
    stop.store(true, Ordering::Relaxed);
    for task in flood {
        task.await.unwrap();
    }
    let (taken, refused) = (taken.load(Ordering::Relaxed), refused.load(Ordering::Relaxed));
    println!("{taken} requests of the flood were taken, {refused} refused; {others} others");
    assert!((1..=limit()).contains(&taken), "{taken} taken");
    let hits = "chalkstream_ingest_limit_hits_total{scope=\"credential\",limit=\"requests\"}";
    assert_eq!(server.metric(hits).await, refused);
    assert_eq!(server.books().accepted, others + 10 * taken);
    server.check_conservation().await;
}
