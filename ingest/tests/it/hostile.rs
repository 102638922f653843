//! Bodies and connections that mean harm, each handled as the design says; bombs are in `bombs`.

use std::time::Duration;

use chalkstream_access::{Clock as _, Span};
use chalkstream_ingest::IngestOptions;
use chalkstream_schemas::proto::events::v1::{AnswerSubmitted, EventBatch, LearningEvent};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::compress::ENCODINGS;
use crate::harness::{LIMIT, Server, server, server_with};

const JSON: (&str, &str) = ("content-type", "application/json");
const NDJSON: (&str, &str) = ("content-type", "application/x-ndjson");

/// The text of a valid event, with one piece put in place of another.
fn event_with(server: &Server, piece: &str, by: &str) -> String {
    let text = server.fresh().to_string();
    assert!(text.contains(piece), "{text}");
    text.replacen(piece, by, 1)
}

/// The event is rejected, its neighbours are taken, in every form of a body.
async fn check_rejected(server: &Server, event: &str, reason: &str, field: Option<&str>) {
    let good = || server.fresh();
    let lines = format!("{}\n{}\n{}", good(), event.replace('\n', " "), good());
    let array = format!("[{},{event},{}]", good(), good());
    let batch = format!("{{\"events\":[{},{event},{}]}}", good(), good());
    for (content_type, body) in [(NDJSON, lines), (JSON, array), (JSON, batch)] {
        let reply = server.send_bytes(&[content_type], body.into_bytes()).await;
        reply.check(200, [2, 0, 1, 0]);
        let result = &reply.body["results"][0];
        assert_eq!((&result["index"], &result["reason"]), (&json!(1), &json!(reason)), "{reply:?}");
        assert_eq!(result["field"].as_str(), field, "{reply:?}");
    }
    server.send_bytes(&[JSON], event.to_owned().into_bytes()).await.check(422, [0, 0, 1, 0]);
}

