//! kill -9 of the whole pipeline at random moments, under load, with clients that resend whatever
//! was not answered. Afterwards every acknowledged event stands in `events` and in the lake exactly
//! once, each learner's events in the order they were sent, and every view equals, value for
//! value, a fresh fold of the same log by a second process that nobody disturbed.
//!
//! `CHALKSTREAM_KILLS` sets the number of kills (4; `make soak` asks for 20), `CHALKSTREAM_SEED`
//! repeats a run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::folders::{copy_folder, lake_identities};
use crate::load::{EVENTS, Load, Manner, by_learner};
use crate::support::{Running, ask, number};

const VIEWS: &[&str] = &[
    "events",
    "attempts",
    "skill_mastery",
    "sessions",
    "learner_engagement_daily",
    "item_stats",
    "activity_quarter_hourly",
    "rejected_events",
];

#[test]
fn nothing_is_lost_or_doubled_when_the_embedded_pipeline_is_killed() {
    kill_under_load(&[]);
}

#[test]
fn nothing_is_lost_or_doubled_when_the_pipeline_on_kafka_is_killed() {
    let Some(kafka) = chalkstream_event_log::test_support::kafka() else { return };
    kill_under_load(&[
        ("CHALKSTREAM__LOG__KIND", "kafka"),
        ("CHALKSTREAM__LOG__BROKERS", kafka.bootstrap()),
    ]);
}

fn kill_under_load(log: &[(&str, &str)]) {
    let kills = number("CHALKSTREAM_KILLS").unwrap_or(4);
    let seed = number("CHALKSTREAM_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}: repeat with CHALKSTREAM_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);

    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    // A few learners send as fast as they can: more than anybody's limit.
    let no_limit = [("CHALKSTREAM__INGEST__LIMITS__LEARNER_EVENTS_PER_MINUTE", "0")];
    let environment = &[log, &no_limit].concat();
    let mut pipeline = Running::start_with(&data_dir, environment);
    let key = pipeline.create_key("lincoln", "events:write");
    pipeline.run(&["schools", "set", "lincoln", "--zone", "America/Chicago"]).check(0, &[]);

    let load = Load::start("k", &key, &[pipeline.http_url()], Manner::default(), seed);
    for _ in 0..kills {
        std::thread::sleep(Duration::from_millis(rng.random_range(200..2_500)));
        pipeline.stop(Signal::KILL);
        pipeline = Running::start_with(&data_dir, environment);
        load.redirect(&[pipeline.http_url()]);
    }
    std::thread::sleep(Duration::from_millis(500));
    let sent = load.stop();

    pipeline.wait_until_archived();
    sent.check(&by_learner(&pipeline.ask(EVENTS)), &format!("killed {kills} times, seed {seed}"));
    let disturbed = dump_views(pipeline.clickhouse_url());
    assert!(pipeline.stop(Signal::TERM).success());

    let identities: BTreeSet<(String, String)> = sent
        .acknowledged
        .iter()
        .flat_map(|(learner, ids)| ids.iter().map(move |id| (learner.clone(), id.clone())))
        .collect();
    let lake = lake_identities(&data_dir.join("lake/events"));
    assert_eq!(lake.len(), identities.len(), "rows in the lake, seed {seed}");
    let lake: BTreeSet<(String, String)> = lake.into_iter().collect();
    assert!(lake == identities, "the lake holds each event exactly once, seed {seed}");

    let fresh_dir = folder.path().join("fresh");
    for part in ["log", "blobs"] {
        copy_folder(&data_dir.join(part), &fresh_dir.join(part));
    }
    let fresh = Running::start_with(&fresh_dir, log);
    fresh.wait_until_archived();
    let undisturbed = dump_views(fresh.clickhouse_url());
    assert!(fresh.stop(Signal::TERM).success());
    assert_same_views(&undisturbed, &disturbed, &format!("after kill -9, seed {seed}"));
}

/// Every row of every view, in one order.
pub(crate) fn dump_views(clickhouse_url: &str) -> BTreeMap<&'static str, Vec<String>> {
    let mut views = BTreeMap::new();
    for view in VIEWS {
        let query = format!("SELECT * FROM {view} ORDER BY ALL FORMAT JSONEachRow");
        let rows: Vec<String> = ask(clickhouse_url, &query).lines().map(str::to_owned).collect();
        assert!(!rows.is_empty(), "{view} is empty: the comparison would prove nothing");
        views.insert(*view, rows);
    }
    views
}

/// Value for value.
#[track_caller]
pub(crate) fn assert_same_views(
    undisturbed: &BTreeMap<&'static str, Vec<String>>,
    disturbed: &BTreeMap<&'static str, Vec<String>>,
    when: &str,
) {
    for (view, rows) in undisturbed {
        let other = &disturbed[view];
        let differs = rows.iter().zip(other).find(|(a, b)| a != b);
        assert!(
            differs.is_none() && rows.len() == other.len(),
            "{view} differs {when}: {} rows undisturbed, {} disturbed, first difference {differs:#?}",
            rows.len(),
            other.len(),
        );
    }
}
