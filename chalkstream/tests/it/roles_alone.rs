//! Each role a process of its own: Kafka, a ClickHouse reached by `clickhouse.url`, a lake in S3.

use std::path::Path;
use std::time::Duration;

use chalkstream_event_log::test_support::Broker;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::clickhouse::Server;
use crate::folders::lake_identities;
use crate::load::{EVENTS, Load, Manner, by_learner};
use crate::object_store::ObjectStore;
use crate::support::{Environment, Running, run_with, settings, wait_until};

/// A broker of this test's own; what is missing for one is said or skipped in one place.
pub(crate) fn broker(folder: &Path, advertised: Option<u16>) -> Option<Broker> {
    chalkstream_event_log::test_support::kafka()?;
    Some(Broker::start_on(folder, advertised).unwrap())
}

/// What every role on this broker is told.
pub(crate) fn on_kafka(broker: &Broker) -> Environment {
    settings(&[
        ("log.kind", "kafka"),
        ("log.brokers", broker.bootstrap()),
        // A process that is killed is missed sooner than by default.
        ("log.kafka.session_timeout_ms", "6000"),
        // A few learners send as fast as they can: more than anybody's limit.
        ("ingest.limits.learner_events_per_minute", "0"),
    ])
}

#[test]
fn roles_alone_make_the_same_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let Some(broker) = broker(&at("kafka"), None) else { return };
    let clickhouse = Server::start(&at("clickhouse"));
    let store = ObjectStore::start(&at("s3"));
    let blobs = at("blobs");
    let shared = settings(&[("log.blobs", blobs.to_str().unwrap()), ("archive.interval", "1s")]);
    let every = [on_kafka(&broker), clickhouse.settings(), store.settings(), shared].concat();
    refusals(&at("refused"), &every);

    let migrated = run_with(&at("tools"), &["migrate", "--json"], &every).check(0, &[]).json();
    assert!(migrated["applied"].as_array().unwrap().len() >= 10, "{migrated}");
    let again = run_with(&at("tools"), &["migrate", "--json"], &every).check(0, &[]).json();
    assert_eq!(again["applied"], json!([]), "{again}");

    let ingest = Running::start_role("ingest", &at("ingest"), &every);
    let process = Running::start_role("process", &at("process"), &every);
    let archive = Running::start_role("archive", &at("archive"), &every);
    // Another archiver with a group of its own has every partition too: they meet at each commit.
    let rival_group = [every.clone(), settings(&[("archive.group", "rival")])].concat();
    let rival = Running::start_role("archive", &at("rival"), &rival_group);

    ingest.json(&["schools", "set", "lincoln", "--zone", "America/Chicago"]);
    load_large_model(&ingest, folder.path());
    let key = ingest.create_key("lincoln", "events:write");
    let manner = Manner { pause: Duration::from_millis(30), ..Manner::default() };
    let load = Load::start("roles", &key, &[ingest.http_url()], manner, 1);
    load.go_on_for(10);
    store.shut();
    load.go_on_for(10);
    wait_until("an archiver misses the store", || store.missed() > 0);
    store.open();
    load.go_on_for(5);
    let sent = load.stop();

    wait_until("everything is visible and in the lake", || {
        process.json(&["doctor"])["processor_lag"] == 0
            && [&archive, &rival].iter().all(|role| role.json(&["doctor"])["archive_lag"] == 0)
    });
    sent.check(&by_learner(&process.ask(EVENTS)), "roles alone");
    check_views(&process, sent.count());
    check_lake(&store, &archive, folder.path(), sent.count());
    for role in [ingest, process, archive, rival] {
        let said = format!("{}\n{}", role.said("out"), role.said("err"));
        assert_eq!(role.stop(Signal::TERM).code(), Some(0), "{said}");
    }
    // From a folder on which nothing runs: the command archives what is missing, here nothing.
    let report = student_performance(&at("tools"), &every, &folder.path().join("later"));
    assert!(report["run_id"].is_string(), "{report}");
}

