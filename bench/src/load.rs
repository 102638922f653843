//! An HTTP client that sends batches of new events on a number of connections.
//!
//! Closed loop: a connection sends its next batch when the last was answered. Open loop
//! ([`Load::pace`]): a batch is due at a fixed time whatever became of those before, and its latency
//! counts from when it was due, so a server that stalls cannot hide what waited (no coordinated
//! omission).

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::events::Generator;
use crate::report::{float, round};

/// How bodies are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Gzip,
    Zstd,
}

impl Encoding {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn compress(self, body: &[u8]) -> Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let mut encoder =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(body)?;
                Ok(encoder.finish()?)
            }
            Self::Zstd => Ok(zstd::encode_all(body, zstd::DEFAULT_COMPRESSION_LEVEL)?),
        }
    }
}

/// When a connection has sent enough.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so many batches of its own.
    Batches(u64),
    /// After so long.
    Elapsed(Duration),
}

/// What to send, and where.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    /// `127.0.0.1:port`
    pub(crate) address: String,
    pub(crate) key: String,
    pub(crate) connections: u64,
    pub(crate) batch: usize,
    pub(crate) until: Until,
    /// Wait so long between the starts of two batches of a connection; zero for as fast as possible.
    pub(crate) pace: Duration,
    /// Whether 429 is an answer like others, and not the end of the run.
    pub(crate) may_be_refused: bool,
    /// Separates the ids of this run from those of all others.
    pub(crate) run: u64,
    pub(crate) encoding: Option<Encoding>,
    /// Make all bodies before the clock starts. Needs [`Until::Batches`].
    pub(crate) prepared: bool,
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
        float(self.events) / self.seconds
    }

    /// The latency that `share` (0..1) of all requests stay under, in milliseconds.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        percentile(&self.latencies_ms, share)
    }
}

/// Of sorted values, the one that `share` of all are not above.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = round(float(u64::try_from(last).unwrap_or(u64::MAX)) * share);
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Sends everything and returns when all of it was answered, with 200 where nothing may be refused.
pub(crate) async fn run(load: &Load) -> Result<Outcome> {
    let mut bodies = Vec::new();
    for stream in 0..load.connections {
        bodies.push(Bodies::new(load, stream)?);
    }
    let begun = Instant::now();
    let clients: Vec<_> = bodies
        .into_iter()
        .enumerate()
        .map(|(stream, bodies)| tokio::spawn(client(load.clone(), stream, bodies)))
        .collect();
    let (mut latencies_ms, mut refused) = (Vec::new(), 0);
    for client in clients {
        let (latencies, of_it) = client.await.context("a client stopped")??;
        latencies_ms.extend(latencies);
        refused += of_it;
    }
    let seconds = begun.elapsed().as_secs_f64();
    latencies_ms.sort_by(f64::total_cmp);
    let requests = u64::try_from(latencies_ms.len())?;
    let events = requests * u64::try_from(load.batch)?;
    Ok(Outcome { events, requests, refused, seconds, latencies_ms })
}

/// The bodies of one connection.
struct Bodies {
    generator: Generator,
    ready: std::vec::IntoIter<Vec<u8>>,
    batch: usize,
    encoding: Option<Encoding>,
}

impl Bodies {
    fn new(load: &Load, stream: u64) -> Result<Self> {
        let generator = Generator::new(load.run, stream);
        let (batch, encoding) = (load.batch, load.encoding);
        let mut bodies = Self { generator, ready: Vec::new().into_iter(), batch, encoding };
        if let (true, Until::Batches(batches)) = (load.prepared, load.until) {
            let ready = (0..batches).map(|_| bodies.make()).collect::<Result<Vec<_>>>()?;
            bodies.ready = ready.into_iter();
        }
        Ok(bodies)
    }

    fn make(&mut self) -> Result<Vec<u8>> {
        let plain = self.generator.batch(self.batch);
        match self.encoding {
            Some(encoding) => encoding.compress(&plain),
            None => Ok(plain),
        }
    }

    fn next(&mut self) -> Result<Bytes> {
        Ok(Bytes::from(match self.ready.next() {
            Some(body) => body,
            None => self.make()?,
        }))
    }
}

/// The latencies of its requests, and how many were refused.
async fn client(load: Load, stream: usize, mut bodies: Bodies) -> Result<(Vec<f64>, u64)> {
    let tcp = TcpStream::connect(&load.address).await.context("could not connect")?;
    tcp.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let driver = tokio::spawn(connection);
    let (mut latencies, mut refused) = (Vec::new(), 0);
    let started = Instant::now();
    // Connections take turns, or all of them would send at the same moment.
    let turn = load.pace.mul_f64(float(u64::try_from(stream)?) / float(load.connections));
    for number in 0_u32.. {
        let enough = match load.until {
            Until::Batches(batches) => u64::from(number) >= batches,
            Until::Elapsed(span) => started.elapsed() >= span,
        };
        if enough {
            break;
        }
        let body = bodies.next()?;
        let due = started + turn + load.pace * number;
        if !load.pace.is_zero() {
            tokio::time::sleep_until(due.into()).await;
        }
        let began = if load.pace.is_zero() { Instant::now() } else { due };
        let mut request = Request::post("/v1/events")
            .header("host", &load.address)
            .header("authorization", format!("Bearer {}", load.key))
            .header("content-type", "application/json");
        if let Some(encoding) = load.encoding {
            request = request.header("content-encoding", encoding.name());
        }
        let response = sender.send_request(request.body(Full::new(body))?).await?;
        let status = response.status();
        let answer = response.into_body().collect().await?.to_bytes();
        latencies.push(began.elapsed().as_secs_f64() * 1000.0);
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
