//! One request's trace, from the client's `traceparent` to the log, as a collector receives it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Attribute;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use prost::Message as _;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Running, runtime};

const LIMIT: Duration = Duration::from_secs(30);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

type Spans = Arc<Mutex<Vec<Span>>>;

/// A collector that keeps what it is sent.
fn collector() -> (String, Spans) {
    async fn take(State(spans): State<Spans>, body: Bytes) {
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        for resource in request.resource_spans {
            let attributes = &resource.resource.as_ref().unwrap().attributes;
            let named = attributes.iter().find(|pair| pair.key == "service.name").unwrap();
            let name = named.value.as_ref().unwrap().value.as_ref().unwrap();
            assert_eq!(*name, Attribute::StringValue("ingest-of-the-test".to_owned()));
            let found = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.lock().extend(found);
        }
    }
    let spans = Spans::default();
    let router = axum::Router::new().route("/v1/traces", post(take)).with_state(Arc::clone(&spans));
    let listener = runtime().block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    runtime().spawn(async move { axum::serve(listener, router).await });
    (url, spans)
}

#[track_caller]
fn wait_for(what: &str, spans: &Spans, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let found = spans.lock().clone();
        if wanted(&found) {
            return found;
        }
        assert!(Instant::now() < deadline, "waited for {what}: {found:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let pair = span.attributes.iter().find(|pair| pair.key == key);
    match pair.and_then(|pair| pair.value.as_ref()).and_then(|value| value.value.as_ref()) {
        Some(Attribute::StringValue(text)) => text.clone(),
        Some(Attribute::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

struct Traced {
    running: Running,
    key: String,
    spans: Spans,
    _folder: tempfile::TempDir,
}

impl Traced {
    fn start() -> Self {
        let (url, spans) = collector();
        let folder = tempfile::tempdir().unwrap();
        let environment = [
            ("CHALKSTREAM__TELEMETRY__OTLP_ENDPOINT", url.as_str()),
            ("CHALKSTREAM__TELEMETRY__SERVICE_NAME", "ingest-of-the-test"),
            ("CHALKSTREAM__TELEMETRY__SAMPLE_RATIO", "0"),
            ("CHALKSTREAM__LOGGING__LEVEL", "debug"),
            ("CHALKSTREAM__LOGGING__FORMAT", "json"),
        ];
        let running = Running::start_with(&folder.path().join("data"), &environment);
        let key = running.create_key("lincoln", "events:write");
        Self { running, key, spans, _folder: folder }
    }

    /// The status and body of a request; the flag says whether the caller samples.
    fn send(&self, flag: &str, body: &Value) -> (u16, Value) {
        let url = format!("{}/v1/events", self.running.http_url());
        let request = reqwest::Client::new()
            .post(url)
            .bearer_auth(&self.key)
            .header("traceparent", format!("00-{TRACE}-{CALLER}-{flag}"))
            .json(body);
        runtime().block_on(async {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.json().await.unwrap())
        })
    }
}

fn event() -> Value {
    json!({
        "id": uuid::Uuid::new_v4(), "type": "login", "user_id": "learner-of-the-test",
        "occurred_at": chrono::Utc::now().to_rfc3339(),
    })
}

#[test]
fn a_request_is_one_trace_from_its_caller_to_the_log() {
    let traced = Traced::start();
    // A caller that does not sample is followed in that, too.
    assert_eq!(traced.send("00", &json!([event()])).0, 200);
    let (status, answer) = traced.send("01", &json!([event(), event(), {"type": "login"}]));
    assert_eq!((status, &answer["accepted"]), (200, &json!(2)), "{answer}");
    let spans = wait_for("the trace", &traced.spans, |spans| {
        spans.iter().any(|span| span.name == "POST /v1/events")
    });
    let by_name: BTreeMap<&str, &Span> =
        spans.iter().map(|span| (span.name.as_str(), span)).collect();
    let names = ["POST /v1/events", "append", "dedupe", "parse", "read body"];
    assert_eq!(by_name.keys().copied().collect::<Vec<_>>(), names);
    assert_eq!(spans.len(), names.len(), "each once: {spans:#?}");
    let request = by_name["POST /v1/events"];
    assert_eq!(hex(&request.parent_span_id), CALLER);
    assert_eq!(attribute(request, "http.response.status_code"), "200");
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE, "{span:?}");
        if span.name != "POST /v1/events" {
            assert_eq!(span.parent_span_id, request.span_id, "{span:?}");
            assert!(span.start_time_unix_nano >= request.start_time_unix_nano, "{span:?}");
            assert!(span.end_time_unix_nano <= request.end_time_unix_nano, "{span:?}");
        }
        let shown = format!("{span:?}");
        assert!(!shown.contains("learner-of-the-test") && !shown.contains(&traced.key), "{shown}");
    }
    // The trace tells where the log keeps the events.
    traced.running.wait_until_visible();
    let query = "SELECT log_partition AS id, toInt32(log_offset) AS at FROM events ORDER BY at";
    let stored = traced.running.sql(query);
    let [_earlier, first, second] = stored.as_slice() else { panic!("{stored:?}") };
    let offsets = format!("{}:{}-{}", first["id"], first["at"], second["at"]);
    assert_eq!(attribute(by_name["append"], "log.offsets"), offsets);
    assert_eq!(attribute(by_name["append"], "events"), "2");

    // The trace's id is in the errors and in the log lines of a request.
    let (status, problem) = traced.send("01", &json!("no event"));
    assert_eq!((status, &problem["trace_id"]), (400, &json!(TRACE)), "{problem}");
    let log = traced.running.said("err");
    let line = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["message"] == "a request was answered" && line["status"] == "400");
    let line = line.unwrap_or_else(|| panic!("no line of the request in {log}"));
    assert_eq!(line["span"]["trace_id"], TRACE, "{line}");
    assert_eq!(line["route"], "/v1/events", "{line}");

    // What waits is sent before the end.
    assert_eq!(traced.send("01", &json!([])).0, 200);
    assert_eq!(traced.running.stop(Signal::TERM).code(), Some(0));
    let requests =
        |spans: &[Span]| spans.iter().filter(|span| span.name == "POST /v1/events").count();
    wait_for("the last traces", &traced.spans, |spans| requests(spans) == 3);
}

