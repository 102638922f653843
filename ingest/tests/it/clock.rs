//! The server's clock is stepped back an hour: what was seen stays seen, and events are still taken.

use std::time::Duration;

use serde_json::json;

use crate::harness::server;

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_stepped_back_an_hour_loses_and_doubles_nothing() {
    let server = server().await;
    // A device whose clock is right says when it sends, so the server's step does not matter to it.
    let device = server.clock.now_as_text();
    let batch = |ids: &[&str]| {
        let events = ids.iter().map(|id| {
            let mut event = server.event(id);
            event["occurred_at"] = json!(device);
            event
        });
        json!({ "sent_at": device, "events": events.collect::<Vec<_>>() })
    };
    server.send(&batch(&["a", "b"])).await.check(200, [2, 0, 0, 0]);
    server.clock.step_back(Duration::from_secs(3_600));
    server.send(&batch(&["a", "c"])).await.check(200, [1, 1, 0, 0]);
    server.clock.step(Duration::from_secs(3_600));
    server.send(&batch(&["a", "b", "c", "d"])).await.check(200, [1, 3, 0, 0]);
    let stored = server.events().await;
    assert_eq!(stored.len(), 4);
    let received: Vec<_> = stored.iter().map(|event| event.received_at.as_ms()).collect();
    assert_eq!(received[0] - received[2], 3_600_000, "the raw stamps are kept: {received:?}");
    assert!(server.get("/readyz").await.status().is_success());
    server.check_conservation().await;
}
