//! Reading the lake with DataFusion: sessions with bounded memory, and tables as of one version.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::DataType;
use chalkstream_schemas::{EventId, LogOffset, PartitionId, Timestamp};
use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::Expr;
use datafusion::prelude::{DataFrame, SessionConfig, SessionContext, col, lit};
use datafusion::scalar::ScalarValue;
use deltalake::DeltaTable;

/// Memory that one query may take before it spills to disk.
const QUERY_MEMORY_BYTES: usize = 1024 * 1024 * 1024;

/// A session of its own, whose sorts and joins spill to disk beyond the memory limit.
pub(crate) fn session() -> Result<SessionContext, DataFusionError> {
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(QUERY_MEMORY_BYTES)))
        .build_arc()?;
    let config = SessionConfig::new().with_information_schema(false);
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// The table, as of the version that was opened, for queries of any session.
pub(crate) async fn provider(
    opened: &DeltaTable,
    session: &SessionContext,
) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    opened
        .update_datafusion_session(&session.state())
        .map_err(|error| DataFusionError::External(Box::new(error)))?;
    opened.table_provider().await
}

/// The table as a data frame.
pub(crate) async fn frame(
    opened: &DeltaTable,
    session: &SessionContext,
) -> Result<DataFrame, DataFusionError> {
    session.read_table(provider(opened, session).await?)
}

/// Rows of one partition's range of the log.
pub(crate) fn in_range(partition: PartitionId, from: LogOffset, to: LogOffset) -> Expr {
    col("log_partition")
        .eq(lit(i64::from(partition.get())))
        .and(col("log_offset").gt_eq(lit(signed(from.get()))))
        .and(col("log_offset").lt(lit(signed(to.get()))))
}

/// Offsets beyond what the lake can hold are beyond every offset it holds.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A point in time as a literal of the lake's type.
pub(crate) fn timestamp(at: Timestamp) -> Expr {
    lit(ScalarValue::TimestampMicrosecond(Some(at.as_us()), Some("UTC".into())))
}

/// Why a row of the lake is not what the archiver wrote.
#[derive(Debug, thiserror::Error)]
#[error("the lake's column {column} does not hold what the archiver writes")]
pub struct RowError {
    /// The column.
    pub column: &'static str,
}

/// Typed access to the columns of a batch, whatever string layout a reader chose.
#[derive(Debug)]
pub(crate) struct Columns<'a> {
    batch: &'a RecordBatch,
}

/// Texts of a column.
#[derive(Debug)]
pub(crate) struct Texts<'a> {
    name: &'static str,
    array: &'a arrow::array::StringArray,
}

impl Texts<'_> {
    pub(crate) fn optional(&self, row: usize) -> Option<&str> {
        use arrow::array::Array as _;
        (!self.array.is_null(row)).then(|| self.array.value(row))
    }

    pub(crate) fn required(&self, row: usize) -> Result<&str, RowError> {
        self.optional(row).ok_or(RowError { column: self.name })
    }
}

impl<'a> Columns<'a> {
    pub(crate) fn new(batch: &'a RecordBatch) -> Self {
        Self { batch }
    }

    pub(crate) fn column(
        &self,
        name: &'static str,
    ) -> Result<&'a arrow::array::ArrayRef, RowError> {
        self.batch.column_by_name(name).ok_or(RowError { column: name })
    }

    pub(crate) fn texts(&self, name: &'static str) -> Result<Texts<'a>, RowError> {
        let array = self.column(name)?.as_string_opt::<i32>().ok_or(RowError { column: name })?;
        Ok(Texts { name, array })
    }

    pub(crate) fn integers(
        &self,
        name: &'static str,
    ) -> Result<&'a arrow::array::Int64Array, RowError> {
        self.column(name)?.as_primitive_opt().ok_or(RowError { column: name })
    }

    pub(crate) fn times(
        &self,
        name: &'static str,
    ) -> Result<&'a arrow::array::TimestampMicrosecondArray, RowError> {
        self.column(name)?.as_primitive_opt().ok_or(RowError { column: name })
    }

    pub(crate) fn bytes(
        &self,
        name: &'static str,
    ) -> Result<&'a arrow::array::BinaryArray, RowError> {
        self.column(name)?.as_binary_opt::<i32>().ok_or(RowError { column: name })
    }
}

/// A column read as plain texts, bytes or 64-bit integers: readers may hand out views or smaller
/// integers.
pub(crate) fn plain(name: &str) -> Expr {
    let target = match name {
        "log_partition" | "log_offset" => DataType::Int64,
        "content_hash" | "payload" | "blob" => DataType::Binary,
        "occurred_at" | "sent_at" | "received_at" | "event_time" | "issued_at" => {
            crate::lake::tables::timestamp_type()
        }
        _ => DataType::Utf8,
    };
    datafusion::logical_expr::cast(col(name), target).alias(name)
}

pub(crate) fn time_of(
    array: &arrow::array::TimestampMicrosecondArray,
    row: usize,
    column: &'static str,
) -> Result<Timestamp, RowError> {
    use arrow::array::Array as _;
    let us = (!array.is_null(row)).then(|| array.value(row)).ok_or(RowError { column })?;
    Timestamp::try_from_ms(us.div_euclid(1000)).ok_or(RowError { column })
}

pub(crate) fn offset_of(
    array: &arrow::array::Int64Array,
    row: usize,
) -> Result<LogOffset, RowError> {
    u64::try_from(array.value(row))
        .map(LogOffset::new)
        .map_err(|_negative| RowError { column: "log_offset" })
}

pub(crate) fn partition_of(
    array: &arrow::array::Int64Array,
    row: usize,
) -> Result<PartitionId, RowError> {
    u32::try_from(array.value(row))
        .map(PartitionId::new)
        .map_err(|_not_u32| RowError { column: "log_partition" })
}

pub(crate) fn event_id_of(text: &str) -> Result<EventId, RowError> {
    uuid::Uuid::try_parse(text)
        .map(EventId::from_uuid)
        .map_err(|_not_a_uuid| RowError { column: "id" })
}

pub(crate) fn hash_of(
    array: &arrow::array::BinaryArray,
    row: usize,
) -> Result<chalkstream_schemas::ContentHash, RowError> {
    <[u8; 16]>::try_from(array.value(row))
        .map(chalkstream_schemas::ContentHash::from_bytes)
        .map_err(|_not_16_bytes| RowError { column: "content_hash" })
}
