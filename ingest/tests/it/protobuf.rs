//! Protobuf bodies: the same answers, limits and identities as JSON.

use chalkstream_access::ByteSize;
use chalkstream_ingest::IngestOptions;
use chalkstream_schemas::proto::events::v1::{
    AnswerSubmitted, AttemptEvent, EventBatch, LearningEvent, PlacementEvent, SessionEvent,
    learning_event::Payload,
};
use chalkstream_schemas::{EventOutcome, RejectReason};
use prost::Message as _;
use prost_types::Timestamp;
use serde_json::{Value, json};

use crate::compress::ENCODINGS;
use crate::harness::{Reply, Server, server, server_with};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");

async fn send(server: &Server, batch: &EventBatch) -> Reply {
    server.send_bytes(&[PROTOBUF], batch.encode_to_vec()).await
}

fn text(value: &Value) -> Option<String> {
    Some(value.as_str().unwrap().to_owned())
}

fn now(server: &Server) -> Option<Timestamp> {
    use chalkstream_access::Clock as _;
    let ms = server.clock.now().as_ms();
    let nanos = i32::try_from(ms % 1000).unwrap() * 1_000_000;
    Some(Timestamp { seconds: ms / 1000, nanos })
}

/// What [`Server::event`] makes, as protobuf.
fn event(server: &Server, json: &Value) -> LearningEvent {
    let answer = AnswerSubmitted {
        item_id: text(&json["data"]["item_id"]),
        correct: json["data"]["correct"].as_bool(),
        ..AnswerSubmitted::default()
    };
    LearningEvent {
        id: text(&json["id"]),
        r#type: text(&json["type"]),
        user_id: text(&json["user_id"]),
        occurred_at: now(server),
        payload: Some(Payload::AnswerSubmitted(answer)),
        ..LearningEvent::default()
    }
}

fn of_events(events: Vec<LearningEvent>) -> EventBatch {
    EventBatch { events, ..EventBatch::default() }
}

