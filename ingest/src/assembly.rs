//! Puts the parts of ingest together.
//!
//! In: options and parts. Out: [`Ingest`], whose router the binary serves alone or beside others.
//! Not here: listening ([`crate::server`]).

use std::sync::Arc;

use chalkstream_access::{
    Admission, Built, Clock, Gate, KeyStore, Lifecycle, Limits, Live, SchoolQuota, ScrapeGuard,
    SectionError, ServerConfig, Tokens,
};
use chalkstream_event_log::{Intake, SeenIndex};
use prometheus_client::registry::Registry;
use tokio::sync::broadcast;

use crate::app::App;
use crate::condition::Durability;
use crate::dedup::Reservations;
use crate::metrics::credentials::AuthCollector;
use crate::metrics::durability::DurabilityCollector;
use crate::metrics::events::Books;
use crate::metrics::{Gauges, IngestCollector, Metrics};
use crate::options::{IngestOptions, OptionsError};
use crate::outcomes::Outcomes;
use crate::pipeline::Pipeline;
use crate::tail::TailedEvent;

/// What ingest is given.
#[derive(Debug)]
pub struct IngestParts {
    /// Where events become durable.
    pub log: Arc<dyn Intake>,
    /// Which events the log has acknowledged.
    pub seen: Arc<dyn SeenIndex>,
    /// Who may send events.
    pub keys: KeyStore,
    /// Counts the schools' events of a day; [`chalkstream_access::NodeQuota`] where nodes share nothing.
    pub quota: Arc<dyn SchoolQuota>,
    /// The time of receipt; [`chalkstream_access::SystemClock`] outside tests.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows beside ingest's own.
    pub registry: Registry,
}

/// Ingest, ready to be served.
#[derive(Clone, Debug)]
pub struct Ingest {
    pub(crate) app: Arc<App>,
}

impl Ingest {
    /// Puts the parts together. Nothing runs yet.
    pub fn new(options: IngestOptions, parts: IngestParts) -> Result<Self, OptionsError> {
        let live = Live::new(options)?;
        let IngestParts { log, seen, keys, quota, clock, mut registry } = parts;
        let options = live.get();
        let metrics = Arc::new(Metrics::default());
        let reservations = Arc::new(Reservations::new());
        let admission = Admission::new(options.max_in_flight.get());
        let tokens = Arc::new(Tokens::new(&options.jwt)?.with_max_age(options.max_token_age.get()));
        let limits = Arc::new(Limits::new(quota));
        let gate = Gate {
            keys,
            clock: Arc::clone(&clock),
            tokens,
            limits: Arc::clone(&limits),
            limits_options: live.build(|options| Ok(options.limits.clone()))?,
        };
        let gauges = Scraped {
            admission: admission.clone(),
            limit_bytes: options.max_in_flight.get(),
            reservations: Arc::clone(&reservations),
            gate: gate.clone(),
        };
        let collector =
            IngestCollector { metrics: Arc::clone(&metrics), limits: Arc::clone(&limits), gauges };
        registry.register_collector(Box::new(collector));
        registry.register_collector(Box::new(AuthCollector(gate.clone())));
        let durability = Durability { log: Arc::clone(&log), seen: Arc::clone(&seen) };
        registry.register_collector(Box::new(DurabilityCollector(durability.clone())));
        let pipeline = Pipeline {
            log,
            seen,
            clock,
            options: live.clone(),
            metrics: Arc::clone(&metrics),
            reservations,
            outcomes: Arc::new(Outcomes::default()),
            limits: Arc::clone(&limits),
        };
        let lifecycle = Lifecycle::default();
        let openapi = crate::openapi::document(pipeline.clock.now());
        let tls = tls(&live)?;
        let idle_max = live.build(|options| Ok(options.header_timeout.get()))?;
        let metrics_guard =
            live.build(|options| Ok(ScrapeGuard::of("ingest.metrics", &options.metrics)?))?;
        let app = App {
            options: live,
            gate,
            admission,
            limits,
            metrics,
            pipeline,
            lifecycle,
            durability,
            registry,
            openapi,
            idle_max,
            tls,
            metrics_guard,
        };
        Ok(Self { app: Arc::new(app) })
    }

    /// Changes to new options at once, or not at all. Returns the keys that need a restart: they
    /// keep the values of the start.
    pub fn reload(&self, options: IngestOptions) -> Result<Vec<&'static str>, OptionsError> {
        self.app.options.reload(options)
    }

    /// Every route, with problem details for unknown paths and methods.
    pub fn router(&self) -> axum::Router {
        crate::routes::router(&self.app)
    }

    /// Readiness and requests under way.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.app.lifecycle
    }

    /// Every event and its fate from now on, as they come. Who is too slow loses some and is told
    /// how many.
    pub fn tail(&self) -> broadcast::Receiver<Arc<TailedEvent>> {
        self.app.pipeline.outcomes.tail.watch()
    }

    /// The account of all events: balanced at every instant.
    pub fn books(&self) -> Books {
        self.app.metrics.events.read()
    }
}

/// The certificates in use, read again at every reload.
fn tls(live: &Live<IngestOptions>) -> Result<Arc<Built<Option<Arc<ServerConfig>>>>, OptionsError> {
    let on = live.get().tls.is_on();
    live.build(move |options| {
        let section = "ingest.tls";
        if options.tls.is_on() == on {
            return Ok(options.tls.server_config(section)?);
        }
        let what = "TLS is turned on and off by a restart alone".to_owned();
        Err(SectionError { section, what }.into())
    })
}

#[derive(Debug)]
struct Scraped {
    admission: Admission,
    limit_bytes: usize,
    reservations: Arc<Reservations>,
    gate: Gate,
}

impl Gauges for Scraped {
    fn in_flight_bytes(&self) -> usize {
        self.admission.in_flight_bytes()
    }

    fn in_flight_limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    fn reserved_ids(&self) -> usize {
        self.reservations.len()
    }

    fn keys(&self) -> usize {
        self.gate.keys.valid(self.gate.clock.now())
    }
}
