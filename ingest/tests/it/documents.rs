//! What the server says about itself: OpenAPI, schemas, metrics, health, unknown paths.

use chalkstream_access::Clock as _;
use serde_json::{Value, json};

use crate::harness::{Reply, server};

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_route_answers_and_says_what_it_documents() {
    let server = server().await;
    let document = server.get("/openapi.json").await.json::<Value>().await.unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"), "{document}");
    assert!(document["components"]["securitySchemes"]["write_key"].is_object());
    let login = json!({
        "event": "Login", "userId": "ada", "messageId": "m", "timestamp": server.clock.now().to_string(),
    });
    let mut routes = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        let url = server.url(&path.replace("{type}", "answer_submitted"));
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_uppercase().parse::<reqwest::Method>().unwrap();
            let request = server.client.request(method.clone(), &url).bearer_auth(&server.key);
            let request = match path.as_str() {
                "/v1/events" => request.json(&json!([])),
                "/v1/batch" => request.json(&json!({ "batch": [] })),
                "/v1/track" => request.json(&login),
                _ => request,
            };
            let reply = Reply::of(request.send().await.unwrap()).await;
            assert_eq!(reply.status, 200, "{method} {path}");
            let content = operation["responses"]["200"]["content"].as_object().unwrap();
            let media_type = reply.content_type.split(';').next().unwrap();
            assert!(content.contains_key(media_type), "{method} {path}: {media_type} {content:?}");
            routes += 1;
        }
    }
    assert_eq!(routes, 9);
    // Every status that a test of this suite has seen is documented.
    let responses = &document["paths"]["/v1/events"]["post"]["responses"];
    for status in ["200", "422", "400", "401", "403", "408", "413", "415", "500", "503"] {
        assert!(responses[status].is_object(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_methods_are_problems() {
    let server = server().await;
    for path in ["/", "/v1/event", "/v1/schemas/", "/v2/events"] {
        let reply = Reply::of(server.get(path).await).await;
        reply.check_problem(404, "not-found", "/v1/events");
    }
    let reply = Reply::of(server.get("/v1/events").await).await;
    reply.check_problem(405, "method-not-allowed", "use POST, not GET");
    assert_eq!(reply.headers["allow"], "POST");
    let request = server.client.delete(server.url("/metrics"));
    let reply = Reply::of(request.send().await.unwrap()).await;
    reply.check_problem(405, "method-not-allowed", "use GET");
    assert!(reply.headers["allow"].to_str().unwrap().contains("GET"));
    let unknown = "chalkstream_ingest_requests_total{route=\"other\",status=\"404\"}";
    assert_eq!(server.metric(unknown).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_are_listed_and_each_can_be_had() {
    let server = server().await;
    let list = server.get("/v1/schemas").await.json::<Value>().await.unwrap();
    let schemas = list["schemas"].as_array().unwrap();
    assert!(schemas.iter().any(|schema| schema["type"] == "answer_submitted"
        && schema["aliases"].as_array().unwrap().contains(&json!("question_submitted"))));
    for entry in schemas {
        let schema = server.get(entry["url"].as_str().unwrap()).await;
        assert_eq!(schema.headers()["content-type"], "application/schema+json");
        let schema = schema.json::<Value>().await.unwrap();
        assert_eq!(schema["$id"], entry["url"], "{entry}");
    }
    let alias = server.get("/v1/schemas/question_submitted").await.json::<Value>().await.unwrap();
    assert_eq!(alias["title"], "answer_submitted");
    let reply = Reply::of(server.get("/v1/schemas/nonsense").await).await;
    reply.check_problem(404, "not-found", "/v1/schemas lists them");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_series_starts_at_zero() {
    let server = server().await;
    let text = server.get("/metrics").await.text().await.unwrap();
    for series in [
        "chalkstream_ingest_events_received_total",
        "chalkstream_ingest_events_total{fate=\"accepted\"}",
        "chalkstream_ingest_events_total{fate=\"refused\"}",
        "chalkstream_ingest_events_in_flight",
        "chalkstream_ingest_events_rejected_total{reason=\"malformed_json\"}",
        "chalkstream_ingest_events_rejected_total{reason=\"unknown_user\"}",
        "chalkstream_ingest_events_refused_total{reason=\"unavailable\"}",
        "chalkstream_ingest_requests_total{route=\"/v1/events\",status=\"200\"}",
        "chalkstream_ingest_requests_total{route=\"/v1/events\",status=\"disconnected\"}",
        "chalkstream_ingest_request_duration_seconds_count",
        "chalkstream_ingest_append_duration_seconds_bucket{le=\"0.01\"}",
        "chalkstream_ingest_log_errors_total{call=\"commit\"}",
        "chalkstream_ingest_internal_errors_total{kind=\"undecided\"}",
        "chalkstream_ingest_internal_errors_total{kind=\"panic\"}",
    ] {
        assert!(text.contains(&format!("\n{series} 0\n")), "{series} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines().filter(|line| line.starts_with("# TYPE")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    assert_eq!(server.metric("chalkstream_ingest_events_total{fate=\"accepted\"}").await, 1);
    assert_eq!(server.metric("chalkstream_ingest_append_duration_seconds_count").await, 1);
    assert_eq!(server.metric("chalkstream_ingest_keys").await, 1);
}
