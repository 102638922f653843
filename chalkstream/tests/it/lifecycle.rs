//! How `standalone` begins, shares its folder, and ends.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde_json::{Value, json};

use crate::support::{Running, binary, run, runtime};

#[test]
fn it_starts_greets_stops_and_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than a socket's address: the folder's depth must not matter.
    let data = folder.path().join("d".repeat(120)).join("data");
    let first = Running::start(&data);
    let greeting = first.greeting();
    let keys: Vec<&str> = greeting.lines().filter_map(|line| line.strip_prefix("key: ")).collect();
    let [key] = keys.as_slice() else { panic!("one key, once: {greeting}") };
    for part in [first.http_url(), "chalkstream sql", "curl", "report run", "default"] {
        assert!(greeting.contains(part), "`{part}` is missing in: {greeting}");
    }
    for (file, mode) in [("credentials.toml", 0o600), ("keys.toml", 0o600), ("control.sock", 0o600)]
    {
        let found = std::fs::metadata(data.join(file)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{file}");
    }
    let key = (*key).to_owned();
    let now = chrono::Utc::now().to_rfc3339();
    assert_eq!(send_one(&first, &key, "first", &now)["accepted"], 1);

    // The folder is taken, and the holder's number is named.
    let pid = first.runtime["pid"].to_string();
    run(&data, &["standalone"]).check(1, &["locked", &pid, "hint: "]);

    assert_eq!(first.stop(Signal::INT).code(), Some(0));
    for file in ["runtime.json", "control.sock"] {
        assert!(!data.join(file).try_exists().unwrap(), "{file} is left behind");
    }

    let second = Running::start(&data);
    let greeting = second.greeting();
    assert!(!greeting.contains("key: "), "{greeting}");
    assert_eq!(send_one(&second, &key, "first", &now)["duplicate"], 1);
    assert_eq!(send_one(&second, &key, "second", &now)["accepted"], 1);
    second.wait_until_visible();
    assert_eq!(second.sql("SELECT count() AS events FROM events")[0]["events"], 2);
    assert_eq!(second.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn a_taken_port_is_said_in_a_sentence() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let free = "127.0.0.1:0";
    run(&data, &["standalone", "--listen", &address, "--clickhouse-listen", free])
        .check(1, &[&address, "for events", "hint: ", "--listen"]);
    run(&data, &["standalone", "--listen", free, "--clickhouse-listen", &address])
        .check(1, &[&address, "ClickHouse", "hint: ", "--clickhouse-listen"]);
    assert!(!data.join("runtime.json").try_exists().unwrap());
}

#[test]
fn it_waits_for_a_command_that_holds_the_folder_for_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let lock = File::create(data.join("lock")).unwrap();
    lock.lock().unwrap();
    let mut running = Running::spawn(&data, |_| {});
    std::thread::sleep(Duration::from_millis(1500));
    drop(lock);
    running.wait_until_ready();
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn commands_wait_for_a_process_that_starts_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let killed = Running::start(&data);
    let key = killed.create_key("lincoln", "events:write");
    assert_eq!(killed.stop(Signal::KILL).code(), None);
    for file in ["runtime.json", "control.sock"] {
        assert!(data.join(file).try_exists().unwrap(), "{file}: kill -9 cleans nothing up");
    }

    let mut running = Running::spawn(&data, |_| {});
    let pid = format!("{}\n", running.pid());
    let deadline = Instant::now() + Duration::from_secs(30);
    while std::fs::read_to_string(data.join("lock")).unwrap() != pid {
        assert!(Instant::now() < deadline, "{}", running.said("err"));
        std::thread::sleep(Duration::from_millis(1));
    }
    // It holds the folder and has nothing to answer with yet.
    running.create_key("adams", "events:write");
    assert_eq!(running.sql("SELECT count() AS events FROM events")[0]["events"], 0);
    let now = chrono::Utc::now().to_rfc3339();
    assert_eq!(send_one(&running, &key, "first", &now)["accepted"], 1);
    running.wait_until_ready();
    assert_eq!(running.json(&["doctor"])["running"]["pid"], running.pid());
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
}

