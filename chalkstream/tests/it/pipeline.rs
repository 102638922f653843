//! One pipeline from keys to reports, by the command line alone.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, command, json as json_of, run, signal_to};

/// Five learners, ten answers each: right from the fourth on.
fn answers() -> Vec<Value> {
    let answer = |learner: u32, number: u32| {
        json!({
            "id": format!("{learner}-{number}"), "type": "answer_submitted",
            "user_id": format!("learner-{learner}"), "course_id": "maths",
            "occurred_at": format!("2026-03-02T09:{learner:02}:{number:02}Z"),
            "data": {"item_id": format!("item-{number}"), "skill_ids": ["fractions"],
                     "correct": number > 3, "time_taken_ms": 1000},
        })
    };
    (1..=10).flat_map(|number| (1..=5).map(move |learner| answer(learner, number))).collect()
}

#[test]
fn events_become_tables_reports_and_datasets() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&folder.path().join("data"));
    running.json(&["schools", "set", "lincoln", "--zone", "America/Chicago"]);
    let create = ["keys", "create", "--school", "lincoln", "--scope", "events:backfill"];
    let key = running.json(&create)["key"].as_str().unwrap().to_owned();
    load_model(&running, folder.path());
    send(&running, folder.path(), &key);
    running.wait_until_visible();
    ask(&running);
    refuse(&running);
    let made = make_outputs(&running.data_dir, folder.path(), "while-running");

    let doctor = running.json(&["doctor"]);
    assert_eq!((&doctor["processor_lag"], &doctor["archive_lag"]), (&json!(0), &json!(0)));
    assert_eq!(doctor["running"]["role"], "standalone", "{doctor}");
    let data = running.data_dir.clone();
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));

    // The same from the folder alone.
    let rows = run(&data, &["sql", "SELECT count() AS events FROM events", "--json"]).check(0, &[]);
    assert_eq!(rows.json()["events"], 50);
    let again = make_outputs(&data, folder.path(), "stopped");
    assert_eq!(made, again, "the same lake gives the same files");
}

fn load_model(running: &Running, folder: &Path) {
    let table = folder.join("bkt.csv");
    std::fs::write(&table, "skill_id,p_init,p_learn,p_guess,p_slip\nfractions,0.5,0.2,0.25,0.1\n")
        .unwrap();
    let loaded = running.json(&["model", "load", "bkt", table.to_str().unwrap()]);
    assert!(loaded["model_version"].as_str().unwrap().starts_with("bkt-"), "{loaded}");
    assert!(loaded["control_id"].is_string(), "{loaded}");
}

/// Gzip, with duplicates and broken lines; then again from the beginning.
fn send(running: &Running, folder: &Path, key: &str) {
    let file = folder.join("answers.ndjson.gz");
    let mut gzip = flate2::write::GzEncoder::new(
        std::fs::File::create(&file).unwrap(),
        flate2::Compression::default(),
    );
    let events = answers();
    for event in events.iter().chain(&events[..3]) {
        writeln!(gzip, "{event}").unwrap();
    }
    writeln!(gzip, "this is no JSON\n{}", json!({"id": "x", "type": "no_such_type"})).unwrap();
    gzip.finish().unwrap();
    let file = file.to_str().unwrap();

    let sent = running.run(&["send", file, "--key", key, "--batch", "7", "--json"]);
    let sent = sent.check(1, &["line 54: malformed_json", "line 55: "]).json();
    let expected = json!({"sent": 55, "accepted": 50, "duplicate": 3, "rejected": 2, "refused": 0});
    assert_eq!(sent, expected);
    let again = running.run(&["send", file, "--key", key, "--allow-rejected", "--json"]);
    let expected = json!({"sent": 55, "accepted": 0, "duplicate": 53, "rejected": 2, "refused": 0});
    assert_eq!(again.check(0, &[]).json(), expected);
    running.run(&["send", file, "--key", "csk_wrong"]).check(1, &["401", "hint: ", "keys create"]);
}

