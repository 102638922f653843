//! Ten thousand bodies that nobody should send: a 4xx or rejections, never a 5xx, a hang, a crash.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::json;

use crate::compress::ENCODINGS;
use crate::harness::{Reply, Server, server};

const BODIES: usize = 10_000;
const SEED: u64 = 20_260_101;

/// Pieces that parsers trip over.
const PIECES: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\u0000",
    b"\\ud800",
    b"\xff\xfe",
    b"\xc0\x80",
    b"1e999",
    b"-0",
    b"99999999999999999999999",
    b"\0",
    b"\n",
    b"\r\n",
    b"\"id\":",
    b"\"events\":[",
    b"\"sent_at\":0,",
    b"\"type\":\"custom.\",",
    b"\"data\":[1],",
    b"2026-13-45T99:99:99Z",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    b"//",
    b"NaN",
    b"\xef\xbb\xbf",
];

struct Case {
    content_type: &'static str,
    encoding: Option<&'static str>,
    query: &'static str,
    body: Vec<u8>,
}

fn generate(server: &Server, random: &mut StdRng) -> Case {
    let mut events = (0..random.random_range(1..4)).map(|_| server.fresh()).collect::<Vec<_>>();
    if random.random_ratio(1, 4) {
        events[0]["data"] = json!({ "deep": [[[{ "a": [] }]]], "text": "\u{0}\u{1f600}" });
    }
    let content_type =
        *["application/json", "application/json", "application/x-ndjson"].choose(random).unwrap();
    let mut body = match random.random_range(0..4) {
        0 => events[0].to_string(),
        1 => json!(events).to_string(),
        2 => json!({ "events": events, "sent_at": "2026-01-01T00:00:00Z" }).to_string(),
        _ => events.iter().map(|event| format!("{event}\n")).collect(),
    }
    .into_bytes();
    match random.random_range(0..12) {
        0 => body = (0..random.random_range(0..400)).map(|_| random.random()).collect(),
        1 => body = PIECES.choose_multiple(random, 12).copied().collect::<Vec<_>>().concat(),
        2 => body = PIECES.choose(random).unwrap().repeat(random.random_range(1..3_000)),
        _ => mutate(&mut body, random),
    }
    let mut encoding = None;
    if random.random_ratio(1, 5) {
        let (name, compress) = ENCODINGS.choose(random).unwrap();
        (encoding, body) = (Some(*name), compress(&body));
        if random.random() {
            mutate(&mut body, random);
        }
    } else if random.random_ratio(1, 20) {
        encoding = ["gzip", "zstd", "br", "deflate", "compress"].choose(random).copied();
    }
    let query = if random.random_ratio(1, 3) { "?results=all" } else { "" };
    Case { content_type, encoding, query, body }
}

fn mutate(body: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..5) {
        if body.is_empty() {
            return;
        }
        let at = random.random_range(0..body.len());
        let end = (at + random.random_range(1..40)).min(body.len());
        match random.random_range(0..6) {
            0 => body[at] ^= 1 << random.random_range(0..8),
            1 => body[at] = random.random(),
            2 => body.truncate(at),
            3 => drop(body.drain(at..end)),
            4 => {
                let copy = body[at..end].to_vec();
                body.splice(at..at, copy);
            }
            _ => {
                let piece = PIECES.choose(random).unwrap();
                body.splice(at..at, piece.iter().copied());
            }
        }
    }
}

async fn check(server: &Server, case: Case) -> u16 {
    let Case { content_type, encoding, query, body } = case;
    let shown =
        format!("seed {SEED}: {content_type} {encoding:?} {:?}", String::from_utf8_lossy(&body));
    let mut request = server.post(query).header("content-type", content_type).body(body);
    if let Some(encoding) = encoding {
        request = request.header("content-encoding", encoding);
    }
    let reply =
        Reply::of(request.send().await.unwrap_or_else(|error| panic!("{error}: {shown}"))).await;
    match reply.status {
        200 | 422 => {
            let [accepted, duplicate, rejected, refused] = reply.tally();
            assert_eq!(refused, 0, "{shown} {reply:?}");
            let named = reply.body["results"].as_array().unwrap().len() as u64;
            let all = accepted + duplicate + rejected;
            assert_eq!(named, if query.is_empty() { all - accepted } else { all }, "{shown}");
            assert_eq!(reply.status == 422, all > 0 && rejected == all, "{shown} {reply:?}");
        }
        400 | 413 | 415 => {
            assert_eq!(reply.content_type, "application/problem+json", "{shown}");
            assert!(reply.body["detail"].as_str().unwrap().len() > 10, "{shown}");
        }
        _ => panic!("{shown} {reply:?}"),
    }
    let books = server.books();
    assert!(books.balanced() && books.undecided == 0, "{shown} {books:?}");
    reply.status
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_malformed_bodies_do_no_harm() {
    const WORKERS: usize = 16;
    let server = Arc::new(server().await);
    let workers = (0..WORKERS).map(|worker| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let mut random = StdRng::seed_from_u64(SEED + worker as u64);
            let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
            for _ in 0..BODIES / WORKERS {
                let case = generate(&server, &mut random);
                *statuses.entry(check(&server, case).await).or_default() += 1;
            }
            statuses
        })
    });
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    for worker in workers.collect::<Vec<_>>() {
        for (status, count) in worker.await.unwrap() {
            *statuses.entry(status).or_default() += count;
        }
    }
    println!("{statuses:?}");
    assert_eq!(statuses.values().sum::<usize>(), BODIES);
    // The generator reaches every kind of answer, else it would test little.
    for status in [200, 400, 415, 422] {
        assert!(statuses.get(&status).is_some_and(|count| *count > 50), "{status}: {statuses:?}");
    }
    server.check_conservation().await;
}
