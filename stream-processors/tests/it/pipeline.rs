//! Events to views, restarts, control records, the index, other logs.

use chalkstream_event_log::EventLog as _;
use chalkstream_schemas::ControlPayload;
use serde_json::json;

use crate::events::{
    append, append_control, append_third, bkt_table, conflicting, event, load_bkt, numbered, record,
};
use crate::support::{Installation, PARTITIONS, assert_same, ready, rows_of};

/// The whole stream in one go.
async fn undisturbed() -> Installation {
    let installation = Installation::new();
    installation
        .with_log(async |log| {
            for third in 0..3 {
                append_third(&*log, third).await;
            }
        })
        .await;
    installation.must("fold", &[]);
    installation
}

#[tokio::test]
async fn every_event_counts_once_and_restarts_do_not_show() {
    if !ready() {
        return;
    }
    let whole = undisturbed().await;
    let dump = whole.dump();
    // 900 events and 40 under new ids a third; nothing else counts.
    assert_eq!(rows_of(&dump, "events_raw").len(), 3 * 940);
    // 10 ids with other content and one unreadable record a third.
    let rejected = rows_of(&dump, "rejected_events_raw");
    assert_eq!(rejected.len(), 3 * 11);
    assert_eq!(rejected.iter().filter(|row| row.contains("id_conflict")).count(), 30);
    for table in ["attempts_raw", "skill_mastery_state", "sessions_state", "item_stats_part"] {
        assert!(rows_of(&dump, table).len() > 20, "{table}");
    }
    let restarted = Installation::new();
    for third in 0..3 {
        restarted.with_log(async |log| append_third(&*log, third).await).await;
        restarted.must("fold", &[]);
    }
    assert_same(&restarted.dump(), &dump, "after two restarts");
    // Nothing new: nothing changes.
    restarted.must("fold", &[]);
    assert_same(&restarted.dump(), &dump, "after an idle start");
}

