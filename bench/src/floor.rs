//! The floor: the least that a server can do and still be useful. It reads a body, parses each
//! event's id and learner, produces it to Kafka and answers once all are acknowledged. It
//! validates nothing, knows no keys and does not deduplicate.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, DeliveryResult, ProducerContext, ThreadedProducer};
use serde::Deserialize;
use sonic_rs::LazyValue;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::report::say;

const TOPIC: &str = "floor.events";
/// As long as Kafka's own clients wait by default.
const LINGER_MS: &str = "5";

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    user_id: &'a str,
}

/// One request's records: counts down as they are acknowledged.
struct Pending {
    open: AtomicUsize,
    failed: AtomicUsize,
    done: Notify,
}

struct Acknowledge;

impl ClientContext for Acknowledge {}

impl ProducerContext for Acknowledge {
    type DeliveryOpaque = Arc<Pending>;

    fn delivery(&self, result: &DeliveryResult<'_>, request: Self::DeliveryOpaque) {
        if result.is_err() {
            request.failed.fetch_add(1, Ordering::Relaxed);
        }
        if request.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            request.done.notify_one();
        }
    }
}

/// The floor in a process of its own, as Chalkstream is; killed when dropped.
#[derive(Debug)]
pub(crate) struct Floor {
    process: Child,
    pub(crate) address: String,
}

impl Floor {
    pub(crate) fn start(kafka: &str) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args(["floor", "--kafka", kafka])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("could not start the floor server")?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("the floor server has an output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let address = line.trim().to_owned();
        anyhow::ensure!(!address.is_empty(), "the floor server did not start");
        Ok(Self { process, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        if self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}

/// Serves on a free port, whose address it prints, until the process is killed.
pub(crate) async fn serve(brokers: &str) -> Result<()> {
    create_topic(brokers).await?;
    let producer: ThreadedProducer<Acknowledge> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", LINGER_MS)
        .set("batch.num.messages", "10000")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(Acknowledge)
        .context("could not make the floor's producer")?;
    let producer = Arc::new(producer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&listener.local_addr()?.to_string());
    loop {
        let (stream, _peer) = listener.accept().await?;
        let producer = Arc::clone(&producer);
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        tokio::spawn(http1::Builder::new().serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| answer(Arc::clone(&producer), request)),
        ));
    }
}

async fn answer(
    producer: Arc<ThreadedProducer<Acknowledge>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let events: Vec<LazyValue<'_>> = sonic_rs::from_slice(&body)?;
    let request = Arc::new(Pending {
        open: AtomicUsize::new(events.len()),
        failed: AtomicUsize::new(0),
        done: Notify::new(),
    });
    for raw in &events {
        let event: Event<'_> = sonic_rs::from_str(raw.as_raw_str())?;
        let mut record = BaseRecord::with_opaque_to(TOPIC, Arc::clone(&request))
            .key(event.user_id)
            .payload(raw.as_raw_str());
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Err((error, _record)) => return Err(error.into()),
            }
        }
    }
    if !events.is_empty() {
        request.done.notified().await;
    }
    let status = if request.failed.load(Ordering::Relaxed) == 0 {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    Ok(Response::builder().status(status).body(Full::from(format!("{}", events.len())))?)
}

/// Creates the floor's topic with as many partitions as Chalkstream's.
async fn create_topic(brokers: &str) -> Result<()> {
    use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
    let admin: AdminClient<rdkafka::client::DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topic = NewTopic::new(TOPIC, 12, TopicReplication::Fixed(1));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await?;
    for result in results {
        result.map_err(|(name, code)| anyhow::anyhow!("could not create {name}: {code}"))?;
    }
    Ok(())
}
