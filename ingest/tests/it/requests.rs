//! Requests as a whole: shapes of bodies, compression, credentials, limits, problems.

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use chalkstream_access::{ByteSize, Span};
use chalkstream_ingest::IngestOptions;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::compress::{Compress, ENCODINGS, gzip, zstd};
use crate::harness::{LIMIT, Reply, Server, server, server_with};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");
const GZIP: (&str, &str) = ("content-encoding", "gzip");
const ZSTD: (&str, &str) = ("content-encoding", "zstd");

fn small() -> IngestOptions {
    IngestOptions {
        max_events: 3.try_into().unwrap(),
        max_body: ByteSize::kib(4),
        max_compressed_body: ByteSize::kib(1),
        max_event: ByteSize::kib(2),
        ..IngestOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_come_in_four_shapes() {
    let server = server().await;
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    server.send(&json!([server.fresh(), server.fresh()])).await.check(200, [2, 0, 0, 0]);
    server.send(&json!({ "events": [server.fresh()], "batch": 7 })).await.check(200, [1, 0, 0, 0]);
    let lines = format!("{}\r\n\n{{broken\n  {}", server.fresh(), server.fresh());
    for content_type in ["application/x-ndjson", "application/jsonl; charset=utf-8"] {
        let body = lines.clone().into_bytes();
        let reply = server.send_bytes(&[("content-type", content_type)], body).await;
        assert_eq!(reply.body["rejected"], 1, "{reply:?}");
        assert_eq!(
            reply.body["results"].as_array().unwrap().len(),
            if content_type == NDJSON.1 { 1 } else { 3 }
        );
        let broken = reply.body["results"].as_array().unwrap().iter().find(|r| r["index"] == 1);
        assert_eq!(broken.unwrap()["reason"], "malformed_json");
    }
    for empty in [json!([]), json!({ "events": [] })] {
        server.send(&empty).await.check(200, [0, 0, 0, 0]);
    }
    server.send_bytes(&[NDJSON], Vec::new()).await.check(200, [0, 0, 0, 0]);
    server
        .send_bytes(
            &[("content-type", "application/json; charset=UTF-8")],
            b"\xef\xbb\xbf[]".to_vec(),
        )
        .await
        .check(200, [0, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_bodies_are_read_in_all_their_forms() {
    let server = server().await;
    let batch = |events: usize| {
        // Of many learners, because one would come up against its limit.
        let learners = (0..events).map(|learner| {
            let mut event = server.fresh();
            event["user_id"] = json!(format!("learner-{learner}"));
            event
        });
        serde_json::to_vec(&learners.collect::<Vec<_>>()).unwrap()
    };
    for (name, compress) in ENCODINGS {
        let encoding = ("content-encoding", name);
        let reply = server.send_bytes(&[JSON, encoding], compress(&batch(700))).await;
        reply.check(200, [700, 0, 0, 0]);
        // In pieces, the first bytes alone.
        let packed = compress(&batch(2));
        let (first, rest) = packed.split_at(1);
        let pieces = [first, &rest[..1], &rest[1..]].map(<[u8]>::to_vec);
        let body = reqwest::Body::wrap(Chunks(pieces.into()));
        let request = server.post("").header(JSON.0, JSON.1).header(encoding.0, name).body(body);
        Reply::of(request.send().await.unwrap()).await.check(200, [2, 0, 0, 0]);
    }
    let identity = ("content-encoding", "identity");
    server.send_bytes(&[JSON, identity], batch(2)).await.check(200, [2, 0, 0, 0]);
    let x_gzip = ("content-encoding", "X-GZIP");
    server.send_bytes(&[JSON, x_gzip], gzip(&batch(2))).await.check(200, [2, 0, 0, 0]);
    // Several members, several frames: one stream each.
    let lines = format!("{}\n{}\n", server.fresh(), server.fresh()).into_bytes();
    for (header, compress) in [(GZIP, gzip as Compress), (ZSTD, zstd)] {
        let (first, second) = lines.split_at(100);
        let body = [compress(first), compress(b""), compress(second)].concat();
        let reply = server.send_bytes(&[NDJSON, header], body).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        assert_eq!(reply.tally()[0] + reply.tally()[1], 2);
    }
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_compression_is_a_400() {
    let server = server().await;
    let body = serde_json::to_vec(&json!([server.fresh(), server.fresh()])).unwrap();
    for (name, compress) in ENCODINGS {
        let (header, packed) = (("content-encoding", name), compress(&body));
        for cut in [1, 4, packed.len() / 2, packed.len() - 1] {
            let reply = server.send_bytes(&[JSON, header], packed[..cut].to_vec()).await;
            reply.check_problem(400, "broken-compression", header.1);
        }
        server.send_bytes(&[JSON, header], body.clone()).await.check_problem(
            400,
            "broken-compression",
            "",
        );
        server.send_bytes(&[JSON, header], Vec::new()).await.check_problem(
            400,
            "broken-compression",
            "",
        );
        for rest in [&b"\0"[..], b"x", b"garbage", &packed[..packed.len() - 1]] {
            let trailing = [&packed[..], rest].concat();
            let reply = server.send_bytes(&[JSON, header], trailing).await;
            reply.check_problem(400, "broken-compression", "");
        }
    }
    // A window that would cost 128 MiB.
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.write_all(&body).unwrap();
    let wide = encoder.finish().unwrap();
    server.send_bytes(&[JSON, ZSTD], wide).await.check_problem(400, "broken-compression", "zstd");
    assert_eq!(server.books().received, 0);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_body_is_a_400_with_line_and_column() {
    let server = server().await;
    let reply = server.send_bytes(&[JSON], b"[{\"id\": 1},\n  {\"id\" 2}]".to_vec()).await;
    reply.check_problem(400, "broken-body", "line 2 column 9");
    assert_eq!((&reply.body["line"], &reply.body["column"]), (&json!(2), &json!(9)));
    for (body, detail) in [
        ("", "empty"),
        ("{\"events\": [], \"events\": []}", "`events` twice"),
        ("{\"events\": {}}", "array of events"),
        ("{\"events\": [], \"sent_at\": \"now\"}", "sent_at"),
        ("{}\n{}", "application/x-ndjson"),
        ("nonsense", "line 1 column 1"),
        ("\"text\"", "an array of events"),
    ] {
        let reply = server.send_bytes(&[JSON], body.into()).await;
        reply.check_problem(400, "broken-body", detail);
    }
    server.send_bytes(&[JSON], b"[\"\xff\"]".to_vec()).await.check_problem(
        400,
        "broken-body",
        "line 1",
    );
    // A repeated key inside an event is that event's fault alone.
    let twice = server.fresh().to_string().replacen('{', "{\"type\":\"login\",", 1);
    let body = format!("[{twice},{}]", server.fresh());
    server.send_bytes(&[JSON], body.into_bytes()).await.check(200, [1, 0, 1, 0]);
    assert_eq!(server.books().received, 2);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_a_415_that_names_what_can() {
    let server = server().await;
    for content_type in ["text/plain", "multipart/form-data", "application/json; charset=latin1"] {
        let reply = server.send_bytes(&[("content-type", content_type)], b"[]".to_vec()).await;
        reply.check_problem(415, "unsupported-type", "application/x-ndjson");
    }
    server.send_bytes(&[], b"[]".to_vec()).await.check_problem(
        415,
        "unsupported-type",
        "application/json",
    );
    for encoding in ["compress", "gzip, zstd", "br, br", "nonsense"] {
        let reply =
            server.send_bytes(&[JSON, ("content-encoding", encoding)], b"[]".to_vec()).await;
        reply.check_problem(415, "unsupported-encoding", "gzip, zstd");
        assert_eq!(reply.headers["accept-encoding"], "gzip, zstd, br, deflate, identity");
    }
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_a_413() {
    let server = server_with(small()).await;
    let events = |n| json!((0..n).map(|_| server.fresh()).collect::<Vec<_>>());
    server.send(&events(3)).await.check(200, [3, 0, 0, 0]);
    server.send(&events(4)).await.check_problem(413, "too-many-events", "at most 3");
    server.send(&json!({ "events": events(4) })).await.check_problem(413, "too-many-events", "3");
    let lines = format!("{}\n", server.fresh()).repeat(4);
    server.send_bytes(&[NDJSON], lines.into()).await.check_problem(413, "too-many-events", "3");

    let large = json!([{ "x": "y".repeat(4 << 10) }]).to_string();
    server.send_bytes(&[JSON], large.clone().into()).await.check_problem(
        413,
        "body-too-large",
        "4KiB",
    );
    for (name, compress) in ENCODINGS {
        let packed = compress(large.as_bytes());
        assert!(packed.len() < 1 << 10);
        let reply = server.send_bytes(&[JSON, ("content-encoding", name)], packed).await;
        reply.check_problem(413, "body-too-large", "4KiB");
    }
    let noise = (0..2_000_u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect::<Vec<_>>();
    server.send_bytes(&[JSON, GZIP], gzip(&noise)).await.check_problem(
        413,
        "body-too-large",
        "compressed body is larger than 1KiB",
    );
    // Without a length, so that it is found out while reading.
    let chunks = futures_chunks(large.into_bytes());
    let request = server.post("").header(JSON.0, JSON.1).body(reqwest::Body::wrap(chunks));
    Reply::of(request.send().await.unwrap()).await.check_problem(413, "body-too-large", "4KiB");
    // A huge body is read no further, yet its sender sees why.
    let huge = vec![b' '; 20 << 20];
    server.send_bytes(&[JSON], huge).await.check_problem(413, "body-too-large", "4KiB");
    assert_eq!(server.books().received, 3);
    server.check_conservation().await;
}

/// A body whose length is not known before.
fn futures_chunks(bytes: Vec<u8>) -> Chunks {
    Chunks(bytes.chunks(500).map(<[u8]>::to_vec).collect())
}

struct Chunks(std::collections::VecDeque<Vec<u8>>);

impl hyper::body::Body for Chunks {
    type Data = bytes::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, std::io::Error>>> {
        let chunk = self.0.pop_front();
        std::task::Poll::Ready(chunk.map(|chunk| Ok(hyper::body::Frame::data(chunk.into()))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_needed_and_never_shown() {
    let server = server().await;
    let events = server.url("/v1/events");
    let basic = |user: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:"));
        format!("Basic {pair}")
    };
    let good =
        [format!("Bearer {}", server.key), format!("bearer  {}", server.key), basic(&server.key)];
    for authorization in good {
        let request = server.client.post(&events).header("authorization", authorization);
        Reply::of(request.json(&json!([])).send().await.unwrap()).await.check(200, [0, 0, 0, 0]);
    }
    let wrong_key = server.key.replace("csk_", "csk_0");
    for (authorization, slug) in [
        (String::new(), "missing-credential"),
        ("Bearer".to_owned(), "missing-credential"),
        ("Basic %%%".to_owned(), "missing-credential"),
        ("Digest x".to_owned(), "missing-credential"),
        (basic(""), "missing-credential"),
        (format!("Bearer {wrong_key}"), "unknown-key"),
        (basic(&wrong_key), "unknown-key"),
    ] {
        let mut request = server.client.post(&events).json(&json!([server.fresh()]));
        if !authorization.is_empty() {
            request = request.header("authorization", &authorization);
        }
        let reply = Reply::of(request.send().await.unwrap()).await;
        reply.check_problem(401, slug, "chalkstream keys create");
        assert!(reply.headers.contains_key("www-authenticate"));
        assert!(!reply.body.to_string().contains(&wrong_key));
    }
    assert_eq!(server.books().received, 0);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_is_not_understood_stores_nothing() {
    let server = server().await;
    for query in ["?validate=yes", "?results=al", "?token=csk_secret"] {
        let reply = server.send_to(query, &server.fresh()).await;
        reply.check_problem(400, "broken-query", "results=all");
        assert!(!reply.body.to_string().contains("secret"));
    }
    assert!(server.events().await.is_empty());
    server.check_conservation().await;
}

/// Sends raw bytes and reads until the server closes, or for a while.
async fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(LIMIT, async {
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            answer.extend_from_slice(&buffer[..read]);
            // The problem's JSON object ends the answer.
            if read == 0 || answer.ends_with(b"}") {
                return;
            }
        }
    })
    .await
    .expect("no answer");
    String::from_utf8(answer).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_is_a_408() {
    let options = IngestOptions { body_timeout: Span::millis(200), ..IngestOptions::default() };
    let server = server_with(options).await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n[",
        server.key
    );
    let answer = raw(&server, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("retry-after: 1"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_too_much_need_not_send_it() {
    let server = server().await;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\ncontent-length: 50000000\r\nexpect: 100-continue\r\n\r\n",
        server.key
    );
    let answer = raw(&server, head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_headers_are_cut_off() {
    let options = IngestOptions { header_timeout: Span::millis(200), ..IngestOptions::default() };
    let server = server_with(options).await;
    let started = std::time::Instant::now();
    raw(&server, b"POST /v1/events HTTP/1.1\r\nhost:").await;
    assert!(started.elapsed() < Duration::from_secs(10));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_in_flight_are_bounded_and_refused_at_the_door() {
    let options = IngestOptions {
        max_body: ByteSize::kib(64),
        max_event: ByteSize::kib(64),
        max_in_flight: ByteSize::kib(64),
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let batch = || json!((0..200).map(|_| server.fresh()).collect::<Vec<_>>());
    server.log.close_gate();
    let (first, _refused) = tokio::join!(async { server.send(&batch()).await }, async {
        server.log.arrived(1).await;
        assert!(server.metric("chalkstream_ingest_in_flight_bytes").await > 20_000);
        let body: Value = batch();
        let reply = server.send(&body).await;
        reply.check_problem(503, "busy", "Retry-After");
        // The same, found out while it is decompressed.
        let packed = gzip(body.to_string().as_bytes());
        let reply = server.send_bytes(&[JSON, GZIP], packed).await;
        reply.check_problem(503, "busy", "Retry-After");
        server.log.open_gate();
    });
    first.check(200, [200, 0, 0, 0]);
    server.send(&batch()).await.check(200, [200, 0, 0, 0]);
    server.check_conservation().await;
}
