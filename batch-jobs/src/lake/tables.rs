//! The lake's tables: names, columns, and which columns files keep statistics of.
//!
//! Always true: Delta has no unsigned integers, so `log_partition` is an integer and `log_offset`
//! a long; every point in time is in UTC microseconds.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// A Delta table of the lake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LakeTable {
    /// Every accepted event once, with its place in the log.
    Events,
    /// Every control record once per partition, with its place in the log.
    ControlRecords,
    /// Every run of a report.
    ReportRuns,
}

impl LakeTable {
    /// Every table.
    pub const ALL: [Self; 3] = [Self::Events, Self::ControlRecords, Self::ReportRuns];

    /// The folder's name below the lake's location.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::ControlRecords => "control_records",
            Self::ReportRuns => "report_runs",
        }
    }

    /// What one row is.
    #[must_use]
    pub const fn comment(self) -> &'static str {
        match self {
            Self::Events => "one row per accepted event, each exactly once",
            Self::ControlRecords => "one row per control record and partition of the log",
            Self::ReportRuns => "one row per run of a report",
        }
    }

    /// The columns whose smallest and largest value every file keeps, comma-separated.
    pub(crate) const fn statistics_columns(self) -> &'static str {
        match self {
            Self::Events => {
                "school_id,user_id,type,event_time,received_at,log_partition,log_offset"
            }
            Self::ControlRecords => "log_partition,log_offset,issued_at",
            Self::ReportRuns => "report,school_id,ran_at",
        }
    }

    /// The columns, as the lake stores them.
    #[must_use]
    pub fn schema(self) -> SchemaRef {
        match self {
            Self::Events => stored(&chalkstream_schemas::arrow::events_schema()),
            Self::ControlRecords => control_records(),
            Self::ReportRuns => report_runs(),
        }
    }
}

/// A point in time as the lake has it.
pub(crate) fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

/// The same columns in types that Delta has.
fn stored(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::UInt8 | DataType::UInt16 | DataType::UInt32 => DataType::Int32,
            DataType::UInt64 => DataType::Int64,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn control_records() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("log_partition", DataType::Int32, false),
        Field::new("log_offset", DataType::Int64, false),
        Field::new("control_id", DataType::Utf8, false),
        Field::new("issued_at", timestamp_type(), false),
        Field::new("payload", DataType::Binary, false),
        Field::new("blob", DataType::Binary, true),
    ]))
}

fn report_runs() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("run_id", DataType::Utf8, false),
        Field::new("report", DataType::Utf8, false),
        Field::new("school_id", DataType::Utf8, false),
        Field::new("parameters", DataType::Utf8, false),
        Field::new("lake_version", DataType::Int64, false),
        Field::new("sql_hash", DataType::Utf8, false),
        Field::new("model_version", DataType::Utf8, false),
        Field::new("data_as_of", timestamp_type(), true),
        Field::new("row_count", DataType::Int64, false),
        Field::new("files", DataType::Utf8, false),
        Field::new("ran_at", timestamp_type(), false),
    ]))
}
