//! No key, token or password is in anything that the process writes, however much it logs.

use std::path::Path;

use jsonwebtoken::{EncodingKey, Header};
use reqwest::RequestBuilder;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Running, command, ended, runtime};

const SHARED_SECRET: &str = "the-shared-secret-of-the-school-portal";
const PASSWORDS: [(&str, &str); 3] = [
    ("CHALKSTREAM__CLICKHOUSE__PASSWORD", "password-of-clickhouse"),
    ("CHALKSTREAM__LOG__KAFKA__SASL_PASSWORD", "password-of-kafka"),
    ("CHALKSTREAM__LAKE__OPTIONS__AWS_SECRET_ACCESS_KEY", "password-of-the-lake"),
];

/// What must not be found, with a name for it that may.
#[derive(Default)]
struct Secrets(Vec<(String, String)>);

impl Secrets {
    fn add(&mut self, name: &str, secret: &str) -> String {
        self.0.push((name.to_owned(), secret.to_owned()));
        secret.to_owned()
    }

    /// The first characters of a key are its name; all that follows is secret.
    fn key(&mut self, name: &str, key: &str) -> String {
        let (_, secret) = key.split_at(key.len().min(12));
        self.add(name, secret);
        key.to_owned()
    }

    /// A token's signature makes it one; its claims are personal data.
    fn token(&mut self, name: &str, token: &str) -> String {
        for part in token.split('.').skip(1) {
            self.add(name, part);
        }
        token.to_owned()
    }

    #[track_caller]
    fn check(&self, place: &str, bytes: &[u8]) {
        for (name, secret) in &self.0 {
            let found = bytes.windows(secret.len()).position(|found| found == secret.as_bytes());
            if let Some(at) = found {
                let from =
                    bytes[..at].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
                let line = String::from_utf8_lossy(&bytes[from..at]);
                panic!("{place} holds {name}, after: {line}");
            }
        }
    }

    /// Every file below the folder.
    #[track_caller]
    fn check_folder(&self, folder: &Path) -> usize {
        let mut files = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files += self.check_folder(&path);
            } else if path.is_file() {
                self.check(&path.display().to_string(), &std::fs::read(&path).unwrap());
                files += 1;
            }
        }
        files
    }
}

fn signed(secret: &str, exp: i64) -> String {
    let claims = json!({
        "iss": "https://portal.example", "aud": "chalkstream", "exp": exp, "school_id": "lincoln",
        "scope": "events:learner", "sub": "amina",
    });
    let key = EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
}

/// Sends it, and looks at the whole answer.
fn answer(secrets: &Secrets, what: &str, request: RequestBuilder) -> (u16, String) {
    runtime().block_on(async {
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
        let body = answer.text().await.unwrap();
        secrets.check(what, headers.as_bytes());
        secrets.check(what, body.as_bytes());
        (status, body)
    })
}

