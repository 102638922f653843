//! Rows of the folds, inserted for real, come back through the views as calculated by hand.
//!
//! Two partitions share a school and an item; every row is inserted twice, once before and once
//! after the aggregates changed, as a crash would do it.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use chalkstream_core::folds::ingest_outcomes::IngestOutcomeRow;
use chalkstream_core::folds::rejected_events::RejectedEventRow;
use chalkstream_core::{PartitionState, Position, RowBatch, RowSink, TableBatch};
use chalkstream_schemas::{
    Epoch, EventOutcome, LogOffset, OutcomeSeries, PartitionId, RejectReason, RejectedRecord,
    SchoolId, Timestamp,
};
use chalkstream_sql::{Credentials, Database, EmbeddedOptions, EmbeddedServer, ReaderLimits};
use serde_json::{Value, json};

use crate::events::event;

const ROOT: &str = "CHALKSTREAM_TEST_FOLDS_ROOT";
/// 2026-03-02T10:00:00Z
const TEN: i64 = 1_772_445_600_000;

#[test]
fn every_view_shows_what_was_folded() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "folds_through_views::entry", "--nocapture", "--test-threads=1"])
        .env(ROOT, folder.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("every view was compared"), "{text}");
}

/// Runs as a child only: ClickHouse as a library runs once a process.
#[test]
fn entry() {
    let Ok(root) = std::env::var(ROOT) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run(Path::new(&root)));
}

async fn insert(database: &Database, batches: &[TableBatch]) {
    for batch in batches {
        let columns: Vec<&str> = batch.columns().iter().map(|column| column.name).collect();
        let bytes = Bytes::copy_from_slice(batch.bytes());
        database.insert(batch.table(), &columns, bytes).await.unwrap();
    }
}

fn answered(number: u32, user: &str, correct: bool, time_taken_ms: u32, answer: &str) -> Value {
    json!({
        "id": format!("00000000-0000-7000-8000-{number:012}"), "type": "answer_submitted",
        "user_id": user, "course_id": "c", "unknown": "kept 🎒",
        "data": {"item_id": "i", "skill_ids": ["k", "l"], "correct": correct,
                 "time_taken_ms": time_taken_ms, "answer": answer, "note": "a\n\nb\u{0}c"},
    })
}

fn folded() -> (Vec<TableBatch>, Vec<TableBatch>) {
    let mut states = [0, 1].map(|it| PartitionState::new(PartitionId::new(it), Epoch::new(1)));
    let mut rows = RowBatch::new();
    let steps = [
        (0, 0, answered(1, "kim", false, 1000, "B")),
        (1, 0, answered(2, "lee", true, 3000, "A")),
        (0, 240, answered(3, "kim", true, 2000, "A")),
        (
            0,
            300,
            json!({
                "id": "00000000-0000-7000-8000-000000000004", "type": "video_watch", "user_id": "kim",
                "course_id": "c", "data": {"video_id": "v", "duration_seconds": 90.5},
            }),
        ),
        // Late: it moves the start of kim's session.
        (
            0,
            -60,
            json!({
                "id": "00000000-0000-7000-8000-000000000005", "type": "login", "user_id": "kim",
            }),
        ),
    ];
    let mut first = Vec::new();
    for (offset, (partition, seconds, raw)) in (0..).zip(&steps) {
        let event = event("lincoln", raw, TEN + seconds * 1000);
        let state: &mut PartitionState = &mut states[usize::from(*partition == 1)];
        state.apply_event(LogOffset::new(offset), &event, &mut rows);
        if offset == 2 {
            states.iter_mut().for_each(|state| state.drain_rows(&mut rows));
            first = rows.take();
        }
    }
    states.iter_mut().for_each(|state| state.drain_rows(&mut rows));
    let rejected = RejectedRecord {
        school_id: SchoolId::parse("lincoln").unwrap(),
        key_id: "key-1".into(),
        app: None,
        type_name: Some("answer_submitted".into()),
        reason: RejectReason::MissingField,
        field: Some("data.item_id".into()),
        message: "answer_submitted needs item_id".into(),
        received_at: Timestamp::from_ms(TEN),
        raw: b"{\"a\":\xff}".to_vec(),
        replayed_at: None,
    };
    let later = RejectedRecord { received_at: Timestamp::from_ms(TEN + 5), ..rejected.clone() };
    let old = RejectedRecord { raw: b"old".to_vec(), ..rejected.clone() };
    let replayed = Some(Timestamp::from_ms(TEN + 60_000));
    let replayed = RejectedRecord { replayed_at: replayed, ..old.clone() };
    let at = Position { partition: PartitionId::new(0), offset: LogOffset::ZERO };
    for rejected in [&later, &rejected, &replayed, &old] {
        rows.row(at, &RejectedEventRow::of(rejected));
    }
    add_outcomes(&mut rows, at);
    (first, rows.take())
}

