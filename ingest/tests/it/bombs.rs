//! Bodies that expand a thousandfold: refused before memory grows.

use std::io::{Read as _, Write as _};

use chalkstream_access::ByteSize;
use chalkstream_ingest::IngestOptions;

use crate::compress::{gzip, zstd};
use crate::harness::server_with;

const CHILD: &str = "CHALKSTREAM_TEST_BOMBS";
/// What one bomb of this test expands to.
const EXPANDED_BYTES: usize = 512 << 20;
/// How much the process may grow while a hundred of them arrive, sixteen at a time.
const GROWTH_MAX_BYTES: usize = 160 << 20;

/// Memory is a process's own, so the measurement runs in one without other tests.
#[test]
fn a_bomb_is_refused_before_memory_grows() {
    if std::env::var_os(CHILD).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(throw_bombs());
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "bombs::a_bomb_is_refused_before_memory_grows", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("1 passed") && said.contains("grew by"), "{said}");
}

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
}

/// Made in small steps: what they expand to must not be in the baseline.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let piece = vec![b' '; 8 << 20];
    let pieces = EXPANDED_BYTES / piece.len();
    let fast = flate2::Compression::fast();
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), fast);
    let mut raw = flate2::write::DeflateEncoder::new(Vec::new(), fast);
    for _ in 0..pieces {
        zlib.write_all(&piece).unwrap();
        raw.write_all(&piece).unwrap();
    }
    let mut brotli = Vec::new();
    let parameters = brotli::enc::BrotliEncoderParams { quality: 3, ..Default::default() };
    let mut spaces = std::io::repeat(b' ').take(EXPANDED_BYTES as u64);
    brotli::BrotliCompress(&mut spaces, &mut brotli, &parameters).unwrap();
    vec![
        ("gzip", gzip(&piece).repeat(pieces)),
        ("zstd", zstd(&piece).repeat(pieces)),
        ("br", brotli),
        ("deflate", zlib.finish().unwrap()),
        ("deflate", raw.finish().unwrap()),
    ]
}

async fn throw_bombs() {
    let options = IngestOptions { max_in_flight: ByteSize::mib(32), ..IngestOptions::default() };
    let server = server_with(options).await;
    let bombs = bombs();
    // What the client itself needs is in the baseline.
    let headers = |encoding| [("content-type", "application/json"), ("content-encoding", encoding)];
    for (encoding, bomb) in &bombs {
        assert!(bomb.len() < 8 << 20, "{encoding} {}", bomb.len());
        let reply = server.send_bytes(&headers(encoding), bomb.clone()).await;
        reply.check_problem(413, "body-too-large", "10MiB");
    }
    let before = resident_bytes();
    let server = std::sync::Arc::new(server);
    let mut too_large = 0;
    for _ in 0..6 {
        let tasks = (0..16).map(|n| {
            let (encoding, bomb) = bombs[n % bombs.len()].clone();
            let server = std::sync::Arc::clone(&server);
            tokio::spawn(async move { server.send_bytes(&headers(encoding), bomb).await })
        });
        for task in tasks.collect::<Vec<_>>() {
            let reply = task.await.unwrap();
            // Where the bytes in flight were at a limit before this body was: 503 if at that of all,
            // 429 if at the key's own.
            match reply.status {
                413 => too_large += 1,
                429 => _ = reply.check_problem(429, "rate-limited", "bytes"),
                503 => _ = reply.check_problem(503, "busy", ""),
                _ => panic!("{reply:?}"),
            }
        }
    }
    let grew = resident_bytes().saturating_sub(before);
    println!("grew by {} MiB, {too_large} of 96 were 413", grew >> 20);
    assert!(grew < GROWTH_MAX_BYTES, "grew by {grew} bytes");
    assert!(too_large > 0);
    assert_eq!(server.books().received, 0);
    server.check_conservation().await;
}