fn ask(running: &Running) {
    let mastery = running.sql(
        "SELECT user_id, attempts, correct_count, p_known, model_version LIKE 'bkt-%' AS loaded \
         FROM skill_mastery ORDER BY user_id",
    );
    assert_eq!(mastery.len(), 5);
    let expected = (0..10).fold(0.5, |known: f64, number| {
        let (slip, guess) = (0.1, 0.25);
        let posterior = if number >= 3 {
            known * (1.0 - slip) / (known * (1.0 - slip) + (1.0 - known) * guess)
        } else {
            known * slip / (known * slip + (1.0 - known) * (1.0 - guess))
        };
        posterior + (1.0 - posterior) * 0.2
    });
    for row in &mastery {
        assert_eq!((&row["attempts"], &row["correct_count"]), (&json!(10), &json!(7)), "{row}");
        assert!((row["p_known"].as_f64().unwrap() - expected).abs() < 1e-12, "{row}");
        assert_eq!(row["loaded"], 1, "{row}");
    }
    let named = running.sql("SELECT count() AS rows FROM attempts WHERE skill_id != ''");
    assert_eq!(named[0]["rows"], 50, "a condition that ClickHouse would answer from the sizes");
    // A learner's answers keep the file's order on every connection.
    let order = running.sql(
        "SELECT user_id, groupArray(item_id) AS items FROM \
         (SELECT user_id, item_id FROM events ORDER BY log_partition, log_offset) GROUP BY user_id",
    );
    let items: Vec<String> = (1..=10).map(|number| format!("item-{number}")).collect();
    for row in order {
        assert_eq!(row["items"], json!(items), "{row}");
    }
    let rejected = running.sql("SELECT reason FROM rejected_events ORDER BY reason");
    let reasons: Vec<&str> = rejected.iter().map(|row| row["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    let people = running.run(&["sql", "SELECT 1 AS one"]).check(0, &[]).stdout;
    assert!(people.contains("one"), "{people}");
}

/// `sql` is `reader`.
fn refuse(running: &Running) {
    for query in [
        "INSERT INTO events_raw (id) VALUES (generateUUIDv4())",
        "DROP VIEW events",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM events_raw",
    ] {
        running.run(&["sql", query]).check(1, &["error: ClickHouse refused the query"]);
    }
    running.run(&["sql", "SELECT nonsense FROM events"]).check(1, &["nonsense"]);
    running.run(&["sql", "  "]).check(2, &["empty"]);
}

/// The report's rows and the dataset's bytes.
fn make_outputs(data: &Path, folder: &Path, name: &str) -> (String, String) {
    let out = folder.join(name);
    let path = out.to_str().unwrap();
    let report = json_of(
        data,
        &[
            "report",
            "run",
            "student-performance",
            "--school",
            "lincoln",
            "--from",
            "2026-03-01",
            "--to",
            "2026-03-31",
            "--format",
            "csv,xlsx",
            "--out",
            path,
        ],
    );
    assert!(report["run_id"].is_string() && report["data_as_of"].is_string(), "{report}");
    let files: Vec<&str> =
        report["files"].as_array().unwrap().iter().map(|file| file.as_str().unwrap()).collect();
    assert_eq!(files.len(), 3, "{report}");
    let csv = std::fs::read_to_string(out.join("student-performance.csv")).unwrap();
    assert_eq!(csv.lines().count(), 6, "{csv}");
    let first = csv.lines().nth(1).unwrap();
    assert!(first.starts_with("learner-1,maths,10,7,0.7"), "{first}");

    let build = ["dataset", "build", "pykt", "--school", "lincoln", "--seed", "7", "--out", path];
    let dataset = json_of(data, &build);
    assert_eq!(dataset["seed"], 7, "{dataset}");
    assert_eq!(dataset["lake_version"], report["lake_version"]);
    let text = std::fs::read_to_string(out.join("data.txt")).unwrap();
    assert_eq!(text.lines().count(), 5 * 6);
    (csv, text)
}

#[test]
fn a_stopped_send_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&folder.path().join("data"));
    let create = ["keys", "create", "--school", "lincoln", "--scope", "events:backfill"];
    let key = running.json(&create)["key"].as_str().unwrap().to_owned();
    let file = folder.path().join("events.ndjson");
    let lines: String = answers().iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(&file, &lines).unwrap();
    let path = file.to_str().unwrap();

    // A journal as a run that was stopped after 30 events leaves it.
    let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap();
    let journal = json!({
        "format": 1, "file_bytes": lines.len(), "file_modified_ns": u64::try_from(since.as_nanos()).unwrap(),
        "url": format!("{}/v1/events", running.http_url()), "answered": 30,
    });
    let journal_path = folder.path().join("events.ndjson.chalkstream-send");
    std::fs::write(&journal_path, journal.to_string()).unwrap();
    let resumed =
        running.run(&["send", path, "--key", &key, "--json"]).check(0, &["after 30 events"]);
    assert_eq!(resumed.json()["sent"], 20);
    assert!(!journal_path.try_exists().unwrap(), "a complete run leaves no journal");
    let whole = running.run(&["send", path, "--key", &key, "--json"]).check(0, &[]).json();
    assert_eq!((&whole["accepted"], &whole["duplicate"]), (&json!(30), &json!(20)));
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

/// With one connection, so that nothing is under way when the answer that is waited for comes.
#[test]
fn a_send_that_is_interrupted_waits_for_its_answers_and_can_go_on() {
    const EVENTS: u64 = 60_000;
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&folder.path().join("data"));
    let key = running.create_key("lincoln", "events:backfill");
    let file = folder.path().join("many.ndjson");
    let event = |number: u64| {
        json!({"id": format!("e-{number}"), "type": "login", "user_id": format!("u-{}", number % 50),
               "occurred_at": "2026-03-02T09:00:00Z"})
    };
    let lines: String = (0..EVENTS).map(|number| format!("{}\n", event(number))).collect();
    std::fs::write(&file, lines).unwrap();
    let path = file.to_str().unwrap();
    let args = ["send", path, "--key", &key, "--json", "--connections", "1", "--batch", "20"];
    let journal = folder.path().join("many.ndjson.chalkstream-send");
    let answered = || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        let journal: Value = serde_json::from_str(&text).unwrap_or_default();
        journal["answered"].as_u64().unwrap_or_default()
    };

    let mut sending = command(&running.data_dir, &args);
    let sending = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while answered() == 0 {
        assert!(Instant::now() < deadline, "nothing was answered");
        std::thread::sleep(Duration::from_millis(5));
    }
    signal_to(sending.id(), Signal::INT);
    let stopped = sending.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(1), "{said}");
    assert!(said.contains("error: stopped before the file's end\nhint: "), "{said}");
    let first: Value = serde_json::from_slice(&stopped.stdout).unwrap();
    let sent = first["sent"].as_u64().unwrap();
    assert!(0 < sent && sent < EVENTS, "{first}");
    assert_eq!(first["accepted"], sent, "{first}");
    assert_eq!(answered(), sent, "the journal holds every answer");

    let second = running.run(&args).check(0, &["going on after"]).json();
    assert_eq!(second["sent"], EVENTS - sent, "{second}");
    assert_eq!(second["duplicate"], 0, "{second}");
    running.wait_until_visible();
    assert_eq!(running.sql("SELECT count() AS events FROM events")[0]["events"], EVENTS);
    let rows = running.json(&["doctor"])["rows_written"].as_u64().unwrap();
    assert!(rows > EVENTS, "an event is a row of `events` and changes others: {rows}");
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}