/// Each trouble of the first start is a sentence with what to do.
fn refusals(folder: &Path, every: &Environment) {
    let process = |more: &[(&str, &str)]| {
        run_with(folder, &["process"], &[every.clone(), settings(more)].concat())
    };
    process(&[]).check(1, &["error: ", "hint: run `chalkstream migrate` first"]);
    std::fs::create_dir_all(folder).unwrap();
    let wrong = folder.join("wrong-password");
    std::fs::write(&wrong, "not it\n").unwrap();
    let wrong = [("clickhouse.password_file", wrong.to_str().unwrap())];
    process(&wrong).check(1, &["error: ", "hint: check `clickhouse.user` and its password"]);
    let away = [("clickhouse.url", "http://127.0.0.1:1")];
    let parts =
        ["http://127.0.0.1:1", "hint: check that ClickHouse runs and that `clickhouse.url`"];
    process(&away).check(1, &parts);
    for more in [&wrong[..], &away] {
        let environment = [every.clone(), settings(more)].concat();
        run_with(folder, &["migrate"], &environment).check(1, &["error: ", "hint: check "]);
    }
    let lost = [("log.brokers", "127.0.0.1:1")];
    for role in ["ingest", "archive"] {
        let environment = [every.clone(), settings(&lost)].concat();
        let parts = ["127.0.0.1:1", "hint: check that Kafka runs"];
        run_with(folder, &[role], &environment).check(1, &parts);
    }
    let alone = settings(&[("log.kind", "embedded")]);
    run_with(folder, &["ingest"], &alone).check(2, &["needs Kafka", "hint: set log.kind"]);
    let no_server: Environment =
        every.iter().filter(|(name, _)| !name.contains("CLICKHOUSE")).cloned().collect();
    run_with(folder, &["process"], &no_server).check(2, &["needs a ClickHouse server", "hint: "]);
}

/// Its table is too large for a record: it goes by a blob that every role reaches.
fn load_large_model(ingest: &Running, folder: &Path) {
    let mut table = "skill_id,p_init,p_learn,p_guess,p_slip\n".to_owned();
    for skill in 0..4_000 {
        table.push_str(&format!("skill-{skill},0.5,0.2,0.25,0.1\n"));
    }
    let file = folder.join("bkt.csv");
    std::fs::write(&file, table).unwrap();
    let loaded = ingest.json(&["model", "load", "bkt", file.to_str().unwrap()]);
    assert!(loaded["model_version"].as_str().unwrap().starts_with("bkt-"), "{loaded}");
}

fn check_views(process: &Running, events: usize) {
    assert_eq!(process.sql("SELECT count() AS events FROM events")[0]["events"], events);
    // The model was there before the first event, and the blob that holds it was found.
    let mastery = &process.sql(
        "SELECT count() AS rows, countIf(model_version LIKE 'bkt-%') AS loaded, \
         sum(attempts) AS attempts FROM skill_mastery",
    )[0];
    assert!(mastery["rows"].as_u64().unwrap() > 100, "{mastery}");
    assert_eq!(mastery["rows"], mastery["loaded"], "{mastery}");
    let attempts = "SELECT count() AS rows FROM attempts WHERE skill_id != ''";
    assert_eq!(process.sql(attempts)[0]["rows"], mastery["attempts"]);
    let rejected = process.sql("SELECT count() AS rows FROM rejected_events");
    assert!(rejected[0]["rows"].as_u64().unwrap() > 0, "{rejected:?}");
    let refused = process.run(&["sql", "INSERT INTO events_raw (id) VALUES (generateUUIDv4())"]);
    refused.check(1, &["error: ClickHouse refused the query"]);
    let doctor = process.json(&["doctor"]);
    assert_eq!(doctor["running"]["role"], "process", "{doctor}");
    assert_eq!(
        (&doctor["log_kind"], &doctor["problems"]),
        (&json!("kafka"), &json!([])),
        "{doctor}"
    );
}

fn check_lake(store: &ObjectStore, archive: &Running, folder: &Path, events: usize) {
    let lake = lake_identities(&store.table("events"));
    let once: std::collections::BTreeSet<_> = lake.iter().collect();
    assert_eq!((lake.len(), once.len()), (events, events), "each event once in the lake");
    let out = folder.join("report");
    let report = student_performance(&archive.data_dir, archive.environment(), &out);
    assert_eq!(report["files"].as_array().unwrap().len(), 2, "{report}");
    let csv = std::fs::read_to_string(out.join("student-performance.csv")).unwrap();
    assert_eq!(csv.lines().count(), 1 + 4 * 20, "a row for each learner and the course");
    let dataset = folder.join("pykt");
    let build = ["dataset", "build", "pykt", "--school", "lincoln", "--seed", "7", "--out"];
    let build = [&build[..], &[dataset.to_str().unwrap()]].concat();
    let built = archive.json(&build);
    assert_eq!(built["lake_version"], report["lake_version"], "{built}");
    assert!(std::fs::read_to_string(dataset.join("data.txt")).unwrap().lines().count() > 60);
}

fn student_performance(data_dir: &Path, environment: &Environment, out: &Path) -> Value {
    let today = chrono::Utc::now().date_naive();
    let from = (today - chrono::Days::new(2)).to_string();
    let to = (today + chrono::Days::new(1)).to_string();
    let run = ["report", "run", "student-performance", "--school", "lincoln", "--json"];
    let span = ["--from", &from, "--to", &to, "--format", "csv", "--out", out.to_str().unwrap()];
    run_with(data_dir, &[&run[..], &span].concat(), environment).check(0, &[]).json()
}