fn fresh(server: &Server) -> LearningEvent {
    event(server, &server.fresh())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_by_json_and_by_protobuf_is_a_duplicate() {
    let server = server().await;
    let json = server.fresh();
    let batch = of_events(vec![event(&server, &json), fresh(&server)]);
    server.send(&json).await.check(200, [1, 0, 0, 0]);
    send(&server, &batch).await.check(200, [1, 1, 0, 0]);
    send(&server, &batch).await.check(200, [0, 2, 0, 0]);
    server.send(&json).await.check(200, [0, 1, 0, 0]);
    // An attempt is the same event, too; another answer under its id is a conflict.
    let attempt = AttemptEvent {
        user_id: text(&json["user_id"]),
        item_id: text(&json["data"]["item_id"]),
        client_attempt_id: text(&json["id"]),
        correct: Some(true),
        timestamp: now(&server),
        ..AttemptEvent::default()
    };
    let other = AttemptEvent { correct: Some(false), ..attempt.clone() };
    let batch = EventBatch { attempts: vec![attempt, other], ..EventBatch::default() };
    let reply = send(&server, &batch).await;
    reply.check(200, [0, 1, 1, 0]);
    assert_eq!(reply.body["results"][1]["reason"], "id_conflict");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_taken_compressed_or_not() {
    let server = server().await;
    let id = || Some(uuid::Uuid::new_v4().to_string());
    let user_id = Some("ada".to_owned());
    let batch = || EventBatch {
        sent_at: now(&server),
        events: vec![fresh(&server)],
        attempts: vec![AttemptEvent {
            user_id: user_id.clone(),
            item_id: Some("q1".to_owned()),
            client_attempt_id: id(),
            correct: Some(true),
            timestamp: now(&server),
            ..AttemptEvent::default()
        }],
        sessions: vec![SessionEvent {
            user_id: user_id.clone(),
            id: id(),
            started_at: now(&server),
            ended_at: now(&server),
            timestamp: now(&server),
            ..SessionEvent::default()
        }],
        placements: vec![PlacementEvent {
            user_id: user_id.clone(),
            id: id(),
            abilities: [("fractions".to_owned(), 0.5)].into(),
            timestamp: now(&server),
            ..PlacementEvent::default()
        }],
    };
    send(&server, &batch()).await.check(200, [4, 0, 0, 0]);
    for (encoding, compress) in ENCODINGS {
        let body = compress(&batch().encode_to_vec());
        let headers = [PROTOBUF, ("content-encoding", encoding)];
        server.send_bytes(&headers, body).await.check(200, [4, 0, 0, 0]);
    }
    send(&server, &EventBatch::default()).await.check(200, [0, 0, 0, 0]);
    let mut types =
        server.events().await.iter().map(|event| event.type_name().to_owned()).collect::<Vec<_>>();
    types.sort();
    types.dedup();
    assert_eq!(types, ["answer_submitted", "placement", "session"]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_is_of_its_event_alone_and_is_kept_as_json() {
    let server = server().await;
    let wrong = LearningEvent { user_id: None, ..fresh(&server) };
    let reply =
        send(&server, &of_events(vec![fresh(&server), wrong.clone(), fresh(&server)])).await;
    reply.check(200, [2, 0, 1, 0]);
    let result = &reply.body["results"][0];
    assert_eq!((&result["index"], &result["field"]), (&json!(1), &json!("user_id")));
    assert_eq!(result["id"], json!(wrong.id));
    send(&server, &of_events(vec![wrong.clone()])).await.check(422, [0, 0, 1, 0]);
    // The raw form can be sent again as it is: it is the event's JSON.
    let kept = server.rejected().await;
    let raw = serde_json::from_slice::<Value>(&kept[0].raw).unwrap();
    assert_eq!((&raw["id"], &raw["data"]["item_id"]), (&json!(wrong.id), &json!("q1")));
    assert_eq!(kept[0].raw, kept[1].raw);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_decoded_is_rejected_alone_and_kept() {
    let server = server().await;
    let damaged = b"\x0a\x02\xff\xfe".to_vec();
    let message = |event: Option<LearningEvent>| {
        let bytes = event.map_or_else(|| damaged.clone(), |event| event.encode_to_vec());
        let mut field = Vec::new();
        prost::encoding::bytes::encode(2, &bytes, &mut field);
        field
    };
    let body = [Some(fresh(&server)), None, Some(fresh(&server))].map(message).concat();
    let reply = server.send_bytes(&[PROTOBUF], body.clone()).await;
    reply.check(200, [2, 0, 1, 0]);
    let result = &reply.body["results"][0];
    assert_eq!((&result["index"], &result["reason"]), (&json!(1), &json!("malformed_json")));
    assert!(result["message"].as_str().unwrap().contains("LearningEvent"), "{result}");
    server.send_bytes(&[PROTOBUF], body).await.check(200, [0, 2, 1, 0]);
    assert!(server.rejected().await.iter().all(|record| record.raw == damaged));
    server.send_bytes(&[PROTOBUF], message(None)).await.check(422, [0, 0, 1, 0]);
    // A replay finds no event in the bytes either.
    let outcomes = server.ingest.replay(&server.rejected().await[..1], true).await;
    assert_eq!(outcomes, [EventOutcome::Rejected(RejectReason::MalformedJson)]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_message_is_a_400_and_too_much_is_a_413() {
    let options = IngestOptions {
        max_events: 3.try_into().unwrap(),
        max_event: ByteSize::kib(2),
        max_body: ByteSize::kib(16),
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let whole = of_events(vec![fresh(&server)]).encode_to_vec();
    for body in [&whole[..whole.len() - 1], b"[]", b"{\"events\": []}"] {
        let reply = server.send_bytes(&[PROTOBUF], body.to_vec()).await;
        reply.check_problem(400, "broken-body", "chalkstream.events.v1.EventBatch");
    }
    let four = of_events((0..4).map(|_| fresh(&server)).collect());
    send(&server, &four).await.check_problem(413, "too-many-events", "at most 3");
    // An event too large is its own fault.
    let large = LearningEvent { data_extra: Some("x".repeat(3 << 10)), ..fresh(&server) };
    let reply = send(&server, &of_events(vec![large, fresh(&server)])).await;
    reply.check(200, [1, 0, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "event_too_large");
    // Control characters take six bytes each in JSON.
    let grows = |times| LearningEvent { app: Some("\u{1}".repeat(times)), ..fresh(&server) };
    let batch = of_events(vec![grows(1_900), grows(1_900)]);
    assert!(batch.encoded_len() < 16 << 10);
    send(&server, &batch).await.check_problem(413, "body-too-large", "16KiB as JSON");
    assert_eq!(server.books().received, 2);
    server.check_conservation().await;
}
