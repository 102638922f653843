//! Keys from the command line to requests, in real time: on one machine, and on nodes that share Kafka.

use std::path::Path;
use std::time::{Duration, Instant};

use chalkstream_event_log::test_support::kafka;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Ended, Running, command, ended, runtime};

/// What is promised: a key that was revoked stops working within it, on every node.
const AT_MOST: Duration = Duration::from_secs(5);

/// A configuration, as variables of the environment.
type Environment<'a> = [(&'a str, &'a str)];

/// One role on free ports.
fn start(role: &str, data_dir: &Path, environment: &Environment<'_>) -> Running {
    let mut running = Running::spawn(data_dir, |standalone| {
        if role != "standalone" {
            *standalone = command(data_dir, &[role, "--listen", "127.0.0.1:0"]);
        }
        standalone.envs(environment.iter().copied());
    });
    running.wait_until_ready();
    running
}

fn run_with(data_dir: &Path, args: &[&str], environment: &Environment<'_>) -> Ended {
    let mut command = command(data_dir, args);
    command.envs(environment.iter().copied());
    ended(command)
}

fn post(url: &str, key: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
    let mut request = reqwest::Client::new().post(format!("{url}/v1/events")).bearer_auth(key);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    runtime().block_on(async {
        let answer = request.json(body).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    })
}

fn status(url: &str, key: &str) -> u16 {
    post(url, key, &[], &json!([])).0
}

