//! Browsers ask before they send, and read answers only where they may.

use chalkstream_access::CorsOptions;
use chalkstream_ingest::IngestOptions;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::json;

use crate::harness::{Server, server, server_with};

const PAGE: &str = "https://app.example";

async fn open_to(origins: &[&str]) -> Server {
    let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
    let cors = CorsOptions { origins, ..CorsOptions::default() };
    server_with(IngestOptions { cors, ..IngestOptions::default() }).await
}

/// What a browser asks before it posts JSON with a key.
async fn preflight(server: &Server, path: &str, origin: &str) -> (u16, HeaderMap) {
    let answer = server
        .client
        .request(Method::OPTIONS, server.url(path))
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "POST")
        .header("Access-Control-Request-Headers", "authorization,content-encoding,content-type")
        .send()
        .await
        .unwrap();
    (answer.status().as_u16(), answer.headers().clone())
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_on_the_list_may_ask_send_and_read() {
    let server = open_to(&["https://other.example", PAGE]).await;
    let (status, headers) = preflight(&server, "/v1/events", PAGE).await;
    assert_eq!(status, 200);
    assert_eq!(text(&headers, "access-control-allow-origin"), PAGE);
    assert!(text(&headers, "access-control-allow-methods").contains("POST"));
    let allowed = text(&headers, "access-control-allow-headers").to_ascii_lowercase();
    for header in ["authorization", "content-type", "content-encoding", "chalkstream-school"] {
        assert!(allowed.contains(header), "{header}: {allowed}");
    }
    assert_eq!(text(&headers, "access-control-max-age"), "600");
    assert!(text(&headers, "vary").to_ascii_lowercase().contains("origin"));
    assert!(headers.get("access-control-allow-credentials").is_none());

    let event = server.fresh();
    let answer = server.post("").header("Origin", PAGE).json(&event).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 200);
    assert_eq!(text(answer.headers(), "access-control-allow-origin"), PAGE);
    let exposed = text(answer.headers(), "access-control-expose-headers").to_ascii_lowercase();
    assert_eq!(exposed, "retry-after");
    // A problem can be read by the page, too.
    let wrong = server.client.post(server.url("/v1/events")).bearer_auth("csk_wrong");
    let answer = wrong.header("Origin", PAGE).json(&json!([])).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 401);
    assert_eq!(text(answer.headers(), "access-control-allow-origin"), PAGE);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_not_on_the_list_may_not() {
    for (server, origin) in [
        (open_to(&[PAGE]).await, "https://evil.example"),
        (open_to(&[PAGE]).await, "https://app.example.evil.example"),
        (open_to(&[PAGE]).await, "http://app.example"),
        (open_to(&[PAGE]).await, "null"),
        (server().await, PAGE),
    ] {
        let (_status, headers) = preflight(&server, "/v1/events", origin).await;
        assert!(headers.get("access-control-allow-origin").is_none(), "{origin}: {headers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_page_may_if_the_list_says_so_but_only_under_v1() {
    let server = open_to(&["*"]).await;
    let (_, headers) = preflight(&server, "/v1/events", "https://any.example").await;
    assert_eq!(text(&headers, "access-control-allow-origin"), "https://any.example");
    for path in ["/metrics", "/readyz", "/openapi.json"] {
        let request = server.client.get(server.url(path)).header("Origin", PAGE);
        let answer = request.send().await.unwrap();
        assert!(answer.headers().get("access-control-allow-origin").is_none(), "{path}");
    }
}

#[test]
fn an_origin_that_no_browser_sends_is_named() {
    for origin in ["app.example", "https://app.example/", "https://*.example/x", ""] {
        let cors = CorsOptions { origins: vec![origin.to_owned()], ..CorsOptions::default() };
        let options = IngestOptions { cors, ..IngestOptions::default() };
        let error = options.validate().unwrap_err().to_string();
        assert!(error.contains("ingest.cors.origins") && error.contains(origin), "{error}");
    }
}
