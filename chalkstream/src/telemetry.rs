//! Traces by OpenTelemetry: from ingest's spans to a collector, by OTLP over HTTP.
//!
//! Always true: without `telemetry.otlp_endpoint` nothing here exists, and no span is made; a
//! collector that is slow or away costs traces and nothing else, because what waits for it is
//! bounded, and is said in the log once.
//! Not here: which spans there are (ingest's `trace`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter as Exports};
use opentelemetry_sdk::{Resource, runtime};
use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

/// How long a collector may take for one request, and the last traces at the end.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a collector takes traces, below its address.
const PATH: &str = "/v1/traces";

/// Traces; off without an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Telemetry {
    /// A collector's address, such as `http://127.0.0.1:4318`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) otlp_endpoint: Option<url::Url>,
    /// The share of requests that begin a trace here, from 0 to 1.
    pub(crate) sample_ratio: f64,
    /// How this process names itself.
    pub(crate) service_name: String,
}

impl Default for Telemetry {
    fn default() -> Self {
        let service_name = "chalkstream".to_owned();
        Self { otlp_endpoint: None, sample_ratio: 1.0, service_name }
    }
}

impl Telemetry {
    /// What no single key can tell.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(format!(
                "`telemetry.sample_ratio` is a share from 0 to 1, not {}",
                self.sample_ratio
            ));
        }
        match &self.otlp_endpoint {
            Some(url) if !matches!(url.scheme(), "http" | "https") => Err(format!(
                "`telemetry.otlp_endpoint` must be an HTTP address such as http://127.0.0.1:4318, not {url}"
            )),
            Some(_) | None => Ok(()),
        }
    }

    fn traces_url(&self) -> Option<String> {
        let url = self.otlp_endpoint.as_ref()?.as_str().trim_end_matches('/');
        Some(if url.ends_with(PATH) { url.to_owned() } else { format!("{url}{PATH}") })
    }
}

/// The way of spans to the collector.
#[derive(Debug)]
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to export, if a collector is configured. Needs the runtime that it will run on.
    pub(crate) fn start(options: &Telemetry) -> Result<Option<Self>> {
        let Some(url) = options.traces_url() else { return Ok(None) };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_endpoint(&url)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .with_context(|| format!("could not prepare to send traces to {url}"))?;
        let exporter = Watched { exporter, url, failing: AtomicBool::new(false) };
        let batches = BatchSpanProcessor::builder(exporter, runtime::Tokio).build();
        // A caller that samples is followed, so that its trace is whole.
        let ratio = Sampler::TraceIdRatioBased(options.sample_ratio);
        let resource = Resource::builder().with_service_name(options.service_name.clone()).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(batches)
            .with_sampler(Sampler::ParentBased(Box::new(ratio)))
            .with_resource(resource)
            .build();
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        chalkstream_access::collect_traces();
        Ok(Some(Self { provider }))
    }

    /// Takes ingest's spans, and no log lines.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let spans = FilterFn::new(|metadata| {
            metadata.is_span() && metadata.target() == chalkstream_access::TRACE_TARGET
        });
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("chalkstream"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(spans.with_max_level_hint(LevelFilter::TRACE))
    }

    /// Sends what waits. Blocks, so not for the runtime's threads.
    pub(crate) fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }
}

/// An exporter that says when it begins to fail, and when it works again.
#[derive(Debug)]
struct Watched {
    exporter: SpanExporter,
    url: String,
    failing: AtomicBool,
}

impl Exports for Watched {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        let failed = exported.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match &exported {
                Err(error) => {
                    tracing::warn!(url = self.url, %error, "traces are lost: the collector does not take them");
                }
                Ok(()) => tracing::info!(url = self.url, "the collector takes traces again"),
            }
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_for_traces_is_added_once() {
        for address in ["http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"] {
            let otlp_endpoint = Some(address.parse().unwrap());
            let telemetry = Telemetry { otlp_endpoint, ..Telemetry::default() };
            assert_eq!(telemetry.traces_url().unwrap(), "http://c:4318/v1/traces");
            telemetry.validate().unwrap();
        }
    }
}
