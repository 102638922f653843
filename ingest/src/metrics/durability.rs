//! The metrics of what events become durable in: breaker, spool, shared index.
//!
//! Always true: a part that is not configured has no series; a state is one series per state, 1 for
//! the one that holds. Counters begin with the process.

use chalkstream_access::metrics::{Name, counter, gauge};
use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::spool::SpoolStatus;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::condition::Durability;

const LOG_BREAKER: Name =
    Name("chalkstream_log_breaker_state", "Whether Kafka is asked: 1 for the state that holds.");
const LOG_BREAKER_OPENED: Name =
    Name("chalkstream_log_breaker_opened", "How often the breaker before Kafka opened.");
const SPOOL_RECORDS: Name =
    Name("chalkstream_spool_records", "Records that wait in the spool for Kafka.");
const SPOOL_BYTES: Name = Name("chalkstream_spool_bytes", "Bytes of records that wait for Kafka.");
const SPOOL_LIMIT_BYTES: Name =
    Name("chalkstream_spool_limit_bytes", "At how many bytes the spool takes no more.");
const SPOOL_OLDEST: Name = Name(
    "chalkstream_spool_oldest_age_seconds",
    "How long ago the oldest record that waits was received; 0 where none does.",
);
const SPOOL_SPOOLED: Name =
    Name("chalkstream_spool_spooled_records", "Records made durable in the spool.");
const SPOOL_FORWARDED: Name =
    Name("chalkstream_spool_forwarded_records", "Records of the spool that Kafka acknowledged.");
const SPOOL_REFUSED: Name = Name(
    "chalkstream_spool_refused_records",
    "Records that the spool did not take: no room, or a disk that failed.",
);
const ENTRIES: Name =
    Name("chalkstream_dedup_entries", "Events that this node's own index remembers, about.");
const SHARED_BREAKER: Name =
    Name("chalkstream_dedup_redis_state", "Whether Redis is asked: 1 for the state that holds.");
const SHARED_ERRORS: Name =
    Name("chalkstream_dedup_redis_errors", "Calls of Redis that failed or took too long.");
const LOOKED_UP_ALONE: Name = Name(
    "chalkstream_dedup_looked_up_without_redis",
    "Events whose id this node looked up without Redis.",
);
const COMMITTED_ALONE: Name = Name(
    "chalkstream_dedup_committed_without_redis",
    "Events accepted here that Redis was not told of.",
);

/// Reads everything at the moment of a scrape.
#[derive(Debug)]
pub(crate) struct DurabilityCollector(pub(crate) Durability);

impl Collector for DurabilityCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let out = &mut encoder;
        let log = self.0.log.status();
        if let Some(breaker) = log.breaker {
            states(out, LOG_BREAKER, breaker.state)?;
            counter(out, LOG_BREAKER_OPENED, breaker.times_opened)?;
        }
        if let Some(spool) = &log.spool {
            encode_spool(out, spool)?;
        }
        let seen = self.0.seen.status();
        if let Some(entries) = seen.entries {
            gauge(out, ENTRIES, entries)?;
        }
        if let Some(shared) = seen.shared {
            states(out, SHARED_BREAKER, shared.state)?;
            counter(out, SHARED_ERRORS, shared.errors)?;
            counter(out, LOOKED_UP_ALONE, shared.looked_up_alone)?;
            counter(out, COMMITTED_ALONE, shared.committed_alone)?;
        }
        Ok(())
    }
}

fn encode_spool(
    out: &mut DescriptorEncoder<'_>,
    spool: &SpoolStatus,
) -> Result<(), std::fmt::Error> {
    gauge(out, SPOOL_RECORDS, spool.records)?;
    gauge(out, SPOOL_BYTES, spool.bytes)?;
    gauge(out, SPOOL_LIMIT_BYTES, spool.max_bytes)?;
    gauge(out, SPOOL_OLDEST, spool.oldest_age.map_or(0, |age| age.as_secs()))?;
    counter(out, SPOOL_SPOOLED, spool.spooled)?;
    counter(out, SPOOL_FORWARDED, spool.forwarded)?;
    counter(out, SPOOL_REFUSED, spool.refused)
}

fn states(
    out: &mut DescriptorEncoder<'_>,
    name: Name,
    holds: BreakerState,
) -> Result<(), std::fmt::Error> {
    let Name(name, help) = name;
    let mut family = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for state in BreakerState::ALL {
        let labels = [("state", state.as_str())];
        ConstGauge::new(u64::from(state == holds)).encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}
