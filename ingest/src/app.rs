//! What a running ingest is made of.
//!
//! In: options and parts. Out: [`Ingest`], whose router the binary serves alone or beside others.
//! Not here: listening ([`crate::server`]).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chalkstream_event_log::{Intake, SeenIndex};
use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, broadcast};
use tokio_rustls::rustls::ServerConfig;

use crate::admission::{Admission, Door};
use crate::clock::Clock;
use crate::condition::Durability;
use crate::credential::{AuthCollector, Gate};
use crate::dedup::Reservations;
use crate::keys::{Credential, KeyStore};
use crate::limits::{Limit, Limits, SchoolQuota};
use crate::live::{Built, Live};
use crate::metrics::durability::DurabilityCollector;
use crate::metrics::events::Books;
use crate::metrics::{Gauges, IngestCollector, Metrics};
use crate::options::{IngestOptions, OptionsError};
use crate::outcomes::Outcomes;
use crate::pipeline::Pipeline;
use crate::problem::{Problem, ProblemKind};
use crate::routes::metrics::Guard;
use crate::tail::TailedEvent;
use crate::token::Tokens;

/// What ingest is given.
#[derive(Debug)]
pub struct IngestParts {
    /// Where events become durable.
    pub log: Arc<dyn Intake>,
    /// Which events the log has acknowledged.
    pub seen: Arc<dyn SeenIndex>,
    /// Who may send events.
    pub keys: KeyStore,
    /// Counts the schools' events of a day; [`crate::NodeQuota`] where nodes share nothing.
    pub quota: Arc<dyn SchoolQuota>,
    /// The time of receipt; [`crate::SystemClock`] outside tests.
    pub clock: Arc<dyn Clock>,
    /// What `/metrics` shows beside ingest's own.
    pub registry: Registry,
}

/// Ingest, ready to be served.
#[derive(Clone, Debug)]
pub struct Ingest {
    pub(crate) app: Arc<App>,
}

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Live,
    pub(crate) gate: Gate,
    pub(crate) admission: Admission,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) pipeline: Pipeline,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) durability: Durability,
    pub(crate) registry: Registry,
    pub(crate) openapi: bytes::Bytes,
    pub(crate) metrics_guard: Arc<Built<Guard>>,
    pub(crate) tls: Arc<Built<Option<Arc<ServerConfig>>>>,
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
        let tokens = Arc::new(Tokens::new(&options.jwt)?);
        let limits = Arc::new(Limits::new(quota, Arc::clone(&metrics)));
        let gate = Gate {
            keys,
            clock: Arc::clone(&clock),
            tokens,
            limits: Arc::clone(&limits),
            options: live.clone(),
        };
        let gauges = Scraped {
            admission: admission.clone(),
            limit_bytes: options.max_in_flight.get(),
            reservations: Arc::clone(&reservations),
            gate: gate.clone(),
        };
        let collector = IngestCollector { metrics: Arc::clone(&metrics), gauges };
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
        let metrics_guard = live.build(Guard::of)?;
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

impl App {
    /// The way in for the bytes of one credential, or of all whose credential is not known yet.
    pub(crate) fn door(&self, credential: Option<&Credential>) -> Door {
        let options = self.options.get();
        let (all, body) = (options.max_in_flight.get(), options.max_body.get());
        let share_bytes = options.limits.credential_in_flight(all, body);
        self.admission.door(self.limits.key(Limit::CredentialBytes, credential), share_bytes)
    }
}

/// The certificates in use, read again at every reload.
fn tls(live: &Live) -> Result<Arc<Built<Option<Arc<ServerConfig>>>>, OptionsError> {
    let on = live.get().tls.is_on();
    live.build(move |options| {
        if options.tls.is_on() == on {
            return crate::tls::server_config(&options.tls);
        }
        let what = "TLS is turned on and off by a restart alone".to_owned();
        Err(OptionsError::Section { section: "ingest.tls", what })
    })
}

/// Whether ingest takes requests, and how many are under way. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Lifecycle {
    inner: Arc<LifecycleInner>,
}

#[derive(Debug)]
struct LifecycleInner {
    /// Why it is not ready; `None` if it is.
    not_ready: Mutex<Option<&'static str>>,
    draining: AtomicBool,
    drained: Notify,
    working: AtomicUsize,
}

impl Default for LifecycleInner {
    fn default() -> Self {
        Self {
            not_ready: Mutex::new(Some("the server is starting")),
            draining: AtomicBool::new(false),
            drained: Notify::new(),
            working: AtomicUsize::new(0),
        }
    }
}

impl Lifecycle {
    /// From now on `/readyz` and `/v1/events` answer 503; what is under way goes on.
    pub fn drain(&self) {
        self.unready("the server is stopping");
        self.inner.draining.store(true, Ordering::Release);
        self.inner.drained.notify_waiters();
    }

    /// Waits for the stop to begin.
    pub(crate) async fn drained(&self) {
        let told = self.inner.drained.notified();
        if !self.inner.draining.load(Ordering::Acquire) {
            told.await;
        }
    }

    pub(crate) fn check_draining(&self, options: &IngestOptions) -> Result<(), Problem> {
        if !self.inner.draining.load(Ordering::Acquire) {
            return Ok(());
        }
        let detail = "the server is stopping; send the request again after Retry-After";
        Err(Problem::new(ProblemKind::NotReady, detail).retry_after(options.retry_after.get()))
    }

    /// From now on `/readyz` answers 503 with this reason; events are still taken.
    pub fn unready(&self, why: &'static str) {
        *self.inner.not_ready.lock() = Some(why);
    }

    /// From now on `/readyz` answers 200.
    pub fn ready(&self) {
        *self.inner.not_ready.lock() = None;
    }

    /// Requests whose events are on their way to the log, those of clients that left included.
    pub fn working(&self) -> usize {
        self.inner.working.load(Ordering::Acquire)
    }

    /// Why it is not ready, if it is not.
    pub fn not_ready(&self) -> Option<&'static str> {
        *self.inner.not_ready.lock()
    }

    pub(crate) fn check(&self) -> Result<(), Problem> {
        match self.not_ready() {
            None => Ok(()),
            Some(why) => Err(Problem::new(ProblemKind::NotReady, why)),
        }
    }

    pub(crate) fn work(&self) -> Working {
        self.inner.working.fetch_add(1, Ordering::AcqRel);
        Working(Arc::clone(&self.inner))
    }
}

/// A request under way, until it drops.
#[derive(Debug)]
pub(crate) struct Working(Arc<LifecycleInner>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.working.fetch_sub(1, Ordering::AcqRel);
    }
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