/// Two instances counted; the first's rows come twice and in the wrong order.
fn add_outcomes(rows: &mut RowBatch, at: Position) {
    let series = |outcome| OutcomeSeries {
        hour: Timestamp::from_ms(TEN),
        school_id: SchoolId::parse("lincoln").unwrap(),
        key_id: "key-1".into(),
        app: "".into(),
        type_name: "login".into(),
        outcome,
    };
    let accepted = series(EventOutcome::Accepted);
    let rejected = series(EventOutcome::Rejected(RejectReason::TooOld));
    let (one, two) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
    for (instance, series, count) in [
        (one, &accepted, 7),
        (one, &accepted, 3),
        (two, &accepted, 10),
        (one, &accepted, 7),
        (two, &rejected, 1),
    ] {
        rows.row(at, &IngestOutcomeRow::of(instance, series, count));
    }
}

async fn run(root: &Path) {
    let server = EmbeddedServer::start(EmbeddedOptions {
        data_dir: root.join("clickhouse"),
        listen: ([127, 0, 0, 1], 0).into(),
        credentials: Credentials::load_or_create(&root.join("credentials.toml")).unwrap(),
        library: None,
        readers: ReaderLimits::default(),
    })
    .await
    .unwrap();
    let database = server.database();
    chalkstream_sql::migrations::migrate(&database).await.unwrap();
    let (first, second) = folded();
    for batches in [&first, &second, &first, &second] {
        insert(&database, batches).await;
    }
    for (query, expected) in expectations() {
        assert_eq!(database.query_json(query).await.unwrap(), expected, "{query}");
    }
    server.shutdown().await;
    println!("every view was compared");
}

