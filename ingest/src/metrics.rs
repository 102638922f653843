//! The metrics of ingest, each name once, with its help text.
//!
//! Always true: every label value comes from a closed enum and starts at zero; recording takes no
//! lock that all requests share; names below are without the `_total` that counters get.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use chalkstream_access::metrics::{Histogram, Name, counter, family, gauge};
use chalkstream_access::{Connections, Limits, Notice, labels};
use chalkstream_schemas::{EventType, RefuseReason, RejectReason};
use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

pub(crate) mod credentials;
pub(crate) mod durability;
pub(crate) mod events;

use events::EventCounts;

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

labels! {
    /// Which route was asked.
    pub(crate) enum Route {
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
    pub(crate) enum Ended {
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
    pub(crate) enum LogCall {
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
    pub(crate) connections: Connections,
    log_errors: [AtomicU64; LogCall::ALL.len()],
    log_notices: [Notice; LogCall::ALL.len()],
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

    pub(crate) fn panicked(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
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
    pub(crate) limits: Arc<Limits>,
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
        for (limit, count) in self.limits.hits() {
            let labels = [("scope", limit.scope()), ("limit", limit.as_str())];
            ConstCounter::new(count).encode(hits.encode_family(&labels)?)?;
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
        gauge(out, CONNECTIONS, metrics.connections.count())?;
        gauge(out, KEYS, gauges.keys() as u64)?;
        let calls = LogCall::ALL.iter().map(|call| call.as_str());
        let errors = metrics.log_errors.iter().map(|count| count.load(Ordering::Relaxed));
        family(out, LOG_ERRORS, "call", calls.zip(errors))?;
        let panics = metrics.panics.load(Ordering::Relaxed);
        let kinds = [("undecided", books.undecided), ("panic", panics)];
        family(out, INTERNAL_ERRORS, "kind", kinds)
    }
}