/// The event is taken, and kept as it was sent.
async fn check_kept(server: &Server, event: &str, part: &str) {
    server.send_bytes(&[JSON], event.to_owned().into_bytes()).await.check(200, [1, 0, 0, 0]);
    server.send_bytes(&[JSON], event.to_owned().into_bytes()).await.check(200, [0, 1, 0, 0]);
    let kept = server.events().await;
    assert!(
        kept.iter().any(|event| event.data.contains(part) || event.extra.contains(part)),
        "{part}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_nesting_is_the_fault_of_its_event() {
    let server = server().await;
    let nested = |open: &str, close: &str, levels: usize| {
        let value = format!("{}1{}", open.repeat(levels), close.repeat(levels));
        event_with(&server, "\"correct\":true", &format!("\"correct\":true,\"deep\":{value}"))
    };
    check_rejected(&server, &nested("[", "]", 63), "malformed_json", None).await;
    check_rejected(&server, &nested("{\"a\":", "}", 5_000), "malformed_json", None).await;
    check_rejected(&server, &nested("[", "]", 30_000), "malformed_json", None).await;
    check_kept(&server, &nested("[", "]", 62), &"[".repeat(62)).await;
    // Five million brackets, closed or not.
    let reply = server.send_bytes(&[JSON], b"[".repeat(5 << 20)).await;
    reply.check_problem(400, "broken-body", "line 1");
    let closed = [b"[".repeat(5 << 20), b"]".repeat(5 << 20)].concat();
    server.send_bytes(&[JSON], closed).await.check(422, [0, 0, 1, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_numbers_are_refused_where_they_are_read_and_kept_where_they_are_not() {
    let server = server().await;
    let with = |member: &str| {
        event_with(&server, "\"correct\":true", &format!("\"correct\":true,{member}"))
    };
    for number in ["1e400", "-1e400", "1e16", "99999999999999999999999999", &"9".repeat(50_000)] {
        let score = with(&format!("\"points\":{number}"));
        check_rejected(&server, &score, "invalid_field", Some("data.points")).await;
        let time = with(&format!("\"time_taken_ms\":{number}"));
        check_rejected(&server, &time, "invalid_field", Some("data.time_taken_ms")).await;
        let unknown = format!("\"unknown\":{number}");
        check_kept(&server, &with(&unknown), &unknown).await;
    }
    check_rejected(
        &server,
        &with("\"hints_used\":4294967296"),
        "invalid_field",
        Some("data.hints_used"),
    )
    .await;
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_rejects_its_event_wherever_it_would_count() {
    let server = server().await;
    let twice = |name: &str, value: &str| {
        event_with(&server, "{\"data\"", &format!("{{\"{name}\":{value},\"data\""))
    };
    check_rejected(&server, &twice("user_id", "\"eve\""), "malformed_json", None).await;
    check_rejected(&server, &twice("\\u0069d", "\"other\""), "malformed_json", None).await;
    check_rejected(&server, &twice("data", "{}"), "malformed_json", None).await;
    let in_data = event_with(&server, "\"correct\":true", "\"correct\":true,\"correct\":false");
    check_rejected(&server, &in_data, "malformed_json", None).await;
    // Under an alias it is a second value, too.
    let alias = twice("client_attempt_id", "\"other\"");
    check_rejected(&server, &alias, "invalid_field", Some("id")).await;
    // What nobody reads is kept as it came.
    let nested = "\"mine\":{\"a\":1,\"a\":2}";
    let kept = event_with(&server, "\"correct\":true", &format!("\"correct\":true,{nested}"));
    check_kept(&server, &kept, nested).await;
    let body = format!("{{\"events\":[],\"x\":{{}},\"events\":[{}]}}", server.fresh());
    let reply = server.send_bytes(&[JSON], body.into_bytes()).await;
    reply.check_problem(400, "broken-body", "`events` twice");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_utf_8_is_refused_with_its_line_or_its_body() {
    let server = server().await;
    for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc3"] {
        let event = server.fresh().to_string();
        let (head, tail) = event.split_once("q1").unwrap();
        let broken = [head.as_bytes(), bytes, tail.as_bytes()].concat();
        let lines = [broken.as_slice(), b"\n", server.fresh().to_string().as_bytes()].concat();
        let reply = server.send_bytes(&[NDJSON], lines).await;
        reply.check(200, [1, 0, 1, 0]);
        assert_eq!(reply.body["results"][0]["reason"], "malformed_json");
        let array = [b"[", broken.as_slice(), b"]"].concat();
        let reply = server.send_bytes(&[JSON], array).await;
        reply.check_problem(400, "broken-body", "line 1");
        // The raw bytes are kept as they came.
        assert!(server.rejected().await.iter().any(|kept| kept.raw == broken));
    }
    // Half of a surrogate pair is UTF-8, and no text.
    let half = event_with(&server, "q1", "\\ud800");
    check_rejected(&server, &half, "malformed_json", None).await;
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_hold_no_control_characters() {
    let server = server().await;
    let now = server.clock.now().to_string();
    for control in ['\0', '\u{1}', '\n', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}'] {
        let bad = format!("a{control}b");
        for (field, pointer) in [
            ("id", "/id"),
            ("user_id", "/user_id"),
            ("session_id", "/session_id"),
            ("data.item_id", "/data/item_id"),
        ] {
            let mut event = server.fresh();
            event["session_id"] = json!("s");
            *event.pointer_mut(pointer).unwrap() = json!(bad);
            let reply = server.send(&event).await;
            reply.check(422, [0, 0, 1, 0]);
            let result = &reply.body["results"][0];
            assert_eq!(
                (&result["reason"], &result["field"]),
                (&json!("invalid_field"), &json!(field))
            );
            let message = result["message"].as_str().unwrap();
            assert!(message.contains(&format!("U+{:04X}", u32::from(control))), "{message}");
            assert!(!message.contains(control), "{message:?}");
        }
        // By protobuf, too.
        let mut event = server.fresh();
        let answer = AnswerSubmitted {
            item_id: Some(bad.clone()),
            correct: Some(true),
            ..AnswerSubmitted::default()
        };
        let message = LearningEvent {
            id: event["id"].take().as_str().map(str::to_owned),
            user_id: Some("ada".to_owned()),
            occurred_at: Some(prost_types::Timestamp::default()),
            payload: Some(
                chalkstream_schemas::proto::events::v1::learning_event::Payload::AnswerSubmitted(
                    answer,
                ),
            ),
            ..LearningEvent::default()
        };
        let batch = EventBatch { events: vec![message], ..EventBatch::default() };
        let headers = [("content-type", "application/x-protobuf")];
        let reply = server.send_bytes(&headers, batch.encode_to_vec()).await;
        reply.check(422, [0, 0, 1, 0]);
        assert_eq!(reply.body["results"][0]["field"], "data.item_id");
    }
    // In what is no id they are text.
    let page = |page: &str| {
        json!({
            "id": uuid::Uuid::new_v4(), "type": "page_view", "user_id": "ada", "occurred_at": now,
            "data": { "page": page },
        })
    };
    server.send(&page("a\u{0}b\n")).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}

/// Sends a head, then the same piece over and over until the server has had enough, and reads what
/// it answers.
async fn pour(server: &Server, head: &str, piece: &[u8], bytes: usize) -> String {
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let (head, piece) = (head.to_owned(), piece.to_vec());
    let writer = tokio::spawn(async move {
        if write.write_all(head.as_bytes()).await.is_err() {
            return;
        }
        let mut sent = 0;
        while sent < bytes {
            // The server may close before all is sent.
            if write.write_all(&piece).await.is_err() {
                return;
            }
            sent += piece.len();
        }
    });
    let mut answer = Vec::new();
    let whole = async {
        let mut buffer = [0; 4096];
        while let Ok(read) = read.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..read]);
            if read == 0 || answer.ends_with(b"}") {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, whole).await.expect("no answer");
    writer.abort();
    String::from_utf8(answer).unwrap()
}

fn head(server: &Server, more: &str) -> String {
    format!(
        "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{more}\r\n",
        server.key
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_megabytes_are_refused_and_the_sender_hears_why() {
    const BYTES: usize = 100 << 20;
    let server = server().await;
    let mebibyte = vec![b' '; 1 << 20];
    let check = |answer: &str| {
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
        assert!(answer.contains("body-too-large"), "{answer}");
    };
    // Announced, and read no further than it takes to be heard.
    let announced = head(&server, &format!("content-length: {BYTES}\r\n"));
    check(&pour(&server, &announced, &mebibyte, BYTES).await);
    // In chunks, which announce nothing.
    let chunk = [b"100000\r\n", mebibyte.as_slice(), b"\r\n"].concat();
    let chunked = head(&server, "transfer-encoding: chunked\r\n");
    check(&pour(&server, &chunked, &chunk, BYTES).await);
    // As data that does not compress, under every encoding's limit on what is sent.
    for encoding in ["gzip", "zstd", "br", "deflate"] {
        let more = format!("content-encoding: {encoding}\r\ncontent-length: {BYTES}\r\n");
        check(&pour(&server, &head(&server, &more), &mebibyte, BYTES).await);
    }
    // The server is as it was.
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_drip_are_cut_off_and_harm_nobody() {
    const EACH: usize = 40;
    let options = IngestOptions {
        header_timeout: Span::millis(700),
        body_timeout: Span::millis(700),
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let drip = |start: String, piece: &'static [u8]| {
        let address = server.address();
        tokio::spawn(async move {
            let (mut read, mut write) = TcpStream::connect(address).await.unwrap().into_split();
            let dripping = tokio::spawn(async move {
                let mut ended = write.write_all(start.as_bytes()).await.is_err();
                while !ended {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    ended = write.write_all(piece).await.is_err();
                }
            });
            let mut answer = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(read @ 1..) = read.read(&mut buffer).await {
                answer.extend_from_slice(&buffer[..read]);
            }
            dripping.abort();
            String::from_utf8(answer).unwrap()
        })
    };
    let headers =
        (0..EACH).map(|_| drip("POST /v1/events HTTP/1.1\r\nhost: x\r\n".to_owned(), b"x: y\r\n"));
    let headers = headers.collect::<Vec<_>>();
    let large = head(&server, "content-length: 1000000\r\n");
    let bodies = (0..EACH).map(|_| drip(large.clone(), b" ")).collect::<Vec<_>>();
    let chunks = head(&server, "transfer-encoding: chunked\r\n");
    let chunks = (0..EACH).map(|_| drip(chunks.clone(), b"1\r\n \r\n")).collect::<Vec<_>>();
    let packed = head(&server, "content-encoding: br\r\ncontent-length: 1000000\r\n");
    let packed = (0..EACH).map(|_| drip(packed.clone(), b"\x0b")).collect::<Vec<_>>();
    // Others are served meanwhile.
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    for (name, clients) in
        [("headers", headers), ("bodies", bodies), ("chunks", chunks), ("br", packed)]
    {
        for client in clients {
            let answer = tokio::time::timeout(LIMIT, client).await.expect("never cut off").unwrap();
            match name {
                "headers" => assert!(!answer.contains("200 OK"), "{answer}"),
                // What it drips may also be found to be no brotli.
                "br" => assert!(answer.starts_with("HTTP/1.1 40"), "{answer}"),
                _ => assert!(answer.starts_with("HTTP/1.1 408"), "{name}: {answer}"),
            }
        }
    }
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_streams_of_every_encoding_end_in_an_answer() {
    let server = server().await;
    let body = serde_json::to_vec(&json!([server.fresh(), server.fresh()])).unwrap();
    for (encoding, compress) in ENCODINGS {
        let packed = compress(&body);
        for at in 0..packed.len() {
            let mut damaged = packed.clone();
            damaged[at] ^= 1 << (at % 8);
            let headers = [JSON, ("content-encoding", encoding)];
            let reply = server.send_bytes(&headers, damaged).await;
            // Without a checksum damage may look like another body.
            assert!([200, 400, 413, 422].contains(&reply.status), "{encoding} {at} {reply:?}");
            assert_ne!(reply.body, Value::Null, "{encoding} {at}");
        }
    }
    server.check_conservation().await;
}