#[test]
fn no_log_line_holds_a_key_a_user_or_a_body_at_any_level() {
    let folder = tempfile::tempdir().unwrap();
    let environment = [
        ("CHALKSTREAM__LOGGING__LEVEL", "trace,h2=trace,hyper=trace"),
        ("CHALKSTREAM__LOGGING__FORMAT", "json"),
    ];
    let running = Running::start_with(&folder.path().join("data"), &environment);
    let key = running.create_key("lincoln", "events:write");
    let url = running.http_url();
    let client = reqwest::Client::new();
    let post = |path: &str, key: &str, body: String| {
        let request = client.post(format!("{url}{path}")).bearer_auth(key).body(body);
        let request = request.header("content-type", "application/json");
        runtime().block_on(request.send()).unwrap().status().as_u16()
    };
    let private = "private-of-the-test";
    let event = json!({
        "id": uuid::Uuid::new_v4(), "type": "answer_submitted", "user_id": format!("user-{private}"),
        "occurred_at": chrono::Utc::now().to_rfc3339(),
        "data": { "item_id": format!("item-{private}"), "correct": true, "answer": private },
    });
    let mut changed = event.clone();
    changed["data"]["correct"] = json!(false);
    let mut wrong = event.clone();
    wrong["data"]["correct"] = json!(private);
    assert_eq!(post("/v1/events", &key, event.to_string()), 200);
    assert_eq!(post("/v1/events", &key, json!([event, changed, wrong, private]).to_string()), 200);
    assert_eq!(post("/v1/events", &key, format!("{{ \"{private}\": ")), 400);
    assert_eq!(post(&format!("/v1/events?key=csk_{private}"), &key, "[]".to_owned()), 400);
    assert_eq!(post("/v1/events", &format!("csk_{private}"), "[]".to_owned()), 401);
    assert_eq!(post(&format!("/{private}"), &key, String::new()), 404);
    running.wait_until_visible();
    let greeting = running.greeting();
    let (out, folder_of_log) = (greeting, running.data_dir.with_extension("err"));
    assert_eq!(running.stop(Signal::TERM).code(), Some(0));
    let log = std::fs::read_to_string(folder_of_log).unwrap();
    assert!(log.lines().count() > 20, "the level is not taken: {log}");
    let first_key = out.lines().find_map(|line| line.strip_prefix("key: ")).unwrap();
    for secret in [private, key.as_str(), first_key] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} stands in: {line:?}");
    }
}