fn expectations() -> Vec<(&'static str, Vec<Value>)> {
    vec![
        (
            "SELECT count() AS n, uniqExact(id) AS ids, countIf(data LIKE '%\"note\":%') AS notes, \
             countIf(extra = '{\"unknown\":\"kept 🎒\"}') AS extras FROM events",
            vec![json!({"n": 5, "ids": 5, "notes": 3, "extras": 3})],
        ),
        (
            "SELECT user_id, skill_id, skill_index, correct, opportunity, elapsed_seconds, \
             ability_after, model_version FROM attempts WHERE user_id = 'kim' \
             ORDER BY event_time, skill_index",
            vec![
                json!({"user_id": "kim", "skill_id": "k", "skill_index": 0, "correct": false,
                       "opportunity": 1, "elapsed_seconds": null, "ability_after": null,
                       "model_version": "default"}),
                json!({"user_id": "kim", "skill_id": "l", "skill_index": 1, "correct": false,
                       "opportunity": 1, "elapsed_seconds": null, "ability_after": null,
                       "model_version": "default"}),
                json!({"user_id": "kim", "skill_id": "k", "skill_index": 0, "correct": true,
                       "opportunity": 2, "elapsed_seconds": 240, "ability_after": null,
                       "model_version": "default"}),
                json!({"user_id": "kim", "skill_id": "l", "skill_index": 1, "correct": true,
                       "opportunity": 2, "elapsed_seconds": 240, "ability_after": null,
                       "model_version": "default"}),
            ],
        ),
        (
            "SELECT user_id, attempts, correct_count, current_streak, longest_streak, mastered \
             FROM skill_mastery WHERE skill_id = 'k' ORDER BY user_id",
            vec![
                json!({"user_id": "kim", "attempts": 2, "correct_count": 1, "current_streak": 1,
                       "longest_streak": 1, "mastered": false}),
                json!({"user_id": "lee", "attempts": 1, "correct_count": 1, "current_streak": 1,
                       "longest_streak": 1, "mastered": false}),
            ],
        ),
        // kim: login 09:59, answers 10:00 and 10:04, video 10:05: 6 minutes without a long gap.
        (
            "SELECT user_id, session_id, toString(ended_at) AS ended_at, active_seconds, \
             event_count, answers, correct_count FROM sessions ORDER BY user_id",
            vec![
                json!({"user_id": "kim", "session_id": format!("auto-{}", TEN - 60_000),
                       "ended_at": "2026-03-02 10:05:00.000", "active_seconds": 360,
                       "event_count": 4, "answers": 2, "correct_count": 1}),
                json!({"user_id": "lee", "session_id": format!("auto-{TEN}"),
                       "ended_at": "2026-03-02 10:00:00.000", "active_seconds": 0,
                       "event_count": 1, "answers": 1, "correct_count": 1}),
            ],
        ),
        (
            "SELECT course_id, toString(day) AS day, logins, videos, answers, video_seconds, \
             answer_seconds, active_seconds, engagement_weighted_seconds, engagement_weight, \
             engagement_score FROM learner_engagement_daily WHERE user_id = 'kim' ORDER BY course_id",
            vec![
                json!({"course_id": "", "day": "2026-03-02", "logins": 1, "videos": 0,
                       "answers": 0, "video_seconds": 0, "answer_seconds": 0,
                       "active_seconds": 0, "engagement_weighted_seconds": 0,
                       "engagement_weight": 0, "engagement_score": 0}),
                json!({"course_id": "c", "day": "2026-03-02", "logins": 0, "videos": 1,
                       "answers": 2, "video_seconds": 90.5, "answer_seconds": 3,
                       "active_seconds": 300, "engagement_weighted_seconds": 90.5,
                       "engagement_weight": 1, "engagement_score": 90.5}),
            ],
        ),
        (
            "SELECT attempts, learners, correct_count, first_attempts, first_attempt_correct_count, \
             difficulty, mean_time_ms, abs(time_p50_ms - 2000) < 32 AS p50, \
             abs(time_p90_ms - 3000) < 48 AS p90, toString(answers) AS answers FROM item_stats",
            vec![json!({"attempts": 3, "learners": 2, "correct_count": 2, "first_attempts": 2,
                        "first_attempt_correct_count": 1, "difficulty": 1.0 - 2.0 / 3.0,
                        "mean_time_ms": 2000, "p50": 1, "p90": 1,
                        "answers": "{'A':2,'B':1}"})],
        ),
        (
            "SELECT toString(bucket_at) AS bucket_at, event_count, active_learners \
             FROM activity_quarter_hourly ORDER BY bucket_at",
            vec![
                json!({"bucket_at": "2026-03-02 09:45:00.000", "event_count": 1,
                       "active_learners": 1}),
                json!({"bucket_at": "2026-03-02 10:00:00.000", "event_count": 4,
                       "active_learners": 2}),
            ],
        ),
        (
            "SELECT reason, field, type, key_id, toString(received_at) AS received_at, hex(raw) AS raw \
             FROM rejected_events WHERE replayed_at IS NULL",
            vec![json!({"reason": "missing_field", "field": "data.item_id",
                        "type": "answer_submitted", "key_id": "key-1",
                        "received_at": "2026-03-02 10:00:00.000", "raw": "7B2261223AFF7D"})],
        ),
        (
            "SELECT raw, toString(received_at) AS received_at, toString(replayed_at) AS replayed_at \
             FROM rejected_events WHERE replayed_at IS NOT NULL",
            vec![json!({"raw": "old", "received_at": "2026-03-02 10:00:00.000",
                        "replayed_at": "2026-03-02 10:01:00.000"})],
        ),
        (
            "SELECT school_id, toString(hour) AS hour, key_id, app, type, status, reason, event_count \
             FROM ingest_outcomes ORDER BY status",
            vec![
                json!({"school_id": "lincoln", "hour": "2026-03-02 10:00:00.000",
                       "key_id": "key-1", "app": "", "type": "login", "status": "accepted",
                       "reason": "", "event_count": 17}),
                json!({"school_id": "lincoln", "hour": "2026-03-02 10:00:00.000",
                       "key_id": "key-1", "app": "", "type": "login", "status": "rejected",
                       "reason": "too_old", "event_count": 1}),
            ],
        ),
    ]
}
