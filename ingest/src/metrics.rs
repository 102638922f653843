//! The metrics of ingest, each name once, with its help text.
//!
//! Always true: every label value comes from a closed enum and starts at zero; recording takes no
//! lock that all requests share; names below are without the `_total` that counters get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chalkstream_schemas::{EventType, RefuseReason, RejectReason};
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

pub(crate) mod durability;
pub(crate) mod events;

use events::EventCounts;

use crate::limits::Limit;
use crate::notice::Notice;

/// Name and help text of a metric.
#[derive(Clone, Copy, Debug)]
struct Name(&'static str, &'static str);

const EVENTS_RECEIVED: Name =
    Name("chalkstream_ingest_events_received", "Events in bodies that could be read.");
const EVENTS: Name = Name("chalkstream_ingest_events", "Events by their fate.");
const EVENTS_IN_FLIGHT: Name =
    Name("chalkstream_ingest_events_in_flight", "Events received that have no fate yet.");
const EVENTS_REJECTED: Name =
    Name("chalkstream_ingest_events_rejected", "Events at fault, by reason.");
const EVENTS_REFUSED: Name =
    Name("chalkstream_ingest_events_refused", "Events not taken for now, by reason.");
const EVENTS_ACCEPTED: Name = Name(
    "chalkstream_ingest_events_accepted",
    "Events made durable, by type; all types of applications count as custom.",
);
const LIMIT_HITS: Name = Name(
    "chalkstream_ingest_limit_hits",
    "What was refused for a limit: requests in the scopes credential and process, events in the scopes learner and school.",
);
const VALIDATED: Name = Name(
    "chalkstream_ingest_validated_events",
    "Events that were only validated (?validate=true), by the fate that they would have met.",
);
const REQUESTS: Name = Name("chalkstream_ingest_requests", "Requests by route and HTTP status.");
const REQUEST_SECONDS: Name = Name(
    "chalkstream_ingest_request_duration_seconds",
    "Time from a request's headers to its answer, of POST /v1/events.",
);
const APPEND_SECONDS: Name = Name(
    "chalkstream_ingest_append_duration_seconds",
    "Time until the log acknowledged a request's events.",
);
const LOOKUP_SECONDS: Name = Name(
    "chalkstream_ingest_lookup_duration_seconds",
    "Time until the index said which of a request's events were seen before.",
);
const COMMIT_SECONDS: Name = Name(
    "chalkstream_ingest_commit_duration_seconds",
    "Time until the index kept a request's new events.",
);
const BODY_BYTES: Name =
    Name("chalkstream_ingest_body_bytes", "Bytes of bodies that were read, after decompression.");
const IN_FLIGHT_BYTES: Name =
    Name("chalkstream_ingest_in_flight_bytes", "Bytes of bodies whose events have no fate yet.");
const IN_FLIGHT_LIMIT_BYTES: Name = Name(
    "chalkstream_ingest_in_flight_limit_bytes",
    "At how many bytes in flight requests are refused.",
);
const RESERVED_IDS: Name =
    Name("chalkstream_ingest_reserved_ids", "Event ids that are on their way to the log.");
const CONNECTIONS: Name = Name("chalkstream_ingest_connections", "Open connections.");
const LOG_ERRORS: Name =
    Name("chalkstream_ingest_log_errors", "Calls of the log or its index that failed, by call.");
const INTERNAL_ERRORS: Name =
    Name("chalkstream_ingest_internal_errors", "Bugs that were survived, by kind; always 0.");
const KEYS: Name = Name("chalkstream_ingest_keys", "Write keys that are valid now.");

