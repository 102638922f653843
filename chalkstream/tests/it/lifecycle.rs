//! How `standalone` begins, shares its folder, and ends.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::support::{Running, run};

#[test]
fn it_starts_greets_stops_and_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    // Longer than a socket's address: the folder's depth must not matter.
    let data = folder.path().join("d".repeat(120)).join("data");
    let first = Running::start(&data);
    let greeting = first.said("out");
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
    assert!(!second.said("out").contains("key: "), "{}", second.said("out"));
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

fn send_one(running: &Running, key: &str, id: &str, at: &str) -> serde_json::Value {
    let event =
        serde_json::json!({"id": id, "type": "login", "user_id": "amina", "occurred_at": at});
    let file = running.data_dir.with_extension("ndjson");
    std::fs::write(&file, format!("{event}\n")).unwrap();
    running.json(&["send", file.to_str().unwrap(), "--key", key])
}
