//! SIGHUP: what changes at once, what waits for a restart, and a file that is wrong.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, runtime, signal_to};

const LIMIT: Duration = Duration::from_secs(30);

struct Configured {
    running: Running,
    file: PathBuf,
    key: String,
    _folder: tempfile::TempDir,
}

impl Configured {
    fn start(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("chalkstream.toml");
        std::fs::write(&file, text).unwrap();
        let mut running = Running::spawn(&folder.path().join("data"), |command| {
            command.arg("--config").arg(&file);
        });
        running.wait_until_ready();
        let key = running.create_key("lincoln", "events:write");
        Self { running, file, key, _folder: folder }
    }

    /// Changes the file, and waits until the log says `words` of it.
    #[track_caller]
    fn reload(&self, text: &str, words: &str) -> Value {
        std::fs::write(&self.file, text).unwrap();
        let before = self.lines().len();
        signal_to(self.running.pid(), Signal::HUP);
        let deadline = Instant::now() + LIMIT;
        loop {
            let new = self.lines().split_off(before);
            let says = |line: &&Value| {
                line["message"].as_str().is_some_and(|message| message.contains(words))
            };
            if let Some(line) = new.iter().find(says) {
                return line.clone();
            }
            let log = self.running.said("err");
            assert!(Instant::now() < deadline, "no line says `{words}`:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The log so far, a JSON object a line.
    fn lines(&self) -> Vec<Value> {
        let log = self.running.said("err");
        let whole = log.rfind('\n').map_or("", |end| log.get(..end).unwrap());
        let parse = |line: &str| serde_json::from_str(line);
        whole.lines().map(|line| parse(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }

    /// The status of two empty batches' worth of events at once.
    fn send_two(&self) -> u16 {
        let url = format!("{}/v1/events", self.running.http_url());
        let request = reqwest::Client::new().post(url).bearer_auth(&self.key);
        let request = request.json(&json!([{}, {}]));
        runtime().block_on(request.send()).unwrap().status().as_u16()
    }
}

fn config(ingest: &str, level: &str) -> String {
    format!("[ingest]\n{ingest}\n[logging]\nformat = \"json\"\nlevel = \"{level}\"\n")
}

#[test]
fn a_changed_file_takes_effect_on_sighup_and_a_wrong_one_does_not() {
    let served = Configured::start(&config("", "info"));
    assert_eq!(served.send_two(), 422);

    let read = served.reload(&config("max_events = 1", "debug"), "was read again");
    assert_eq!(read["keys"], "ingest.max_events, logging.level", "{read}");
    assert_eq!(served.send_two(), 413);

    // Not a word of a file that cannot be used is taken.
    let wrong = config("max_events = 2\nmax_evnts = 3", "info");
    let refused = served.reload(&wrong, "was not reloaded");
    assert!(refused["message"].as_str().unwrap().contains("`ingest.max_evnts`"), "{refused}");
    assert!(refused["hint"].as_str().unwrap().contains("ingest.max_events"), "{refused}");
    let contradiction = config("max_events = 2\nmax_event = \"20MiB\"", "info");
    served.reload(&contradiction, "larger than ingest.max_body");
    let level = served.reload(&config("max_events = 2", "loud=louder"), "was not reloaded");
    assert!(level["message"].as_str().unwrap().contains("logging.level"), "{level}");
    assert_eq!(served.send_two(), 413);

    // What needs a restart is named, and the rest of the same file is taken.
    let mixed =
        format!("{}[archive]\ninterval = \"3s\"\n", config("max_in_flight = \"99MiB\"", "info"));
    let warned = served.reload(&mixed, "need a restart");
    assert_eq!(warned["keys"], "archive.interval, ingest.max_in_flight", "{warned}");
    assert_eq!(warned["level"], "WARN");
    assert_eq!(served.send_two(), 422);
    assert_eq!(served.running.stop(Signal::TERM).code(), Some(0));
}

#[test]
fn tls_is_announced_and_certificates_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let renew = || {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(path("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("trusted.pem"), made.cert.pem()).unwrap();
    };
    renew();
    let file = |name: &str| path(name).display().to_string();
    let tls = format!("[ingest.tls]\ncert = {:?}\nkey = {:?}", file("cert.pem"), file("key.pem"));
    let text = config(&tls, "info");
    let served = Configured::start(&text);
    assert!(served.running.http_url().starts_with("https://127.0.0.1:"));

    let event = json!({
        "id": uuid::Uuid::new_v4(), "type": "login", "user_id": "ada",
        "occurred_at": chrono::Utc::now().to_rfc3339(),
    });
    std::fs::write(path("events.ndjson"), event.to_string()).unwrap();
    let send = || {
        let (events, ca) = (file("events.ndjson"), file("trusted.pem"));
        served.running.json(&["send", &events, "--key", &served.key, "--ca", &ca])
    };
    assert_eq!(send()["accepted"], 1);
    renew();
    served.reload(&text, "was read again");
    assert_eq!(send()["duplicate"], 1);

    // Without the issuer's certificate nothing is sent, at once.
    let untrusted = ["send", &file("events.ndjson"), "--key", &served.key];
    served.running.run(&untrusted).check(1, &["is not trusted", "hint: ", "--ca"]);
    // A file that is no certificate is named.
    let ended = served.running.run(&[
        "send",
        &file("events.ndjson"),
        "--key",
        "k",
        "--ca",
        &file("key.pem"),
    ]);
    ended.check(2, &["key.pem", "no certificate", "hint: "]);
    assert_eq!(served.running.stop(Signal::TERM).code(), Some(0));
}
