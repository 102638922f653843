//! What the logs say at their usual level: nothing about a learner, and no flood of lines.

use std::io::Write;
use std::sync::Arc;

use chalkstream_access::{LimitsOptions, Span};
use chalkstream_event_log::Topic;
use chalkstream_ingest::IngestOptions;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::harness::{Server, server_with, unacknowledged};

const CHILD: &str = "CHALKSTREAM_TEST_LOGS";
/// In every id, name and text that a client sends here.
const PRIVATE: &str = "private-7d1c";

/// Logs are a process's own, so they are collected in one without other tests.
#[test]
fn nothing_that_a_learner_sent_is_logged_and_repeated_refusals_are_one_line() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(meet_every_trouble());
    }
    let name = "logs::nothing_that_a_learner_sent_is_logged_and_repeated_refusals_are_one_line";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed"), "{said}");
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().write(data)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn event(server: &Server, n: usize) -> Value {
    let mut event = server.event(&format!("{PRIVATE}-{n}"));
    event["user_id"] = json!(PRIVATE);
    event["session_id"] = json!(PRIVATE);
    event["data"]["item_id"] = json!(PRIVATE);
    event["data"]["answer"] = json!(PRIVATE);
    event
}

async fn meet_every_trouble() {
    let lines = Lines::default();
    let writer = lines.clone();
    tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.clone())
        .init();
    let options = IngestOptions {
        limits: LimitsOptions {
            learner_events_per_minute: 1,
            learner_burst: Span::secs(240),
            credential_requests_per_second: 1,
            credential_burst: Span::secs(60),
            ..LimitsOptions::default()
        },
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    server.send(&event(&server, 0)).await.check(200, [1, 0, 0, 0]);
    server.send(&event(&server, 0)).await.check(200, [0, 1, 0, 0]);
    let mut conflict = event(&server, 0);
    conflict["data"]["answer"] = json!(format!("{PRIVATE}-other"));
    server.send(&conflict).await.check(422, [0, 0, 1, 0]);
    let mut unknown = event(&server, 1);
    unknown["type"] = json!(PRIVATE);
    server.send(&unknown).await.check(422, [0, 0, 1, 0]);
    let json = [("content-type", "application/json")];
    let broken = format!("{{\"{PRIVATE}\": ");
    assert_eq!(server.send_bytes(&json, broken.into_bytes()).await.status, 400);
    assert_eq!(server.send_to(&format!("?{PRIVATE}=1"), &event(&server, 1)).await.status, 400);
    assert_eq!(server.send_as(PRIVATE, &event(&server, 1)).await.status, 401);
    server.log.fail(|_, _| Some(unacknowledged()));
    server.send(&json!([event(&server, 1), unknown])).await.check(503, [0, 0, 0, 2]);
    server.log.heal();
    server.log.fail_lookups();
    server.send(&event(&server, 1)).await.check(503, [0, 0, 0, 1]);
    server.log.heal();
    server.log.fail(|topic, _| (topic == Topic::Events).then(too_large));
    server.send(&event(&server, 1)).await.check(422, [0, 0, 1, 0]);
    server.log.heal();
    server.send(&json!((0..9).map(|n| event(&server, n)).collect::<Vec<_>>())).await;
    let mut over_the_limit = 0;
    for n in 0..200 {
        let status = server.send(&event(&server, n)).await.status;
        over_the_limit += usize::from(status == 429);
    }
    assert!(over_the_limit > 100, "{over_the_limit}");
    server.check_conservation().await;
    let open = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    drop(server.ingest.start(open).unwrap());

    let lines = String::from_utf8(lines.0.lock().clone()).unwrap();
    println!("{lines}");
    assert!(lines.contains("ingest is listening") && lines.contains("ERROR"), "{lines}");
    assert!(!lines.contains(PRIVATE), "{lines}");
    assert!(!lines.contains(&server.key), "{lines}");
    let in_clear = lines.lines().filter(|line| line.contains("without TLS")).collect::<Vec<_>>();
    // Not the server's own port, which this machine alone reaches.
    let [in_clear] = in_clear.as_slice() else { panic!("{in_clear:?}") };
    assert!(in_clear.contains("WARN") && in_clear.contains("0.0.0.0"), "{in_clear}");
    let told = lines.lines().filter(|line| line.contains("over a limit")).collect::<Vec<_>>();
    for scope in ["learner", "credential"] {
        let of_scope = told.iter().filter(|line| line.contains(&format!("scope=\"{scope}\"")));
        // Another one would be due after ten seconds.
        assert!((1..=3).contains(&of_scope.count()), "{told:?}");
    }
}

fn too_large() -> chalkstream_event_log::AppendError {
    chalkstream_event_log::AppendError::TooLarge { bytes: 2, limit_bytes: 1 }
}