/// Waits until the key is answered so, at most as long as is promised.
#[track_caller]
fn becomes(url: &str, key: &str, expected: u16) {
    let began = Instant::now();
    loop {
        let found = status(url, key);
        if found == expected {
            return;
        }
        assert!(began.elapsed() < AT_MOST, "still {found} after {:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn event(id: &str, user: &str, app: Option<&str>) -> Value {
    let now = chrono::Utc::now().to_rfc3339();
    json!({"id": id, "type": "login", "user_id": user, "occurred_at": now, "app": app})
}

#[test]
fn keys_are_made_rotated_and_revoked_while_the_server_runs() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&folder.path().join("data"));
    let url = running.http_url();
    let made = running.json(&["keys", "create", "--school", "lincoln", "--app", "whiteboard"]);
    for field in ["key", "key_id", "school_id", "scopes", "created_at"] {
        assert!(!made[field].is_null(), "{field}: {made}");
    }
    let (key, key_id) = (made["key"].as_str().unwrap(), made["key_id"].as_str().unwrap());
    becomes(url, key, 200);
    assert_eq!(made["app"], "whiteboard");
    assert_eq!(made["state"], "active");

    let rotated = running.json(&["keys", "rotate", key_id, "--overlap", "3s"]);
    let (next, next_id) = (rotated["key"].as_str().unwrap(), rotated["key_id"].as_str().unwrap());
    assert_eq!((&rotated["app"], &rotated["scopes"]), (&made["app"], &made["scopes"]));
    assert_eq!(status(url, next), 200);
    assert_eq!(status(url, key), 200, "both are valid in the overlap");
    let listed = running.run(&["keys", "list", "--school", "lincoln"]).check(0, &[]).stdout;
    assert!(listed.contains("rotating until 20") && listed.contains("active"), "{listed}");
    assert!(!listed.contains(key) && !listed.contains(next), "{listed}");
    std::thread::sleep(Duration::from_secs(3));
    becomes(url, key, 401);
    assert_eq!(status(url, next), 200);
    running
        .run(&["keys", "rotate", key_id])
        .check(1, &[key_id, "expired", "hint: ", "keys create"]);

    running.json(&["keys", "revoke", next_id]);
    becomes(url, next, 401);
    let listed = running.run(&["keys", "list", "--json"]).check(0, &[]).stdout;
    let states: Vec<Value> = listed
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["state"].clone())
        .collect();
    assert_eq!(states, ["active", "expired", "revoked"]);

    let brief = running.json(&["keys", "create", "--school", "lincoln", "--expires", "2s"]);
    let brief = brief["key"].as_str().unwrap();
    assert_eq!(status(url, brief), 200);
    std::thread::sleep(Duration::from_secs(2));
    becomes(url, brief, 401);
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn a_key_has_the_rights_that_its_flags_give() {
    let folder = tempfile::tempdir().unwrap();
    let running = Running::start(&folder.path().join("data"));
    let url = running.http_url();
    let create = |args: &[&str]| {
        let args = [&["keys", "create", "--school", "lincoln"], args].concat();
        running.json(&args)["key"].as_str().unwrap().to_owned()
    };
    let vendor = create(&["--also-school", "adams", "--also-school", "harbour", "--app", "vendor"]);
    let (code, problem) = post(url, &vendor, &[], &json!([]));
    assert_eq!((code, &problem["type"]), (400, &json!("urn:chalkstream:problem:school-missing")));
    let named = [("Chalkstream-School", "adams")];
    assert_eq!(post(url, &vendor, &named, &event("v", "amina", None)).0, 200);
    let other = [("Chalkstream-School", "default")];
    assert_eq!(post(url, &vendor, &other, &json!([])).0, 403);

    let learner = create(&["--learner", "amina"]);
    let both = json!([event("l1", "amina", None), event("l2", "bela", None)]);
    let (code, answer) = post(url, &learner, &[], &both);
    assert_eq!((code, &answer["accepted"], &answer["rejected"]), (200, &json!(1), &json!(1)));
    assert_eq!(answer["results"][0]["reason"], "not_permitted");

    let short = create(&["--max-age", "1h", "--max-future", "2h"]);
    let at = |hours: i64| {
        let mut event = event(&format!("t{hours}"), "amina", None);
        let at = chrono::Utc::now() + chrono::TimeDelta::hours(hours);
        event["occurred_at"] = json!(at.to_rfc3339());
        event
    };
    assert_eq!(post(url, &short, &[], &at(1)).0, 200);
    for (hours, reason) in [(-2, "too_old"), (3, "in_future")] {
        assert_eq!(post(url, &short, &[], &at(hours)).1["results"][0]["reason"], reason);
    }

    let create = ["keys", "create", "--school", "a", "--publishable"];
    let refused = |args: &[&str], parts: &[&str]| {
        running.run(&[&create[..], args].concat()).check(1, parts);
    };
    refused(&["--scope", "events:backfill"], &["publishable", "events:write", "hint: "]);
    refused(&["--origin", "app.example"], &["app.example", "https://"]);
    let learner = ["keys", "create", "--school", "a", "--scope", "events:learner"];
    running.run(&learner).check(1, &["must name its learner"]);
    running
        .run(&["keys", "create", "--school", "a", "--origin", "https://a.example"])
        .check(2, &["--publishable"]);
    running.run(&["keys", "create", "--school", "a", "--expires", "soon"]).check(2, &["90d"]);
    // Schools that a vendor's key names are made with it.
    let schools = running.run(&["schools", "list"]).check(0, &[]).stdout;
    assert!(
        ["adams", "harbour", "lincoln"].iter().all(|school| schools.contains(school)),
        "{schools}"
    );
    // What a refused command asked for was not made.
    assert!(!schools.lines().any(|line| line.starts_with("a ")), "{schools}");
    // Every stamp is kept as it came; `event_time` alone is corrected, by a clock two hours off.
    let sent = |hours: i64| (chrono::Utc::now() + chrono::TimeDelta::hours(hours)).to_rfc3339();
    let mut stamped = event("stamps", "amina", None);
    stamped["occurred_at"] = json!("2026-01-01T10:00:00+02:00");
    let batch = json!({"sent_at": sent(-2), "events": [stamped]});
    assert_eq!(post(url, &create_backfill(&running), &[], &batch).0, 200);
    running.wait_until_visible();
    let stamps = running.sql(
        "SELECT toString(occurred_at) AS at, date_diff('minute', sent_at, received_at) AS off, \
         date_diff('minute', occurred_at, event_time) AS corrected FROM events \
         WHERE original_id = 'stamps'",
    );
    let near = |field: &str| (119..=121).contains(&stamps[0][field].as_i64().unwrap());
    assert_eq!(stamps[0]["at"], "2026-01-01 08:00:00.000");
    assert!(near("off") && near("corrected"), "{stamps:?}");
    let rows = running.sql("SELECT school_id, app FROM events WHERE original_id = 'v'");
    assert_eq!(rows[0]["school_id"], "adams");
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

fn create_backfill(running: &Running) -> String {
    let args = ["keys", "create", "--school", "lincoln", "--scope", "events:backfill"];
    running.json(&args)["key"].as_str().unwrap().to_owned()
}

#[test]
fn all_nodes_of_a_kafka_cluster_share_their_keys() {
    let Some(broker) = kafka() else { return };
    let folder = tempfile::tempdir().unwrap();
    let environment =
        [("CHALKSTREAM__LOG__KIND", "kafka"), ("CHALKSTREAM__LOG__BROKERS", broker.bootstrap())];
    let data = |name: &str| folder.path().join(name);
    let one = start("ingest", &data("one"), &environment);
    let two = start("ingest", &data("two"), &environment);
    let create = |running: &Running, school: &str| {
        let made = running.json(&["keys", "create", "--school", school]);
        (made["key"].as_str().unwrap().to_owned(), made["key_id"].as_str().unwrap().to_owned())
    };
    let (key, key_id) = create(&one, "shared-keys");
    assert_eq!(status(one.http_url(), &key), 200, "at once where it was made");
    becomes(two.http_url(), &key, 200);
    assert!(!data("one").join("keys.toml").try_exists().unwrap());

    // A command on a machine where no node runs goes to Kafka itself.
    let alone = |args: &[&str]| -> Value {
        let args = [args, &["--json"]].concat();
        run_with(&data("alone"), &args, &environment).check(0, &[]).json()
    };
    let rotated = alone(&["keys", "rotate", &key_id, "--overlap", "1h"]);
    let (next, next_id) = (rotated["key"].as_str().unwrap(), rotated["key_id"].as_str().unwrap());
    for node in [&one, &two] {
        becomes(node.http_url(), next, 200);
        assert_eq!(status(node.http_url(), &key), 200);
    }
    two.json(&["keys", "revoke", &key_id]);
    assert_eq!(status(two.http_url(), &key), 401, "at once where it was revoked");
    becomes(one.http_url(), &key, 401);
    alone(&["keys", "revoke", next_id]);
    for node in [&one, &two] {
        becomes(node.http_url(), next, 401);
    }
    let states = |stdout: &str| {
        let row = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        let rows = stdout.lines().map(row).filter(|row| row["school_id"] == "shared-keys");
        rows.map(|row| row["state"].clone()).collect::<Vec<_>>()
    };
    let list = ["keys", "list", "--json"];
    for stdout in [
        one.run(&list).check(0, &[]).stdout,
        run_with(&data("alone"), &list, &environment).check(0, &[]).stdout,
    ] {
        assert_eq!(states(&stdout), ["revoked", "revoked"], "{stdout}");
    }
    // A node that starts now knows them.
    let three = start("ingest", &data("three"), &environment);
    assert_eq!(status(three.http_url(), &key), 401);
    for node in [one, two, three] {
        assert_eq!(node.stop(Signal::TERM).code(), Some(0));
    }
}

#[test]
fn standalone_keeps_its_keys_in_its_folder_whatever_log_it_has() {
    let Some(broker) = kafka() else { return };
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let environment =
        [("CHALKSTREAM__LOG__KIND", "kafka"), ("CHALKSTREAM__LOG__BROKERS", broker.bootstrap())];
    let standalone = start("standalone", &data, &environment);
    let greeting = standalone.greeting();
    let key = greeting.lines().find_map(|line| line.strip_prefix("key: ")).unwrap();
    assert_eq!(status(standalone.http_url(), key), 200);
    assert!(data.join("keys.toml").try_exists().unwrap());
    assert_eq!(standalone.stop(Signal::TERM).code(), Some(0));
    // So does a command while it is stopped.
    let args = ["keys", "create", "--school", "offline", "--json"];
    let made = run_with(&data, &args, &environment).check(0, &[]).json();
    let again = start("standalone", &data, &environment);
    assert_eq!(status(again.http_url(), made["key"].as_str().unwrap()), 200);
    assert_eq!(again.stop(Signal::TERM).code(), Some(0));
}
