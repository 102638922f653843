//! Writes the counts of outcomes into the rejected log, every two seconds and at a stop.
//!
//! Always true: counts are absolute, so writing them again is harmless; what the log does not take
//! is tried again with the next counts. kill -9 loses at most what was counted since the last
//! write, and never an event.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_access::Clock;
use chalkstream_event_log::{Intake, NewRecord, Topic};
use chalkstream_schemas::{OutcomeCounts, PartitionId};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::Outcomes;
use super::totals::Totals;

const WRITE_EVERY: Duration = Duration::from_secs(2);

/// Collects and writes, in a task of its own.
#[derive(Debug)]
pub(crate) struct OutcomeWriter {
    outcomes: Arc<Outcomes>,
    log: Arc<dyn Intake>,
    clock: Arc<dyn Clock>,
    totals: Totals,
    failing: bool,
}

impl OutcomeWriter {
    pub(crate) fn new(
        outcomes: Arc<Outcomes>,
        log: Arc<dyn Intake>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let totals = Totals::new(clock.now());
        Self { outcomes, log, clock, totals, failing: false }
    }

    /// Writes until `stop`, and then what is left.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut tick = tokio::time::interval(WRITE_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => self.write().await,
                _ = stop.changed() => break,
            }
        }
        self.write().await;
    }

    async fn write(&mut self) {
        self.totals.add(self.outcomes.take());
        let counts = self.totals.unwritten();
        if !counts.is_empty() {
            let records = counts.iter().map(|counts| self.record(counts)).collect();
            let written = self.log.append(Topic::Rejected, records).await;
            let mut failed = None;
            for (counts, written) in counts.iter().zip(written) {
                match written {
                    Ok(_durable) => self.totals.wrote(counts),
                    Err(error) => failed = Some(error),
                }
            }
            match &failed {
                Some(error) if !self.failing => {
                    let error = error as &dyn std::error::Error;
                    tracing::warn!(error, "counts of outcomes not written; they are kept");
                }
                None if self.failing => tracing::info!("counts of outcomes written again"),
                Some(_) | None => {}
            }
            self.failing = failed.is_some();
        }
        self.totals.begin_again(self.clock.now());
    }

    fn record(&self, counts: &OutcomeCounts) -> NewRecord {
        let partitions = self.log.partitions(Topic::Rejected).max(1);
        let partition = counts.instance.as_u128() % u128::from(partitions);
        NewRecord {
            partition: PartitionId::new(u32::try_from(partition).unwrap_or_default()),
            key: Bytes::copy_from_slice(counts.instance.as_bytes()),
            payload: Bytes::from(counts.encode()),
            timestamp: self.clock.now(),
            identity: None,
        }
    }
}