macro_rules! labels {
    ($(#[doc = $enum_doc:literal])* $enum:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[doc = $enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $enum { $($variant,)* }

        impl $enum {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(crate) const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

labels! {
    /// Which route was asked.
    Route {
        Events = "/v1/events",
        Batch = "/v1/batch",
        Track = "/v1/track",
        Schemas = "/v1/schemas",
        Schema = "/v1/schemas/{type}",
        Livez = "/livez",
        Readyz = "/readyz",
        Metrics = "/metrics",
        Openapi = "/openapi.json",
        Grpc = "/chalkstream.ingest.v1.EventIngestion/{*method}",
        GrpcHealth = "/grpc.health.v1.Health/{*method}",
        Other = "other",
    }
}

labels! {
    /// How a request ended.
    Ended {
        Ok = "200",
        BadRequest = "400",
        Unauthorized = "401",
        Forbidden = "403",
        NotFound = "404",
        MethodNotAllowed = "405",
        Timeout = "408",
        TooLarge = "413",
        Unsupported = "415",
        Rejected = "422",
        TooMany = "429",
        Failed = "500",
        Unavailable = "503",
        Disconnected = "disconnected",
        Other = "other",
    }
}

labels! {
    /// What was asked of the log.
    LogCall {
        Append = "append",
        AppendRejected = "append_rejected",
        Lookup = "lookup",
        Commit = "commit",
    }
}

impl Route {
    /// From the path as it is registered.
    pub(crate) fn of(registered: &str) -> Self {
        Self::ALL.iter().copied().find(|route| route.as_str() == registered).unwrap_or(Self::Other)
    }
}

impl Ended {
    pub(crate) fn of(status: StatusCode) -> Self {
        let number = status.as_str();
        Self::ALL.iter().copied().find(|ended| ended.as_str() == number).unwrap_or(Self::Other)
    }
}

/// Everything that ingest counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) events: Arc<EventCounts>,
    /// The books of requests that store nothing.
    pub(crate) validated: Arc<EventCounts>,
    pub(crate) request_seconds: Histogram,
    pub(crate) append_seconds: Histogram,
    pub(crate) lookup_seconds: Histogram,
    pub(crate) commit_seconds: Histogram,
    requests: [[AtomicU64; Ended::ALL.len()]; Route::ALL.len()],
    body_bytes: AtomicU64,
    connections: AtomicU64,
    log_errors: [AtomicU64; LogCall::ALL.len()],
    log_notices: [Notice; LogCall::ALL.len()],
    limit_hits: [AtomicU64; Limit::ALL.len()],
    panics: AtomicU64,
}

impl Metrics {
    pub(crate) fn request(&self, route: Route, ended: Ended) {
        let count = self.requests.get(route as usize).and_then(|row| row.get(ended as usize));
        if let Some(count) = count {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn body(&self, bytes: usize) {
        self.body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts a call that failed. How many did since the last line of the log, if a line is due.
    pub(crate) fn log_error(&self, call: LogCall) -> Option<u64> {
        if let Some(count) = self.log_errors.get(call as usize) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.log_notices.get(call as usize)?.due(1)
    }

    pub(crate) fn limited(&self, limit: Limit, count: u64) {
        if let Some(hits) = self.limit_hits.get(limit as usize) {
            hits.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection until the answer drops.
    pub(crate) fn connection(self: &Arc<Self>) -> Connection {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Connection(Arc::clone(self))
    }

    pub(crate) fn open_connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct Connection(Arc<Metrics>);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Upper bounds in seconds, from half a millisecond.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Durations in fixed buckets, without a lock.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// One more than there are bounds: the last is for what is longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    fn encode(
        &self,
        name: Name,
        encoder: &mut DescriptorEncoder<'_>,
    ) -> Result<(), std::fmt::Error> {
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let buckets = bounds.zip(counts).collect::<Vec<_>>();
        let count = buckets.iter().map(|(_, count)| count).sum();
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        let Name(name, help) = name;
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }
}

/// What is read elsewhere at the time of a scrape.
pub(crate) trait Gauges: std::fmt::Debug + Send + Sync + 'static {
    fn in_flight_bytes(&self) -> usize;
    fn in_flight_limit_bytes(&self) -> usize;
    fn reserved_ids(&self) -> usize;
    fn keys(&self) -> usize;
}

/// Writes all of it at each scrape.
#[derive(Debug)]
pub(crate) struct IngestCollector<G> {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) gauges: G,
}

impl<G: Gauges> Collector for IngestCollector<G> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (metrics, gauges) = (&*self.metrics, &self.gauges);
        let books = metrics.events.read();
        let out = &mut encoder;
        counter(out, EVENTS_RECEIVED, books.received)?;
        family(out, EVENTS, "fate", books.fates())?;
        family(out, VALIDATED, "fate", metrics.validated.read().fates())?;
        gauge(out, EVENTS_IN_FLIGHT, books.in_flight)?;
        let names = RejectReason::ALL.iter().map(|reason| reason.as_str());
        family(out, EVENTS_REJECTED, "reason", names.zip(books.rejected_by_reason))?;
        let names = RefuseReason::ALL.iter().map(|reason| reason.as_str());
        family(out, EVENTS_REFUSED, "reason", names.zip(books.refused_by_reason))?;
        let types = EventType::ALL.iter().chain([&EventType::Custom]).map(|kind| kind.as_str());
        family(out, EVENTS_ACCEPTED, "type", types.zip(books.accepted_by_type))?;
        let Name(name, help) = LIMIT_HITS;
        let mut hits = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (limit, count) in Limit::ALL.iter().zip(&metrics.limit_hits) {
            let labels = [("scope", limit.scope()), ("limit", limit.as_str())];
            let count = ConstCounter::new(count.load(Ordering::Relaxed));
            count.encode(hits.encode_family(&labels)?)?;
        }
        let Name(name, help) = REQUESTS;
        let mut family_of_two = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (route, row) in Route::ALL.iter().zip(&metrics.requests) {
            for (ended, count) in Ended::ALL.iter().zip(row) {
                let labels = [("route", route.as_str()), ("status", ended.as_str())];
                let count = ConstCounter::new(count.load(Ordering::Relaxed));
                count.encode(family_of_two.encode_family(&labels)?)?;
            }
        }
        metrics.request_seconds.encode(REQUEST_SECONDS, out)?;
        metrics.append_seconds.encode(APPEND_SECONDS, out)?;
        metrics.lookup_seconds.encode(LOOKUP_SECONDS, out)?;
        metrics.commit_seconds.encode(COMMIT_SECONDS, out)?;
        counter(out, BODY_BYTES, metrics.body_bytes.load(Ordering::Relaxed))?;
        gauge(out, IN_FLIGHT_BYTES, gauges.in_flight_bytes() as u64)?;
        gauge(out, IN_FLIGHT_LIMIT_BYTES, gauges.in_flight_limit_bytes() as u64)?;
        gauge(out, RESERVED_IDS, gauges.reserved_ids() as u64)?;
        gauge(out, CONNECTIONS, metrics.open_connections())?;
        gauge(out, KEYS, gauges.keys() as u64)?;
        let calls = LogCall::ALL.iter().map(|call| call.as_str());
        let errors = metrics.log_errors.iter().map(|count| count.load(Ordering::Relaxed));
        family(out, LOG_ERRORS, "call", calls.zip(errors))?;
        let panics = metrics.panics.load(Ordering::Relaxed);
        let kinds = [("undecided", books.undecided), ("panic", panics)];
        family(out, INTERNAL_ERRORS, "kind", kinds)
    }
}

fn counter(out: &mut DescriptorEncoder<'_>, name: Name, value: u64) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let metric = ConstCounter::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

fn gauge(out: &mut DescriptorEncoder<'_>, name: Name, value: u64) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let metric = ConstGauge::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn family(
    out: &mut DescriptorEncoder<'_>,
    name: Name,
    label: &'static str,
    values: impl IntoIterator<Item = (&'static str, u64)>,
) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (value, count) in values {
        let labels = [(label, value)];
        ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_its_bucket() {
        let histogram = Histogram::default();
        for ms in [0, 1, 7, 60_000] {
            histogram.observe(Duration::from_millis(ms));
        }
        let counts = histogram.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(counts, [1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(histogram.sum_us.load(Ordering::Relaxed), 60_008_000);
    }
}