/// A file-size limit stands for the full disk, which a test cannot have.
#[test]
fn a_log_that_cannot_be_written_ends_the_process_and_loses_nothing() {
    const LIMIT_BYTES: u64 = 4 << 20;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut limited = Running::spawn(&data, |command| {
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let mut shell = Command::new("sh");
        // Without the signal, writing above the limit fails.
        shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]).arg(binary()).args(args);
        *command = shell;
    });
    limited.wait_until_ready();
    let key = limited.create_key("lincoln", "events:write");
    let url = format!("{}/v1/events", limited.http_url());
    let mut acknowledged = 0;
    let mut refused = Value::Null;
    let client = reqwest::Client::new();
    for batch in 0..50 {
        let events: String = (0..200).map(|number| large_event(batch * 200 + number)).collect();
        // With the request ready: counts of outcomes are written every two seconds, and may find the
        // limit first; the process would be gone before it is asked.
        if batch == 10 {
            let limit = Rlimit { current: Some(LIMIT_BYTES), maximum: None };
            let pid = Pid::from_raw(i32::try_from(limited.pid()).unwrap());
            prlimit(pid, Resource::Fsize, limit).unwrap();
        }
        let Some((status, answer)) = post(&client, &url, &key, events) else { break };
        if status != 200 {
            assert_eq!(status, 503, "{answer}");
            refused = answer;
            break;
        }
        assert_eq!(answer["accepted"], 200, "{answer}");
        acknowledged += 200;
    }
    assert!(acknowledged >= 2000, "it took events before: {acknowledged}");
    assert_eq!(refused["refused"], 200, "{refused}");
    assert_eq!(refused["results"][0]["status"], "refused", "{refused}");
    assert_eq!(limited.wait_for_end().code(), Some(1));
    let said = limited.said("err");
    for part in ["\nerror: the event log takes no more records: ", "\nhint: make room on the disk"]
    {
        assert!(said.contains(part), "`{part}` is missing in:\n{said}");
    }

    let again = Running::start(&data);
    again.wait_until_archived();
    let query = "SELECT uniqExact(resource_id) AS ids, count() AS events, \
                 max(toUInt64(resource_id)) AS last FROM events";
    let found = &again.sql(query)[0];
    let events = found["events"].as_u64().unwrap();
    assert_eq!(found["ids"], events, "each event once");
    // What was refused may have reached the disk; what was acknowledged is there without a gap.
    assert!(events >= acknowledged, "{acknowledged} were acknowledged: {found}");
    assert_eq!(found["last"], events - 1, "{found}");
    assert_eq!(again.stop(Signal::TERM).code(), Some(0));
}

fn large_event(number: u64) -> String {
    // Random, so that it stays large in the log.
    let mut note = [0; 2048];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut note);
    let note: String = note.iter().map(|byte| format!("{byte:02x}")).collect();
    let event = json!({
        "id": format!("large-{number}"), "type": "resource_access",
        "user_id": format!("learner-{}", number % 20),
        "occurred_at": chrono::Utc::now().to_rfc3339(),
        "data": {"resource_id": number.to_string(), "note": note},
    });
    format!("{event}\n")
}

/// Status and answer; nothing where the server is gone.
fn post(client: &reqwest::Client, url: &str, key: &str, body: String) -> Option<(u16, Value)> {
    let request =
        client.post(url).bearer_auth(key).header("Content-Type", "application/x-ndjson").body(body);
    runtime().block_on(async {
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        Some((status, serde_json::from_str(&answer.text().await.ok()?).unwrap()))
    })
}

fn send_one(running: &Running, key: &str, id: &str, at: &str) -> serde_json::Value {
    let event =
        serde_json::json!({"id": id, "type": "login", "user_id": "amina", "occurred_at": at});
    let file = running.data_dir.with_extension("ndjson");
    std::fs::write(&file, format!("{event}\n")).unwrap();
    running.json(&["send", file.to_str().unwrap(), "--key", key])
}