#[test]
fn no_secret_is_in_logs_answers_metrics_or_the_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let secret_file = folder.path().join("portal.secret");
    std::fs::write(&secret_file, format!("{SHARED_SECRET}\n")).unwrap();
    let config = folder.path().join("chalkstream.toml");
    std::fs::write(
        &config,
        format!(
            "[ingest.cors]\norigins = [\"https://app.example\"]\n\n[[ingest.jwt]]\nname = \"portal\"\n\
             issuer = \"https://portal.example\"\naudience = [\"chalkstream\"]\n\
             algorithms = [\"HS256\"]\nsecret_file = {secret_file:?}\n"
        ),
    )
    .unwrap();
    let mut secrets = Secrets::default();
    secrets.add("the shared secret", SHARED_SECRET);
    for (name, password) in PASSWORDS {
        secrets.add(name, password);
    }
    let loud = |command: &mut std::process::Command| {
        command.arg("--config").arg(&config).arg("-vv");
        command.envs(PASSWORDS).env("RUST_LOG", "trace").env("CHALKSTREAM_LOG", "trace");
    };
    let mut running = Running::spawn(&data, loud);
    running.wait_until_ready();
    let greeting = running.greeting();
    let first = greeting.lines().find_map(|line| line.strip_prefix("key: ")).unwrap();
    secrets.key("the first key", first);

    // Commands are as loud; what they are asked for stands on standard output, and nowhere else.
    let mut said = Vec::new();
    let mut key = |secrets: &mut Secrets, name: &str, args: &[&str]| {
        let mut command = command(&data, args);
        loud(command.arg("--json"));
        let done = ended(command).check(0, &[]);
        said.push(done.stderr.clone());
        secrets.key(name, done.json()["key"].as_str().unwrap())
    };
    let create = ["keys", "create", "--school", "lincoln"];
    let secret = key(&mut secrets, "a key", &create);
    let public =
        key(&mut secrets, "a publishable key", &[&create[..], &["--publishable"]].concat());
    let old = key(&mut secrets, "a key that is rotated", &create);
    let new = key(&mut secrets, "its successor", &["keys", "rotate", old.get(..12).unwrap()]);
    let revoked = key(&mut secrets, "a revoked key", &create);
    running.run(&["keys", "revoke", revoked.get(..12).unwrap()]).check(0, &[]);
    let wrong = secrets.key("a wrong key", &format!("csk_{}", "0123456789abcdef".repeat(4)));
    let now = chrono::Utc::now().timestamp();
    let token = secrets.token("a token", &signed(SHARED_SECRET, now + 600));
    let expired = secrets.token("an expired token", &signed(SHARED_SECRET, now - 600));
    let forged = secrets.token("a forged token", &signed("x".repeat(40).as_str(), now + 601));

    let url = format!("{}/v1/events", running.http_url());
    let client = reqwest::Client::new();
    let event = |id: u32| {
        json!({
            "id": format!("event-{id}"), "type": "login", "user_id": "amina",
            "occurred_at": chrono::Utc::now().to_rfc3339(),
        })
    };
    let mut sent = 0;
    let mut check = |what: &str, expected: u16, request: RequestBuilder| {
        sent += 1;
        let (status, body) = answer(&secrets, what, request.json(&event(sent)));
        assert_eq!(status, expected, "{what}: {body}");
    };
    for (what, presented, expected) in [
        ("a key", &secret, 200),
        ("a publishable key", &public, 200),
        ("a key in its overlap", &old, 200),
        ("a successor", &new, 200),
        ("a revoked key", &revoked, 401),
        ("a wrong key", &wrong, 401),
        ("a token", &token, 200),
        ("an expired token", &expired, 401),
        ("a forged token", &forged, 401),
    ] {
        check(what, expected, client.post(&url).bearer_auth(presented));
        check(what, expected, client.post(&url).basic_auth(presented, Some("")));
        // Where it does not belong it is refused; a server may log what it refuses.
        let other = client.post(&url).header("Authorization", format!("Key {presented}"));
        check(what, 401, other);
        for place in ["Content-Type", "Content-Encoding", "Chalkstream-School"] {
            let misplaced = client.post(&url).bearer_auth(&secret).header(place, presented);
            let (status, body) = answer(&Secrets::default(), what, misplaced.body("[]"));
            assert!((400..500).contains(&status), "{place}: {status} {body}");
        }
        let query =
            client.post(format!("{url}?key={presented}")).header("Content-Type", "text/plain");
        answer(&secrets, what, query.body(event(1).to_string()));
        let path = client.get(format!("{}/{presented}", running.http_url()));
        answer(&Secrets::default(), what, path);
    }
    let file = folder.path().join("event.ndjson");
    std::fs::write(&file, format!("{}\n", event(1000))).unwrap();
    let mut send = command(&data, &["send", file.to_str().unwrap(), "--url", running.http_url()]);
    loud(send.env("CHALKSTREAM_KEY", &secret));
    let send = ended(send).check(0, &[]);
    secrets.check("send", send.stdout.as_bytes());
    said.push(send.stderr);
    for path in ["/metrics", "/readyz", "/openapi.json"] {
        let got = client.get(format!("{}{path}", running.http_url()));
        assert_eq!(answer(&secrets, path, got).0, 200);
    }
    for args in [&["doctor"][..], &["keys", "list"], &["schools", "list"]] {
        let done = running.run(args).check(0, &[]);
        secrets.check(args[0], done.stdout.as_bytes());
    }
    running.wait_until_archived();
    let found = running.sql("SELECT count() AS events FROM events")[0]["events"].as_u64().unwrap();
    assert!(found >= 10, "{found}");

    let log = folder.path().join("data.err");
    let out = folder.path().join("data.out");
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
    let log = std::fs::read(log).unwrap();
    let lines = String::from_utf8_lossy(&log);
    assert!(lines.contains("TRACE") && lines.contains("DEBUG"), "it logged everything");
    assert!(lines.contains("\"***\""), "the configuration is shown, without its secrets");
    secrets.check("the log", &log);
    for said in said {
        secrets.check("a command's log", said.as_bytes());
    }
    // The first start shows its key, once and here alone.
    let mut others = Secrets(secrets.0.clone());
    others.0.retain(|(name, _)| name != "the first key");
    others.check("the greeting", &std::fs::read(out).unwrap());
    assert!(secrets.check_folder(&data) > 10);
}
