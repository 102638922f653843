//! The examples of the OpenAPI document: requests with the answers that they get.
//!
//! Always true: a test sends every request here to a real server and gets the answer beside it, to
//! the letter. Times are those of the server's start, because events must not be too old.

use chalkstream_schemas::Timestamp;
use serde_json::{Value, json};

/// A request to `POST /v1/events` with its answer.
struct Example {
    /// The same at the request and at the answer.
    name: &'static str,
    summary: &'static str,
    media_type: &'static str,
    /// JSON, or for other types its text.
    body: Value,
    status: &'static str,
    answer: Value,
}

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

fn examples(now: &str) -> [Example; 5] {
    let answer = |accepted: u32, rejected: u32, results: Value| {
        json!({
            "accepted": accepted, "duplicate": 0, "rejected": rejected, "refused": 0, "results": results,
        })
    };
    let event = |id: &str, kind: &str, data: Value| {
        json!({
            "id": id, "type": kind, "user_id": "amina", "occurred_at": now, "data": data,
        })
    };
    let right = json!({ "item_id": "fractions-7", "skill_ids": ["fractions"], "correct": true });
    let without_item = json!({ "correct": true });
    let fault = |index: u32, id: &str| {
        json!({
            "index": index, "id": id, "status": "rejected", "reason": "missing_field",
            "field": "data.item_id", "message": "answer_submitted needs data.item_id: the question that was answered",
        })
    };
    let lines = [
        event("0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e14", "login", json!({})),
        event("0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e15", "logout", json!({})),
    ];
    let lines = lines.map(|event| event.to_string()).join("\n");
    let rejected = "0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e13";
    [
        Example {
            name: "one_event",
            summary: "One event",
            media_type: JSON,
            body: event("0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e10", "answer_submitted", right.clone()),
            status: "200",
            answer: answer(1, 0, json!([])),
        },
        Example {
            name: "batch_with_a_fault",
            summary: "A batch, of which one event is at fault",
            media_type: JSON,
            body: json!({
                "sent_at": now,
                "events": [
                    event("0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e11", "answer_submitted", right),
                    event("0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e12", "answer_submitted", without_item.clone()),
                ],
            }),
            status: "200",
            answer: answer(1, 1, json!([fault(1, "0198b5a2-7c1e-7d5f-9a41-3f6b8c2d9e12")])),
        },
        Example {
            name: "an_event_a_line",
            summary: "An event a line",
            media_type: NDJSON,
            body: Value::String(lines),
            status: "200",
            answer: answer(2, 0, json!([])),
        },
        Example {
            name: "every_event_rejected",
            summary: "Nothing but faults",
            media_type: JSON,
            body: event(rejected, "answer_submitted", without_item),
            status: "422",
            answer: answer(0, 1, json!([fault(0, rejected)])),
        },
        Example {
            name: "no_event",
            summary: "JSON that holds no event",
            media_type: JSON,
            body: json!("hello"),
            status: "400",
            answer: json!({
                "type": "urn:chalkstream:problem:broken-body",
                "title": "The body cannot be read",
                "status": 400,
                "detail": "the body is not valid: expected an event (an object), an array of events, or {\"events\": […]}, not the string \"hello\" at line 1 column 1",
                "line": 1,
                "column": 1,
            }),
        },
    ]
}

/// Writes the examples into the document.
pub(super) fn add(document: &mut Value, now: Timestamp) {
    let operation = &mut document["paths"]["/v1/events"]["post"];
    for example in examples(&now.to_string()) {
        let Example { name, summary, media_type, body, status, answer } = example;
        let shown = |value: Value| json!({ "summary": summary, "value": value });
        operation["requestBody"]["content"][media_type]["examples"][name] = shown(body);
        let content = &mut operation["responses"][status]["content"];
        let media_type = if status == "400" { "application/problem+json" } else { JSON };
        content[media_type]["examples"][name] = shown(answer);
    }
}
