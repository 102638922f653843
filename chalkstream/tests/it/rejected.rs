//! What support staff look at: fates live, their counts by the hour, rejected events and their
//! replay.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, command, run, runtime, signal_to};

const DEADLINE: Duration = Duration::from_secs(60);

/// The answer to a batch.
#[track_caller]
fn send(running: &Running, key: &str, batch: &Value) -> Value {
    let url = format!("{}/v1/events", running.http_url());
    let request = reqwest::Client::new().post(url).bearer_auth(key).json(batch);
    let answer = runtime().block_on(async { request.send().await?.json::<Value>().await }).unwrap();
    assert!(answer["accepted"].is_u64(), "{answer}");
    answer
}

fn event(id: &str, occurred_at: &str) -> Value {
    json!({"id": id, "type": "login", "user_id": "amina", "app": "web", "occurred_at": occurred_at})
}

/// A `tail` that watches already, with what it prints.
struct Tailing {
    process: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    notes: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Tailing {
    #[track_caller]
    fn start(running: &Running, args: &[&str]) -> Self {
        let args: Vec<&str> = ["tail"].iter().chain(args).copied().collect();
        let mut command = command(&running.data_dir, &args);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut notes = BufReader::new(process.stderr.take().unwrap()).lines();
        let first = notes.next().unwrap().unwrap();
        assert!(first.contains("watching"), "{first}");
        Self { process, lines, notes }
    }

    #[track_caller]
    fn line(&mut self) -> String {
        self.lines.next().expect("tail ended").unwrap()
    }

    /// Its last sentence, when it has ended well.
    #[track_caller]
    fn end(mut self) -> String {
        let left: Vec<String> = self.lines.map(Result::unwrap).collect();
        assert_eq!(left, [""; 0], "lines that nobody expected");
        let said: Vec<String> = self.notes.map(Result::unwrap).collect();
        assert_eq!(self.process.wait().unwrap().code(), Some(0), "{said:?}");
        said.last().cloned().unwrap_or_default()
    }
}

#[test]
fn fates_are_shown_live_counted_and_what_was_rejected_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    run(&data, &["tail"]).check(1, &["no process runs", "hint: ", "standalone", "--data-dir"]);
    assert!(!data.try_exists().unwrap(), "asking leaves no folder behind");

    let running = Running::start(&data);
    let key = running.create_key("lincoln", "events:write");
    let mut all = Tailing::start(&running, &[]);
    let mut rejected =
        Tailing::start(&running, &["--json", "--status", "rejected", "--user", "amina"]);
    let now = chrono::Utc::now().to_rfc3339();
    let (good, old) = (event("good", &now), event("old", "2001-02-03T04:05:06Z"));
    let mut conflict = event("good", &now);
    conflict["user_role"] = json!("teacher");
    let mut large = event("large", &now);
    large["notes"] = json!("x".repeat(70_000));
    let batch = json!([good, good, old, conflict, large, {"id": "b", "type": "made_up"}]);
    let answer = send(&running, &key, &batch);
    assert_eq!((&answer["accepted"], &answer["duplicate"]), (&json!(1), &json!(1)), "{answer}");

    watch(&mut all, &mut rejected);
    running.wait_until_visible();
    list(&running);
    replay(&running, &key, &old);
    count(&running);

    signal_to(all.process.id(), Signal::INT);
    let left: Vec<String> = all.lines.by_ref().map(Result::unwrap).collect();
    assert!(left.iter().all(|line| line.contains("  lincoln  ")), "{left:?}");
    assert!(all.end().contains("stopped watching after "));
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
    let left: Vec<String> = rejected.lines.by_ref().map(Result::unwrap).collect();
    assert!(!left.is_empty(), "the replay was watched as well");
    assert!(rejected.end().contains("the node stops"));
}

#[track_caller]
fn watch(all: &mut Tailing, rejected: &mut Tailing) {
    let lines: Vec<String> = (0..6).map(|_| all.line()).collect();
    let fates = ["accepted", "duplicate", "rejected", "rejected", "rejected", "rejected"];
    for (line, fate) in lines.iter().zip(fates) {
        assert!(line.contains(&format!("  {fate}")), "{line}");
        assert!(line.contains("  lincoln   "), "{line}");
    }
    assert!(lines[2].contains("too_old occurred_at: "), "{}", lines[2]);
    let reasons = ["too_old", "id_conflict", "event_too_large"];
    for reason in reasons {
        let event: Value = serde_json::from_str(&rejected.line()).unwrap();
        assert_eq!((&event["reason"], &event["user_id"]), (&json!(reason), &json!("amina")));
        assert!(event["message"].is_string() && event["received_at"].is_string(), "{event}");
    }
}

