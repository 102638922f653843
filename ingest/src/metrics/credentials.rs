//! Metrics of keys and tokens.

use chalkstream_access::Gate;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Writes them at each scrape.
#[derive(Debug)]
pub(crate) struct AuthCollector(pub(crate) Gate);

impl Collector for AuthCollector {
    fn encode(&self, mut out: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let stale = self.0.keys.trouble().map_or(0.0, |(since, _why)| since.as_secs_f64());
        ConstGauge::new(stale).encode(out.encode_descriptor(
            "chalkstream_ingest_keys_stale_seconds",
            "For how long changes of write keys could not be followed; 0 while they are.",
            None,
            MetricType::Gauge,
        )?)?;
        let mut family = out.encode_descriptor(
            "chalkstream_ingest_token_key_refreshes",
            "How often the keys of an issuer of tokens were read again, by issuer and result.",
            None,
            MetricType::Counter,
        )?;
        for (issuer, refreshed) in self.0.tokens.refreshed() {
            for (result, count) in [("ok", refreshed.succeeded), ("failed", refreshed.failed)] {
                let labels = [("issuer", issuer), ("result", result)];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
