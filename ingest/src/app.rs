//! What every request works with.
//!
//! Not here: putting it together ([`crate::assembly`]), and listening ([`crate::server`]).

use std::sync::Arc;
use std::time::Duration;

use chalkstream_access::{
    Admission, Built, Credential, Door, Gate, Lifecycle, Limit, Limits, Live, ScrapeGuard,
    ServerConfig,
};
use prometheus_client::registry::Registry;

use crate::condition::Durability;
use crate::metrics::Metrics;
use crate::options::IngestOptions;
use crate::pipeline::Pipeline;

#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: Live<IngestOptions>,
    pub(crate) gate: Gate,
    pub(crate) admission: Admission,
    pub(crate) limits: Arc<Limits>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) pipeline: Pipeline,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) durability: Durability,
    pub(crate) registry: Registry,
    pub(crate) openapi: bytes::Bytes,
    pub(crate) metrics_guard: Arc<Built<ScrapeGuard>>,
    /// How long headers may take, and a connection may be idle.
    pub(crate) idle_max: Arc<Built<Duration>>,
    pub(crate) tls: Arc<Built<Option<Arc<ServerConfig>>>>,
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
