//! A closed-loop HTTP client: each connection sends its next batch when the last was answered.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::events::Generator;

/// What to send, and where.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) connections: u64,
    pub(crate) batch: usize,
    /// Batches that each connection sends.
    pub(crate) batches: u64,
    /// Wait so long between the starts of two batches of a connection; zero for as fast as possible.
    pub(crate) pace: Duration,
    /// Whether 429 is an answer like others, and not the end of the run.
    pub(crate) may_be_refused: bool,
    /// Separates the ids of this run from those of all others.
    pub(crate) run: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Events of all requests, refused ones included.
    pub(crate) events: u64,
    pub(crate) requests: u64,
    /// Requests that were answered with 429.
    pub(crate) refused: u64,
    pub(crate) seconds: f64,
    /// Milliseconds from a request's first byte to its answer's last, sorted.
    pub(crate) latencies_ms: Vec<f64>,
}

impl Outcome {
    pub(crate) fn events_per_second(&self) -> f64 {
        crate::float(self.events) / self.seconds
    }

    /// The latency that `share` (0..1) of all requests stay under, in milliseconds.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let last = self.latencies_ms.len().saturating_sub(1);
        let index = crate::round(crate::float(u64::try_from(last).unwrap_or(u64::MAX)) * share);
        self.latencies_ms.get(index).copied().unwrap_or(f64::NAN)
    }
}

/// Sends everything and returns when all of it was answered, with 200 where nothing may be refused.
pub(crate) async fn run(load: &Load) -> Result<Outcome> {
    let begun = Instant::now();
    let clients: Vec<_> =
        (0..load.connections).map(|stream| tokio::spawn(client(load.clone(), stream))).collect();
    let (mut latencies_ms, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (latencies, of_it) = client.await.context("a client stopped")??;
        latencies_ms.extend(latencies);
        refused += of_it;
    }
    latencies_ms.sort_by(f64::total_cmp);
    let requests = load.connections * load.batches;
    Ok(Outcome {
        events: requests * u64::try_from(load.batch)?,
        requests,
        refused,
        seconds: begun.elapsed().as_secs_f64(),
        latencies_ms,
    })
}

/// The latencies of its requests, and how many were refused.
async fn client(load: Load, stream: u64) -> Result<(Vec<f64>, u64)> {
    let tcp = TcpStream::connect(&load.address).await.context("could not connect")?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let driver = tokio::spawn(connection);
    let mut generator = Generator::new(load.run, stream);
    let (mut latencies, mut refused) = (Vec::new(), 0);
    let begun = Instant::now();
    for number in 0..load.batches {
        let body = Bytes::from(generator.batch(load.batch));
        let due = begun + load.pace * u32::try_from(number)?;
        tokio::time::sleep_until(due.into()).await;
        // Open loop: a request that had to wait for its predecessor counts from when it was due.
        let started = if load.pace.is_zero() { Instant::now() } else { due };
        let request = Request::post("/v1/events")
            .header("host", &load.address)
            .header("authorization", format!("Bearer {}", load.key))
            .header("content-type", "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        latencies.push(started.elapsed().as_secs_f64() * 1000.0);
        if status == StatusCode::TOO_MANY_REQUESTS && load.may_be_refused {
            refused += 1;
        } else if status != StatusCode::OK || names_refused(&answer) {
            bail!("answered {status}: {}", String::from_utf8_lossy(&answer));
        }
    }
    driver.abort();
    Ok((latencies, refused))
}

/// Whether an answer of Chalkstream says that events were refused; the floor answers a number.
fn names_refused(answer: &[u8]) -> bool {
    let none = b"\"refused\":0";
    answer.starts_with(b"{") && !answer.windows(none.len()).any(|part| part == none)
}
