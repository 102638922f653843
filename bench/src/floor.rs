//! The floor: the least that a server can do and still be useful. It reads a body, parses each
//! event's id and learner, produces it to Kafka and answers once all are acknowledged. It
//! validates nothing, knows no keys and does not deduplicate.

use std::net::SocketAddr;
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

const TOPIC: &str = "floor.events";

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

/// Serves on a free port until the process ends.
pub(crate) async fn start(brokers: &str) -> Result<SocketAddr> {
    let producer: ThreadedProducer<Acknowledge> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4")
        .set("linger.ms", "2")
        .set("queue.buffering.max.messages", "1000000")
        .create_with_context(Acknowledge)
        .context("could not make the floor's producer")?;
    let producer = Arc::new(producer);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _peer)) = listener.accept().await {
            let producer = Arc::clone(&producer);
            if stream.set_nodelay(true).is_err() {
                continue;
            }
            tokio::spawn(http1::Builder::new().serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| answer(Arc::clone(&producer), request)),
            ));
        }
    });
    Ok(address)
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
pub(crate) async fn create_topic(brokers: &str) -> Result<()> {
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
