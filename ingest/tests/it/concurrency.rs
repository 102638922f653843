//! Many requests with the same ids at once: exactly one of them is accepted each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chalkstream_event_log::Topic;
use serde_json::{Value, json};

use crate::harness::{Reply, Server, server, unacknowledged};

async fn send_all(server: &Arc<Server>, bodies: Vec<Value>) -> Vec<Reply> {
    let tasks = bodies
        .into_iter()
        .map(|body| {
            let server = Arc::clone(server);
            tokio::spawn(async move { server.send(&body).await })
        })
        .collect::<Vec<_>>();
    let mut replies = Vec::new();
    for task in tasks {
        replies.push(task.await.unwrap());
    }
    replies
}

fn sum(replies: &[Reply]) -> [u64; 4] {
    replies.iter().fold([0; 4], |sum, reply| {
        let tally = reply.tally();
        std::array::from_fn(|fate| sum[fate] + tally[fate])
    })
}

/// The ids of `batch` turned by `by`, so that requests meet in every order.
fn turned(batch: &[Value], by: usize) -> Value {
    let (head, tail) = batch.split_at(by % batch.len());
    json!([tail, head].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_requests_with_the_same_ids_one_is_accepted_each() {
    let server = Arc::new(server().await);
    let batch = (0..20).map(|n| server.event(&format!("e{n}"))).collect::<Vec<_>>();
    let bodies = (0..100).map(|n| turned(&batch, n)).collect();
    let replies = send_all(&server, bodies).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(sum(&replies), [20, 1_980, 0, 0]);
    assert_eq!(server.events().await.len(), 20);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_contents_under_one_id_one_is_accepted() {
    let server = Arc::new(server().await);
    let bodies = (0..100)
        .map(|n| {
            let mut event = server.event("same");
            event["data"]["item_id"] = json!(format!("q{}", n % 50));
            event
        })
        .collect();
    let replies = send_all(&server, bodies).await;
    assert_eq!(sum(&replies), [1, 1, 98, 0]);
    let stored = server.events().await;
    assert_eq!(stored.len(), 1);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_request_that_fails_produces_the_event_itself() {
    let server = Arc::new(server().await);
    // Every third append of events fails, as a whole.
    let appends = AtomicUsize::new(0);
    server.log.fail(move |topic, index| {
        let fails = topic == Topic::Events && index == 0;
        let append = fails.then(|| appends.fetch_add(1, Ordering::SeqCst))?;
        (append % 3 != 2).then(unacknowledged)
    });
    let bodies = (0..60).map(|_| server.event("one")).collect();
    let replies = send_all(&server, bodies).await;
    let [accepted, duplicate, rejected, refused] = sum(&replies);
    assert_eq!((accepted, duplicate + refused, rejected), (1, 59, 0));
    assert!(refused >= 2, "the first two appends fail");
    assert_eq!(server.events().await.len(), 1);
    server.log.heal();
    server.send(&server.event("one")).await.check(200, [0, 1, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_hold_each_others_ids_do_not_wait_in_a_circle() {
    let server = Arc::new(server().await);
    let ids = |from: usize| (0..40).map(move |n| format!("e{}", (from + n) % 40));
    for round in 0..10 {
        let bodies = (0..8)
            .map(|turn| {
                let events = ids(turn * 5).map(|id| server.event(&format!("{round}-{id}")));
                json!(events.collect::<Vec<_>>())
            })
            .collect();
        let replies = send_all(&server, bodies).await;
        assert_eq!(sum(&replies), [40, 280, 0, 0]);
    }
    assert_eq!(server.events().await.len(), 400);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_books_balance_in_every_scrape_under_load() {
    let server = Arc::new(server().await);
    let load = {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            for round in 0..20 {
                let bodies = (0..8)
                    .map(|n| {
                        // Of many learners, because one would come up against its limit.
                        let learners = (0..50).map(|learner| {
                            let mut event = server.fresh();
                            event["user_id"] = json!(format!("learner-{learner}"));
                            event
                        });
                        let mut batch = learners.collect::<Vec<_>>();
                        batch.push(server.event(&format!("shared-{}", round * 8 + n / 2)));
                        batch.push(json!({ "broken": n }));
                        json!(batch)
                    })
                    .collect();
                send_all(&server, bodies).await;
            }
        })
    };
    let mut scrapes = 0;
    while !load.is_finished() {
        let text = server.get("/metrics").await.text().await.unwrap();
        let value = |series: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {series}")).parse::<u64>().unwrap()
        };
        let fates = ["accepted", "duplicate", "rejected", "refused"]
            .map(|fate| value(&format!("chalkstream_ingest_events_total{{fate=\"{fate}\"}}")));
        let received = value("chalkstream_ingest_events_received_total");
        let in_flight = value("chalkstream_ingest_events_in_flight");
        assert_eq!(received, fates.iter().sum::<u64>() + in_flight, "{text}");
        scrapes += 1;
    }
    load.await.unwrap();
    assert!(scrapes > 5, "{scrapes}");
    assert_eq!(server.books().accepted, 8_000 + 80);
    server.check_conservation().await;
}
