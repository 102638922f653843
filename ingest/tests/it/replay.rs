//! Rejected events once more through the pipeline.

use std::time::Duration;

use chalkstream_access::Clock as _;
use chalkstream_schemas::{EventOutcome, RejectReason, RejectedRecord, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Server, server};

const DAY: Duration = Duration::from_secs(86_400);

/// Events that happened `days` ago by a device whose clock is right.
fn aged(server: &Server, id: &str, days: u32) -> Value {
    let at = server.clock.now().minus(DAY * days).to_string();
    let mut event = server.event(id);
    event["occurred_at"] = json!(at);
    event
}

/// Those that are open, in the order in which they came.
async fn open(server: &Server) -> Vec<RejectedRecord> {
    let all = server.rejected().await;
    let replayed = |raw: &[u8]| all.iter().any(|r| r.raw == raw && r.replayed_at.is_some());
    let mut open: Vec<_> = all.iter().filter(|record| !replayed(&record.raw)).cloned().collect();
    open.sort_by(|one, next| (&one.raw, one.received_at).cmp(&(&next.raw, next.received_at)));
    open.dedup_by(|next, one| next.raw == one.raw);
    open
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_too_old_is_taken_once_and_what_is_wrong_stays_wrong() {
    let server = server().await;
    let (good, old) = (server.event("good"), aged(&server, "old", 500));
    let mut conflict = server.event("good");
    conflict["user_role"] = json!("teacher");
    let mut ahead = server.event("ahead");
    ahead["occurred_at"] = json!(server.clock.now().plus(DAY).to_string());
    let batch = json!([good, old, conflict, ahead, "no event"]);
    server.send(&batch).await.check(200, [1, 0, 4, 0]);

    let records = open(&server).await;
    assert_eq!(records.len(), 4);
    let by_reason = |outcomes: Vec<EventOutcome>| {
        let mut pairs: Vec<_> = records.iter().map(|r| r.reason).zip(outcomes).collect();
        pairs.sort();
        pairs
    };
    let rejected = |reason| (reason, EventOutcome::Rejected(reason));
    let expected = [
        rejected(RejectReason::MalformedJson),
        (RejectReason::TooOld, EventOutcome::Accepted),
        rejected(RejectReason::InFuture),
        rejected(RejectReason::IdConflict),
    ];
    let before = server.books();
    assert_eq!(by_reason(server.ingest.replay(&records, true).await), expected);
    assert_eq!(server.books(), before, "a dry run counts nothing");
    assert_eq!((server.events().await.len(), open(&server).await.len()), (1, 4));

    assert_eq!(by_reason(server.ingest.replay(&records, false).await), expected);
    let events = server.events().await;
    assert_eq!(events.len(), 2, "the good event of the batch is not doubled");
    let now = server.clock.now();
    let taken = events.iter().find(|event| event.original_id.as_deref() == Some("old")).unwrap();
    assert_eq!(taken.event_time, now.minus(DAY * 500));
    assert_eq!(open(&server).await.len(), 3);

    // Again, as if the note of it had been lost: a duplicate. Once its time has come, so is the
    // event that was ahead.
    server.clock.step(DAY);
    let again = server.ingest.replay(&records, false).await;
    let again: Vec<_> = by_reason(again).into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(again[1..3], [EventOutcome::Duplicate, EventOutcome::Accepted]);
    assert_eq!((server.events().await.len(), open(&server).await.len()), (3, 2));
    let books = server.books();
    assert!(books.balanced() && books.in_flight == 0, "{books:?}");
}

/// The device's clock was two hours behind, and it said so; days later that is still two hours.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_is_corrected_by_when_the_event_first_came() {
    let server = server().await;
    let came = server.clock.now();
    let behind = |by: Duration| came.minus(Duration::from_secs(7200) + by);
    let mut event = server.event("slow");
    event["occurred_at"] = json!(behind(DAY * 450).to_string());
    event["sent_at"] = json!(behind(Duration::ZERO).to_string());
    server.send(&event).await.check(422, [0, 0, 1, 0]);
    server.clock.step(DAY * 3);
    let replayed = server.ingest.replay(&open(&server).await, false).await;
    assert_eq!(replayed, [EventOutcome::Accepted]);
    let events = server.events().await;
    let times = |event: &chalkstream_schemas::LearningEvent| (event.event_time, event.received_at);
    let expected: (Timestamp, Timestamp) = (came.minus(DAY * 450), came.plus(DAY * 3));
    assert_eq!(times(&events[0]), expected);
}
