//! Every metric of the stream processors, with its name and help.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

const EVENTS_FOLDED: (&str, &str) =
    ("processor_events_folded", "Events that counted and were folded");
const DUPLICATES: (&str, &str) =
    ("processor_duplicates", "Events that stood at a smaller offset with the same content");
const CONFLICTS: (&str, &str) =
    ("processor_conflicts", "Events whose id stood at a smaller offset with other content");
const UNDECODABLE: (&str, &str) =
    ("processor_undecodable_records", "Log records that could not be decoded");
const CONTROL_RECORDS: (&str, &str) =
    ("processor_control_records", "Control records that were applied");
const CONTROL_REFUSED: (&str, &str) =
    ("processor_control_records_refused", "Control records whose content could not be applied");
const ROWS_WRITTEN: (&str, &str) =
    ("processor_rows_written", "Rows that ClickHouse acknowledged, by table");
const ROWS_REFUSED: (&str, &str) =
    ("processor_rows_refused", "Rows that ClickHouse refused for their content, by table");
const INSERT_RETRIES: (&str, &str) =
    ("processor_insert_retries", "Inserts that failed and were tried again");
const FLUSH_SECONDS: (&str, &str) =
    ("processor_flush_seconds", "Time to write one flush to every table");
const CHECKPOINT_SECONDS: (&str, &str) =
    ("processor_checkpoint_seconds", "Time to write one checkpoint with its states");
const STATES_WRITTEN: (&str, &str) =
    ("processor_states_written", "State rows that checkpoints wrote");
const VISIBLE_OFFSET: (&str, &str) =
    ("processor_visible_offset", "Next offset after what the views show, by partition");
const CHECKPOINT_OFFSET: (&str, &str) =
    ("processor_checkpoint_offset", "Next offset after the last checkpoint, by partition");
const PARTITIONS_STOPPED: (&str, &str) =
    ("processor_partitions_stopped", "Partitions that are not folded until somebody acts");
const REJECTED_WRITTEN: (&str, &str) =
    ("processor_rejected_rows_written", "Rows written to rejected_events");

/// A partition as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PartitionLabel {
    /// Its number.
    pub partition: u32,
}

/// A table as a label; the tables of a build are a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TableLabel {
    /// Its name.
    pub table: &'static str,
}

/// The metrics of one processor. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// See the constants above for each one's meaning.
    pub events_folded: Counter,
    /// Duplicates with equal content.
    pub duplicates: Counter,
    /// Duplicates with other content.
    pub conflicts: Counter,
    /// Records that do not decode.
    pub undecodable: Counter,
    /// Control records applied.
    pub control_records: Counter,
    /// Control records refused.
    pub control_refused: Counter,
    /// Rows acknowledged.
    pub rows_written: Family<TableLabel, Counter>,
    /// Rows refused.
    pub rows_refused: Family<TableLabel, Counter>,
    /// Inserts tried again.
    pub insert_retries: Counter,
    /// Seconds a flush.
    pub flush_seconds: Histogram,
    /// Seconds a checkpoint.
    pub checkpoint_seconds: Histogram,
    /// State rows written.
    pub states_written: Counter,
    /// Rows of every table but `rejected_events`, states and checkpoints included. Not registered:
    /// it is a sum of others.
    pub rows_flushed: Counter,
    /// Visible offset by partition.
    pub visible_offset: Family<PartitionLabel, Gauge<i64, AtomicI64>>,
    /// Checkpoint by partition.
    pub checkpoint_offset: Family<PartitionLabel, Gauge<i64, AtomicI64>>,
    /// Stopped partitions.
    pub partitions_stopped: Gauge<i64, AtomicI64>,
    /// Rows of `rejected_events`.
    pub rejected_written: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            events_folded: Counter::default(),
            duplicates: Counter::default(),
            conflicts: Counter::default(),
            undecodable: Counter::default(),
            control_records: Counter::default(),
            control_refused: Counter::default(),
            rows_written: Family::default(),
            rows_refused: Family::default(),
            insert_retries: Counter::default(),
            flush_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            checkpoint_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            states_written: Counter::default(),
            rows_flushed: Counter::default(),
            visible_offset: Family::default(),
            checkpoint_offset: Family::default(),
            partitions_stopped: Gauge::default(),
            rejected_written: Counter::default(),
        }
    }
}

impl Metrics {
    /// Rows that ClickHouse acknowledged since the start, over all tables.
    pub fn rows_inserted(&self) -> u64 {
        self.rows_flushed.get() + self.rejected_written.get()
    }

    /// Adds every metric to a registry.
    pub fn register(&self, to: &mut Registry) {
        let counters = [
            (EVENTS_FOLDED, &self.events_folded),
            (DUPLICATES, &self.duplicates),
            (CONFLICTS, &self.conflicts),
            (UNDECODABLE, &self.undecodable),
            (CONTROL_RECORDS, &self.control_records),
            (CONTROL_REFUSED, &self.control_refused),
            (INSERT_RETRIES, &self.insert_retries),
            (STATES_WRITTEN, &self.states_written),
            (REJECTED_WRITTEN, &self.rejected_written),
        ];
        for ((name, help), counter) in counters {
            to.register(name, help, counter.clone());
        }
        for ((name, help), family) in
            [(ROWS_WRITTEN, &self.rows_written), (ROWS_REFUSED, &self.rows_refused)]
        {
            to.register(name, help, family.clone());
        }
        for ((name, help), histogram) in
            [(FLUSH_SECONDS, &self.flush_seconds), (CHECKPOINT_SECONDS, &self.checkpoint_seconds)]
        {
            to.register(name, help, histogram.clone());
        }
        for ((name, help), family) in
            [(VISIBLE_OFFSET, &self.visible_offset), (CHECKPOINT_OFFSET, &self.checkpoint_offset)]
        {
            to.register(name, help, family.clone());
        }
        let (name, help) = PARTITIONS_STOPPED;
        to.register(name, help, self.partitions_stopped.clone());
    }
}
