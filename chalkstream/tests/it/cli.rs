//! Commands without a running process: arguments, configuration, errors, and the offline ways.

use crate::support::{command, ended, json, run};

#[test]
fn versions_and_help_are_there_and_nonsense_is_usage() {
    let folder = tempfile::tempdir().unwrap();
    let version = run(folder.path(), &["--version"]).check(0, &[]).stdout;
    assert!(version.starts_with("chalkstream 0."), "{version}");
    run(folder.path(), &["teleport"]).check(2, &["teleport"]);
    run(folder.path(), &["send"]).check(2, &["FILE"]);
    run(folder.path(), &["schools", "set", "a", "--zone", "Mars/Olympus"])
        .check(2, &["Mars/Olympus", "Europe/"]);
    run(folder.path(), &["keys", "create", "--school", ""]).check(2, &["school"]);
    run(folder.path(), &["keys", "create", "--school", "a", "--scope", "all"])
        .check(2, &["events:write", "events:backfill"]);
    run(folder.path(), &["report", "run", "x", "--school", "a", "--from", "soon", "--to", "now"])
        .check(2, &["soon"]);
}

#[test]
fn an_unknown_key_is_named_with_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.toml");
    std::fs::write(&file, "[ingest]\nlisten_on = \"127.0.0.1:0\"\n").unwrap();
    run(folder.path(), &["doctor", "--config", file.to_str().unwrap()]).check(
        2,
        &[
            "error: unknown key `ingest.listen_on` in",
            "c.toml",
            "hint: did you mean `ingest.listen`?",
        ],
    );
    let mut command = command(folder.path(), &["doctor"]);
    command.env("CHALKSTREAM__ARCHIVE__INTERVALL", "1s");
    ended(command)
        .check(2, &["CHALKSTREAM__ARCHIVE__INTERVALL", "`CHALKSTREAM__ARCHIVE__INTERVAL`?"]);
    run(folder.path(), &["doctor", "--config", "/nowhere/c.toml"]).check(2, &["/nowhere/c.toml"]);
}

#[test]
fn a_role_alone_says_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    for role in ["ingest", "process", "archive"] {
        run(folder.path(), &[role]).check(2, &["needs Kafka", "log.kind", "standalone"]);
    }
}

#[test]
fn a_missing_library_is_said_in_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["standalone", "--listen", "127.0.0.1:0"]);
    command.args(["--clickhouse-listen", "127.0.0.1:0"]);
    command.env("CHALKSTREAM_LIBCHDB", "/nowhere/libchdb.so");
    ended(command)
        .check(1, &["error: libchdb.so was not found", "/nowhere", "hint: run `make libchdb`"]);
    assert!(!folder.path().join("runtime.json").try_exists().unwrap());
}

#[test]
fn keys_and_schools_work_without_a_running_process() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let set = ["schools", "set", "lincoln", "--zone", "America/Chicago", "--title", "Lincoln High"];
    let school = json(data, &set);
    assert_eq!(school["time_zone"], "America/Chicago");
    let created =
        json(data, &["keys", "create", "--school", "lincoln", "--scope", "events:backfill"]);
    assert_eq!(created["school_id"], "lincoln");
    assert_eq!(created["scopes"], serde_json::json!(["events:backfill"]));
    assert!(created["created_at"].as_str().unwrap().ends_with('Z'));
    let key = created["key"].as_str().unwrap();
    let key_id = created["key_id"].as_str().unwrap();
    assert!(key.starts_with(key_id) && key.len() > 40);

    // The school was there: its zone stays. Another one is made, in UTC.
    json(data, &["keys", "create", "--school", "adams"]);
    let schools = run(data, &["schools", "list", "--json"]).check(0, &[]).stdout;
    let schools: Vec<serde_json::Value> =
        schools.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let zone = |index: usize| schools[index]["time_zone"].as_str().unwrap();
    assert_eq!((zone(0), zone(1), schools.len()), ("UTC", "America/Chicago", 2));

    let listed = run(data, &["keys", "list", "--school", "lincoln"]).check(0, &[]).stdout;
    assert!(listed.contains(key_id) && !listed.contains(key), "{listed}");
    assert!(!listed.contains("adams"), "{listed}");
    let revoked = json(data, &["keys", "revoke", key_id]);
    assert!(revoked["revoked_at"].is_string());
    run(data, &["keys", "revoke", "csk_nothing"]).check(1, &["csk_nothing", "hint: ", "keys list"]);
    for file in ["keys.toml", "schools.toml"] {
        let text = std::fs::read_to_string(data.join(file)).unwrap();
        assert!(!text.contains(key), "{file} holds a key in clear");
    }
}

#[test]
fn a_wrong_model_table_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.csv");
    let path = file.to_str().unwrap();
    let load = |text: &str| {
        std::fs::write(&file, text).unwrap();
        run(folder.path(), &["model", "load", "bkt", path])
    };
    load("skill_id,p_init,p_learn,p_guess,p_slip\nfractions,0.3,0.1,x,0.1\n")
        .check(1, &["p.csv", "line 2", "p_guess", "hint: "]);
    load("skill_id,p_init,p_learn,p_guess,p_slip\nfractions,0.3,0.1,1.5,0.1\n")
        .check(1, &["p.csv", "fractions", "p_guess", "1.5"]);
    run(folder.path(), &["model", "load", "bkt", "/nowhere.csv"]).check(1, &["/nowhere.csv"]);
}

#[test]
fn what_send_cannot_work_with_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    run(folder.path(), &["send", "events.ndjson"]).check(2, &["write key", "CHALKSTREAM_KEY"]);
    run(folder.path(), &["send", "/nowhere.ndjson", "--key", "k"]).check(1, &["/nowhere.ndjson"]);
    run(folder.path(), &["send", "x", "--key", "k", "--url", "localhost:8080"])
        .check(2, &["http://"]);
    let file = folder.path().join("one.ndjson");
    std::fs::write(&file, "{}\n").unwrap();
    let nobody = ["--key", "k", "--url", "http://127.0.0.1:1", "--retry-for", "100ms"];
    let args: Vec<&str> = ["send", file.to_str().unwrap()].into_iter().chain(nobody).collect();
    run(folder.path(), &args).check(1, &["gave up", "127.0.0.1:1", "hint: "]);
}

#[test]
fn doctor_looks_at_a_folder_where_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = json(folder.path(), &["doctor"]);
    assert!(doctor["running"].is_null() && doctor["processor_lag"].is_null(), "{doctor}");
    assert!(doctor["libchdb"].as_str().unwrap().ends_with("libchdb.so"), "{doctor}");
}

#[test]
fn reports_and_datasets_can_be_listed() {
    let folder = tempfile::tempdir().unwrap();
    let reports = run(folder.path(), &["report", "list"]).check(0, &[]).stdout;
    assert!(reports.contains("student-performance"), "{reports}");
    let datasets = run(folder.path(), &["dataset", "list", "--json"]).check(0, &[]).stdout;
    assert!(datasets.contains("\"name\":\"pykt\""), "{datasets}");
}

#[test]
fn a_query_needs_no_earlier_start() {
    let folder = tempfile::tempdir().unwrap();
    let count = json(folder.path(), &["sql", "SELECT count() AS events FROM events"]);
    assert_eq!(count["events"], 0);
}
