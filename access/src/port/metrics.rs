//! How the metrics of every port are kept and written.
//!
//! Always true: every label value comes from a closed enum and starts at zero; recording takes no
//! lock that all requests share.
//! Not here: which metrics there are; each crate names its own, with a help text.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Name and help text of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Name(pub &'static str, pub &'static str);

/// An enum whose variants are the values of a label.
#[macro_export]
macro_rules! labels {
    ($(#[doc = $enum_doc:literal])* $vis:vis enum $enum:ident { $($variant:ident = $name:literal,)* }) => {
        $(#[doc = $enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $vis enum $enum { $($variant,)* }

        impl $enum {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            $vis const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }
    };
}

/// Upper bounds in seconds, from half a millisecond.
const BOUNDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// Durations in fixed buckets, without a lock.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than there are bounds: the last is for what is longer.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts one.
    pub fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = BOUNDS.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get(place) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Writes it.
    pub fn encode(
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

/// Writes a counter.
pub fn counter(
    out: &mut DescriptorEncoder<'_>,
    name: Name,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let metric = ConstCounter::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Counter)?)
}

/// Writes a gauge.
pub fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: Name,
    value: u64,
) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let metric = ConstGauge::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

/// Writes counters that differ in one label.
pub fn family(
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