#[tokio::test]
async fn the_index_may_be_lost_or_run_ahead_or_lag() {
    if !ready() {
        return;
    }
    let expected = undisturbed().await.dump();
    let installation = Installation::new();
    installation.with_log(async |log| append_third(&*log, 0).await).await;
    installation.must("fold", &[]);
    // Kept for later: an index that lags.
    copy(&installation.path("index"), &installation.path("index-0"));
    std::fs::remove_dir_all(installation.path("index")).unwrap();
    installation.with_log(async |log| append_third(&*log, 1).await).await;
    installation.must("fold", &[]);
    std::fs::remove_dir_all(installation.path("index")).unwrap();
    copy(&installation.path("index-0"), &installation.path("index"));
    installation.with_log(async |log| append_third(&*log, 2).await).await;
    copy(&installation.path("clickhouse"), &installation.path("clickhouse-1"));
    installation.must("fold", &[]);
    assert_same(&installation.dump(), &expected, "after the index was lost, and after it lagged");
    // ClickHouse goes back to an older checkpoint: now the index is ahead of it.
    std::fs::remove_dir_all(installation.path("clickhouse")).unwrap();
    std::fs::rename(installation.path("clickhouse-1"), installation.path("clickhouse")).unwrap();
    installation.must("fold", &[]);
    let (found, expected) = (installation.dump(), expected);
    assert_same(&found, &expected, "with an index ahead of the checkpoint");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn control_records_hold_from_their_offset_on_and_once_per_id() {
    if !ready() {
        return;
    }
    let installation = Installation::new();
    let blobs = chalkstream_event_log::blobs::BlobStore::open(installation.path("blobs")).unwrap();
    let hash = blobs.put(bkt_table(0.9).into()).await.unwrap();
    installation
        .with_log(async |log| {
            append(&*log, (0..20).map(answer).collect()).await;
            let inline = load_bkt(1, "inline", ControlPayload::Inline(bkt_table(0.5)));
            append_control(&*log, &inline, 1).await;
            append(&*log, (20..40).map(answer).collect()).await;
            let blob = ControlPayload::Blob { hash, bytes: bkt_table(0.9).len() as u64 };
            append_control(&*log, &load_bkt(2, "blob", blob), 1).await;
            // Repeated, after another one: ignored.
            append_control(&*log, &inline, 2).await;
            append(&*log, (40..60).map(answer).collect()).await;
            // Cannot be applied: said, and left out.
            let broken = load_bkt(3, "broken", ControlPayload::Inline(b"\xff\xff".to_vec()));
            append_control(&*log, &broken, 1).await;
            append(&*log, (60..80).map(answer).collect()).await;
        })
        .await;
    installation.must("fold", &[]);
    let dump = installation.dump();
    let attempts = rows_of(&dump, "attempts_raw");
    assert_eq!(attempts.len(), 80);
    let with = |model: &str, p: &str| {
        let model = format!("\"model_version\":\"{model}\"");
        let p = format!("\"p_known_before\":\"{p}\"");
        attempts.iter().filter(|row| row.contains(&model) && row.contains(&p)).count()
    };
    assert_eq!(with("default", "0.3"), 20);
    assert_eq!(with("inline", "0.5"), 20);
    assert_eq!(with("blob", "0.9"), 40);
    let rejected = rows_of(&dump, "rejected_events_raw");
    assert!(
        rejected.iter().any(|row| row.contains("control record cannot be applied")),
        "{rejected:?}"
    );
}

#[tokio::test]
async fn another_log_or_a_trimmed_one_stops_with_what_to_do() {
    if !ready() {
        return;
    }
    let installation = Installation::new();
    installation.with_log(async |log| append_third(&*log, 0).await).await;
    installation.must("fold", &[]);
    // A log made anew, even with the same records.
    std::fs::rename(installation.path("log"), installation.path("log-old")).unwrap();
    installation.with_log(async |log| append_third(&*log, 0).await).await;
    installation.must("stop", &[]);
    let stop = || std::fs::read_to_string(installation.path("stop.txt")).unwrap();
    assert!(stop().contains("taken from log"), "{}", stop());
    assert!(stop().contains("hint: the log was recreated"), "{}", stop());
    // The old one again, but trimmed past the checkpoint: it goes on only if nothing is missing.
    std::fs::remove_dir_all(installation.path("log")).unwrap();
    std::fs::rename(installation.path("log-old"), installation.path("log")).unwrap();
    installation.must("fold", &[]);
    installation
        .with_log(async |log| {
            for number in 5_000..5_400 {
                append(&*log, vec![record(&numbered(number), PARTITIONS)]).await;
            }
            let before = chalkstream_schemas::Timestamp::MAX;
            let trimmed = log.trim(chalkstream_event_log::Topic::Events, before).await.unwrap();
            assert!(trimmed > 900, "{trimmed}");
            let partition = chalkstream_schemas::PartitionId::ZERO;
            let bounds = log.bounds(chalkstream_event_log::Topic::Events, partition).await.unwrap();
            assert!(bounds.first > chalkstream_schemas::LogOffset::ZERO, "{bounds:?}");
        })
        .await;
    installation.must("stop", &[]);
    assert!(stop().contains("the log begins at"), "{}", stop());
}

pub(crate) const ANSWERS_BEFORE_THE_BLOB: u64 = 120;

fn answer(number: u64) -> chalkstream_event_log::NewRecord {
    let raw = json!({
        "id": uuid::Uuid::from_u128(u128::from(number)).to_string(),
        "type": "answer_submitted", "user_id": format!("u{number}"),
        "data": {"item_id": "i", "skill_ids": ["common"], "correct": true},
    });
    record(&event("lincoln", &raw, 1_767_700_000_000), PARTITIONS)
}

/// Only the partition waits: what was folded before becomes visible meanwhile.
#[tokio::test]
async fn a_blob_that_arrives_late_is_waited_for() {
    if !ready() {
        return;
    }
    let fill = async |installation: &Installation| {
        let hash = *blake3::hash(&bkt_table(0.9)).as_bytes();
        installation
            .with_log(async |log| {
                append(&*log, (0..ANSWERS_BEFORE_THE_BLOB).map(answer).collect()).await;
                let table = ControlPayload::Blob { hash, bytes: bkt_table(0.9).len() as u64 };
                append_control(&*log, &load_bkt(1, "late", table), 1).await;
                append(&*log, (1_000..1_100).map(answer).collect()).await;
                let inline = load_bkt(2, "inline", ControlPayload::Inline(bkt_table(0.4)));
                append_control(&*log, &inline, 1).await;
                append(&*log, (2_000..2_050).map(answer).collect()).await;
            })
            .await;
    };
    let expected = Installation::new();
    let blobs = chalkstream_event_log::blobs::BlobStore::open(expected.path("blobs")).unwrap();
    blobs.put(bkt_table(0.9).into()).await.unwrap();
    fill(&expected).await;
    expected.must("fold", &[]);
    let late = Installation::new();
    fill(&late).await;
    late.must("late blob", &[]);
    assert_same(&late.dump(), &expected.dump(), "with a blob that came late");
    assert_eq!(rows_of(&late.dump(), "attempts_raw").len(), 120 + 100 + 50);
}

/// The index is filled from `events` where the log no longer has the records.
#[tokio::test]
async fn duplicates_of_what_the_log_has_trimmed_are_found() {
    if !ready() {
        return;
    }
    let again = async |installation: &Installation| {
        installation
            .with_log(async |log| {
                // 30 events of the first third once more, the second third, and ids of the first
                // with other content.
                append_third(&*log, 1).await;
                let conflicts = (300..340).map(|n| record(&conflicting(n), PARTITIONS));
                let repeated = (0..300).map(|n| record(&numbered(n), PARTITIONS));
                append(&*log, repeated.chain(conflicts).collect()).await;
            })
            .await;
    };
    let expected = Installation::new();
    expected.with_log(async |log| append_third(&*log, 0).await).await;
    again(&expected).await;
    expected.must("fold", &[]);

    let trimmed = Installation::new();
    trimmed.with_log(async |log| append_third(&*log, 0).await).await;
    trimmed.must("fold", &[]);
    trimmed
        .with_log(async |log| {
            let events = chalkstream_event_log::Topic::Events;
            let gone = log.trim(events, chalkstream_schemas::Timestamp::MAX).await.unwrap();
            assert!(gone > 800, "only {gone} records went");
        })
        .await;
    std::fs::remove_dir_all(trimmed.path("index")).unwrap();
    again(&trimmed).await;
    trimmed.must("fold", &[]);
    assert_same(&trimmed.dump(), &expected.dump(), "below a trimmed log");
}