#[track_caller]
fn list(running: &Running) {
    let rows = |args: &[&str]| -> Vec<Value> {
        let args: Vec<&str> = ["rejected", "list", "--json"].iter().chain(args).copied().collect();
        let text = running.run(&args).check(0, &[]).stdout;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    assert_eq!(rows(&["--since", "1h", "--school", "lincoln"]).len(), 4);
    assert_eq!(rows(&["--limit", "2"]).len(), 2);
    assert_eq!(rows(&["--since", "2099-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(rows(&["--school", "adams"]).len(), 0);
    assert_eq!(rows(&["--type", "made_up"]).len(), 1);
    let old = rows(&["--reason", "too_old"]);
    assert_eq!(old.len(), 1);
    let raw: Value = serde_json::from_str(old[0]["raw"].as_str().unwrap()).unwrap();
    assert_eq!((&raw["id"], &old[0]["app"]), (&json!("old"), &json!("web")));
    let people = running.run(&["rejected", "list"]).check(0, &[]).stdout;
    assert!(people.contains("xxx…") && people.lines().count() == 5, "{people}");
    running.run(&["rejected", "list", "--reason", "late"]).check(2, &["too_old", "id_conflict"]);
    running.run(&["rejected", "list", "--since", "soon"]).check(2, &["2h"]);
}

#[track_caller]
fn replay(running: &Running, key: &str, old: &Value) {
    let events = || running.sql("SELECT count() AS events FROM events")[0]["events"].clone();
    let again = json!({"id_conflict": 1, "unknown_type": 1});
    let dry = running.json(&["rejected", "replay", "--dry-run"]);
    let expected = json!({"dry_run": true, "replayed": 3, "accepted": 1, "duplicate": 0,
                          "rejected": again, "refused": {}, "cut": 1, "in_log": 0,
                          "not_permitted": 0});
    assert_eq!(dry, expected);
    running.wait_until_visible();
    assert_eq!(events(), 1);

    let said = running.run(&["rejected", "replay"]).check(0, &[]).stdout;
    for part in ["replayed 3 rejected events", "accepted  ", "again: id_conflict", "1 too large"] {
        assert!(said.contains(part), "`{part}` is missing in: {said}");
    }
    running.wait_until_visible();
    assert_eq!(events(), 2);
    let second = running.json(&["rejected", "replay", "--filter", "reason=too_old"]);
    assert_eq!(second["replayed"], 0, "{second}");
    let second = running.json(&["rejected", "replay"]);
    assert_eq!((&second["accepted"], &second["rejected"]), (&json!(0), &again), "{second}");
    running.wait_until_visible();
    assert_eq!(events(), 2);
    let open = running.run(&["rejected", "list"]).check(0, &[]).stdout;
    assert!(!open.contains("too_old"), "{open}");
    let all = running.run(&["rejected", "list", "--all"]).check(0, &[]).stdout;
    assert!(all.contains("too_old (replayed)"), "{all}");
    // Its sender tries once more: still too old for that key, and still replayed.
    assert_eq!(send(running, key, old)["rejected"], 1);
    running.wait_until_visible();
    let replayed = "SELECT count() AS n FROM rejected_events WHERE replayed_at IS NOT NULL";
    assert_eq!(running.sql(replayed)[0]["n"], 1);
}

/// The view, the metrics and the answers tell the same.
#[track_caller]
fn count(running: &Running) {
    let metrics = runtime().block_on(async {
        let url = format!("{}/metrics", running.http_url());
        reqwest::get(url).await.unwrap().text().await.unwrap()
    });
    let series = |name: String| {
        let line = metrics.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).parse::<u64>().unwrap()
    };
    // One batch, one replay of three and one of two, and the sender's last try.
    let expected = [("accepted", 2), ("duplicate", 1), ("rejected", 4 + 2 + 2 + 1), ("refused", 0)];
    for (fate, events) in expected {
        assert_eq!(series(format!("chalkstream_ingest_events_total{{fate=\"{fate}\"}}")), events);
    }
    let total: u64 = expected.iter().map(|(_, events)| events).sum();
    let deadline = Instant::now() + DEADLINE;
    let sum = || {
        running.sql("SELECT sum(event_count) AS n FROM ingest_outcomes")[0]["n"].as_u64().unwrap()
    };
    while sum() != total {
        assert!(Instant::now() < deadline, "{} of {total} events are counted", sum());
        std::thread::sleep(Duration::from_millis(50));
    }
    let rows = running.sql(
        "SELECT school_id, key_id = 'replay' AS replay, app, type, status, reason, \
         sum(event_count) AS n FROM ingest_outcomes WHERE hour = toStartOfHour(hour) \
         GROUP BY ALL ORDER BY replay, status, reason",
    );
    let row = |replay: u8, app: &str, kind: &str, status: &str, reason: &str, n: u64| {
        json!({"school_id": "lincoln", "replay": replay, "app": app, "type": kind,
               "status": status, "reason": reason, "n": n})
    };
    let expected = [
        row(0, "web", "login", "accepted", "", 1),
        row(0, "web", "login", "duplicate", "", 1),
        row(0, "", "", "rejected", "event_too_large", 1),
        row(0, "web", "login", "rejected", "id_conflict", 1),
        row(0, "web", "login", "rejected", "too_old", 2),
        row(0, "", "", "rejected", "unknown_type", 1),
        row(1, "web", "login", "accepted", "", 1),
        row(1, "web", "login", "rejected", "id_conflict", 2),
        row(1, "", "", "rejected", "unknown_type", 2),
    ];
    assert_eq!(rows, expected);
}
