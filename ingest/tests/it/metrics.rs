//! What `/metrics` says at every moment under load, read strictly.

use std::sync::Arc;

use chalkstream_access::{LimitsOptions, Span};
use chalkstream_ingest::IngestOptions;
use serde_json::{Value, json};

use crate::harness::{Server, server_with};
use crate::openmetrics::Scrape;

const EVENTS: &str = "chalkstream_ingest_events";

/// Events of every fate: 12 accepted, 3 duplicates, 4 at fault, and 2 over the learner's limit.
fn batch(server: &Server, client: usize, round: usize) -> Value {
    let of = |user: String, n: usize| {
        let mut event = server.event(&format!("{client}-{round}-{n}"));
        event["user_id"] = json!(user);
        event
    };
    let mut batch = (0..10).map(|n| of(format!("learner-{client}-{round}"), n)).collect::<Vec<_>>();
    for (n, kind) in ["custom.badge", &format!("custom.level-{client}-{round}")].iter().enumerate()
    {
        let mut event = of(format!("other-{client}-{round}"), 20 + n);
        event["type"] = json!(kind);
        event["data"] = json!({});
        batch.push(event);
    }
    batch.extend_from_within(3..6);
    for (n, kind) in ["unknown", "custom.", "answer_submitted", "login"].iter().enumerate() {
        let mut event = of(format!("other-{client}-{round}"), 30 + n);
        event["type"] = json!(kind);
        event["data"] = json!({});
        if *kind == "login" {
            event["occurred_at"] = json!("yesterday");
        }
        batch.push(event);
    }
    batch.extend((10..12).map(|n| of(format!("learner-{client}-{round}"), n)));
    json!(batch)
}

/// The books as one scrape tells them.
fn check(scrape: &Scrape) {
    let fate = |fate: &str| scrape.value(&format!("{EVENTS}_total{{fate=\"{fate}\"}}"));
    let received = scrape.value(&format!("{EVENTS}_received_total"));
    let in_flight = scrape.value(&format!("{EVENTS}_in_flight"));
    assert_eq!(received, scrape.sum(&format!("{EVENTS}_total")) + in_flight);
    for fate_of in ["accepted", "rejected", "refused"] {
        assert_eq!(fate(fate_of), scrape.sum(&format!("{EVENTS}_{fate_of}_total")), "{fate_of}");
    }
    let bytes = |what: &str| scrape.value(&format!("chalkstream_ingest_in_flight_{what}"));
    assert!(bytes("bytes") <= bytes("limit_bytes"));
    assert_eq!(scrape.sum("chalkstream_ingest_internal_errors_total"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_scrape_is_well_formed_and_balances_under_load() {
    const CLIENTS: usize = 8;
    const ROUNDS: usize = 25;
    // Ten events of a learner, and one more a minute.
    let options = IngestOptions {
        limits: LimitsOptions {
            learner_events_per_minute: 1,
            learner_burst: Span::secs(600),
            ..LimitsOptions::default()
        },
        ..IngestOptions::default()
    };
    let server = Arc::new(server_with(options).await);
    let first = Scrape::of(&server).await;
    check(&first);
    let clients = (0..CLIENTS).map(|client| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for round in 0..ROUNDS {
                let reply = server.send(&batch(&server, client, round)).await;
                reply.check(200, [12, 3, 4, 2]);
                // Nobody's request, and one that is no JSON: neither has events.
                server.get("/nowhere").await;
                assert_eq!(server.send_bytes(&[], b"{".to_vec()).await.status, 415);
            }
        })
    });
    let load = tokio::spawn(join_all(clients.collect()));
    let mut scrapes = vec![first];
    while !load.is_finished() {
        let scrape = Scrape::of(&server).await;
        check(&scrape);
        let before = scrapes.last().unwrap();
        assert!(scrape.fell_since(before).is_empty(), "{:?}", scrape.fell_since(before));
        assert_eq!(scrape.series(), before.series(), "no label of its own for what clients name");
        scrapes.push(scrape);
    }
    load.await.unwrap();
    assert!(scrapes.len() > 5, "{}", scrapes.len());

    let last = Scrape::of(&server).await;
    check(&last);
    let batches = (CLIENTS * ROUNDS) as u64;
    for (series, each) in [
        ("events_received_total", 21),
        ("events_accepted_total{type=\"answer_submitted\"}", 10),
        ("events_accepted_total{type=\"custom\"}", 2),
        ("events_total{fate=\"duplicate\"}", 3),
        ("events_rejected_total{reason=\"unknown_type\"}", 2),
        ("events_rejected_total{reason=\"missing_field\"}", 1),
        ("events_rejected_total{reason=\"invalid_timestamp\"}", 1),
        ("events_refused_total{reason=\"rate_limited\"}", 2),
        ("limit_hits_total{scope=\"learner\",limit=\"events\"}", 2),
        ("requests_total{route=\"/v1/events\",status=\"200\"}", 1),
        ("requests_total{route=\"/v1/events\",status=\"415\"}", 1),
        ("requests_total{route=\"other\",status=\"404\"}", 1),
        ("request_duration_seconds_count", 2),
        ("append_duration_seconds_count", 1),
        ("lookup_duration_seconds_count", 1),
        ("commit_duration_seconds_count", 1),
    ] {
        assert_eq!(last.value(&format!("chalkstream_ingest_{series}")), each * batches, "{series}");
    }
    server.check_conservation().await;
}

async fn join_all(tasks: Vec<tokio::task::JoinHandle<()>>) {
    for task in tasks {
        task.await.unwrap();
    }
}
