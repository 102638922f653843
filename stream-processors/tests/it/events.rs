//! What the tests put into the log: real events, made from a seed.

use std::time::Duration;

use bytes::Bytes;
use chalkstream_event_log::{EventLog, NewRecord, Topic, partition_of};
use chalkstream_schemas::control::encode_bkt;
use chalkstream_schemas::{
    BktSkill, ControlBody, ControlPayload, ControlRecord, LearningEvent, LogRecord, ParseContext,
    PartitionId, SchoolId, SkillId, Timestamp, Undated, parse_event, record_key,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

/// 2026-01-05T08:00:00Z
const BEGIN_MS: i64 = 1_767_600_000_000;

/// One event, received one second after it happened.
pub(crate) fn event(school: &str, raw: &Value, at_ms: i64) -> LearningEvent {
    let school_id = SchoolId::parse(school).unwrap();
    let mut raw = raw.clone();
    raw["occurred_at"] = json!(Timestamp::from_ms(at_ms).to_string());
    let cx = ParseContext {
        school_id: &school_id,
        received_at: Timestamp::from_ms(at_ms + 1000),
        batch_sent_at: None,
        undated: Undated::Rejected,
        max_age: None,
        max_future: Duration::from_secs(600),
        max_event_bytes: 65_536,
    };
    parse_event(raw.to_string().as_bytes(), &cx).unwrap()
}

fn uuid(seed: u64) -> String {
    Uuid::from_u64_pair(seed, seed ^ 0x9e37_79b9_7f4a_7c15).to_string()
}

/// The `number`-th event of a stream: the same number is the same event.
pub(crate) fn numbered(number: u64) -> LearningEvent {
    let mut rng = StdRng::seed_from_u64(number);
    let school = ["lincoln", "curie"][rng.random_range(0..2)];
    let user = format!("u{}", rng.random_range(0..60));
    let item = format!("item-{}", rng.random_range(0..40));
    let skill = format!("skill-{}", rng.random_range(0..8));
    let at_ms = BEGIN_MS + i64::try_from(number).unwrap() * 7_000 - rng.random_range(0..600_000);
    let (kind, data) = match rng.random_range(0..10) {
        0 => ("login", json!({})),
        1 => ("page_view", json!({"page": "/home", "duration_seconds": rng.random_range(1..90)})),
        2 => {
            ("video_watch", json!({"video_id": "v1", "duration_seconds": rng.random_range(5..600)}))
        }
        3 => (
            "quiz_complete",
            json!({"quiz_id": "q1", "score": rng.random_range(0..100), "duration_seconds": 60}),
        ),
        4 => (
            "assignment_submit",
            json!({"assignment_id": "a1", "score": 50, "duration_seconds": 300}),
        ),
        _ => (
            "answer_submitted",
            json!({
                "item_id": item,
                "skill_ids": [skill, "common"],
                "correct": rng.random_bool(0.6),
                "time_taken_ms": rng.random_range(500..60_000),
                "hints_used": rng.random_range(0..3),
                "unknown_member": "kept 🎈\n\nblank line",
            }),
        ),
    };
    let raw = json!({
        "id": uuid(number), "type": kind, "user_id": user, "course_id": "c1", "data": data,
    });
    event(school, &raw, at_ms)
}

/// The record of an event.
pub(crate) fn record(event: &LearningEvent, partitions: u32) -> NewRecord {
    NewRecord {
        partition: partition_of(&event.school_id, &event.user_id, partitions),
        key: record_key(&event.school_id, &event.user_id),
        payload: Bytes::from(LogRecord::Event(Box::new(event.clone())).encode()),
        timestamp: event.received_at,
        identity: None,
    }
}

/// The same event with other content.
pub(crate) fn conflicting(number: u64) -> LearningEvent {
    let original = numbered(number);
    let raw = json!({
        "id": original.id.to_string(),
        "type": "login",
        "user_id": original.user_id.as_str(),
        "app": "other-content",
    });
    event(original.school_id.as_str(), &raw, original.event_time.as_ms() + 50_000)
}

/// Appends records and asserts that each is durable.
pub(crate) async fn append(log: &dyn EventLog, records: Vec<NewRecord>) {
    for outcome in log.append(Topic::Events, records).await {
        outcome.unwrap();
    }
}

/// Appends a control record to every partition, `times` times.
pub(crate) async fn append_control(log: &dyn EventLog, control: &ControlRecord, times: usize) {
    let payload = Bytes::from(LogRecord::Control(control.clone()).encode());
    for _ in 0..times {
        let records = (0..log.partitions(Topic::Events))
            .map(|partition| NewRecord {
                partition: PartitionId::new(partition),
                key: Bytes::from_static(chalkstream_event_log::control::CONTROL_KEY),
                payload: payload.clone(),
                timestamp: control.issued_at,
                identity: None,
            })
            .collect();
        append(log, records).await;
    }
}

/// Parameters for the skill that every answer has.
pub(crate) fn bkt_table(p_init: f64) -> Vec<u8> {
    let skill = BktSkill {
        skill_id: SkillId::parse("common").unwrap(),
        p_init,
        p_learn: 0.2,
        p_guess: 0.25,
        p_slip: 0.05,
        p_forget: 0.01,
    };
    encode_bkt(&[skill]).unwrap()
}

pub(crate) fn load_bkt(id: u128, model: &str, table: ControlPayload) -> ControlRecord {
    ControlRecord {
        control_id: Uuid::from_u128(id),
        issued_at: Timestamp::from_ms(BEGIN_MS + 1),
        body: ControlBody::BktParameters {
            school_id: None,
            model_version: model.to_owned(),
            table,
        },
    }
}

pub(crate) fn set_zone(id: u128, school: &str, zone: &str) -> ControlRecord {
    ControlRecord {
        control_id: Uuid::from_u128(id),
        issued_at: Timestamp::from_ms(BEGIN_MS + 2),
        body: ControlBody::SchoolSettings {
            school_id: SchoolId::parse(school).unwrap(),
            name: format!("School {school}"),
            time_zone: zone.to_owned(),
        },
    }
}

/// A third of a stream with everything that can stand in a log: duplicates at later offsets, ids
/// with other content, a record that cannot be read, control records (each twice).
pub(crate) async fn append_third(log: &dyn EventLog, third: u64) {
    const EVENTS: u64 = 900;
    let partitions = log.partitions(Topic::Events);
    let from = third * EVENTS;
    let mut records: Vec<NewRecord> =
        (from..from + EVENTS).map(|number| record(&numbered(number), partitions)).collect();
    append(log, std::mem::take(&mut records)).await;
    let model = load_bkt(
        u128::from(third) + 1,
        &format!("model-{third}"),
        ControlPayload::Inline(bkt_table(0.2 + 0.1 * f64::from(u32::try_from(third).unwrap()))),
    );
    append_control(log, &model, 2).await;
    let zone = ["Europe/Berlin", "Asia/Tokyo", "America/New_York"][usize::try_from(third).unwrap()];
    append_control(log, &set_zone(100 + u128::from(third), "lincoln", zone), 1).await;
    for number in from.saturating_sub(30)..from + 60 {
        records.push(record(&numbered(number), partitions));
    }
    for number in from + 100..from + 110 {
        records.push(record(&conflicting(number), partitions));
    }
    let mut unreadable = record(&numbered(from), partitions);
    unreadable.payload = Bytes::from(format!("\u{1}\u{2}not a record {third}"));
    records.push(unreadable);
    for number in from + 200..from + 240 {
        let mut later = numbered(number);
        later.id = chalkstream_schemas::EventId::from_uuid(Uuid::from_u64_pair(7, number));
        records.push(record(&later, partitions));
    }
    append(log, records).await;
}
