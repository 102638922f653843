//! Records as Arrow batches: the rows of `events` and of `control_records`.
//!
//! Always true: the columns of a batch are those of the table's schema, in its order.

use std::sync::Arc;

use arrow::array::{
    ArrayBuilder, ArrayRef, BinaryBuilder, BooleanBuilder, Float64Builder, Int32Builder,
    Int64Builder, ListBuilder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use chalkstream_schemas::columns::{ColumnKind, ColumnValue, EVENT_COLUMNS, event_values};
use chalkstream_schemas::{ControlRecord, LearningEvent, LogOffset, LogRecord, PartitionId};

use crate::lake::LakeTable;

/// A column being built.
#[derive(Debug)]
enum Column {
    Str(StringBuilder),
    Time(TimestampMicrosecondBuilder),
    Bool(BooleanBuilder),
    F64(Float64Builder),
    I64(Int64Builder),
    StrList(ListBuilder<StringBuilder>),
    Bytes(BinaryBuilder),
}

impl Column {
    fn new(kind: ColumnKind) -> Self {
        match kind {
            ColumnKind::Str | ColumnKind::Uuid => Self::Str(StringBuilder::new()),
            ColumnKind::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            ColumnKind::Bool => Self::Bool(BooleanBuilder::new()),
            ColumnKind::F64 => Self::F64(Float64Builder::new()),
            ColumnKind::U32 | ColumnKind::U64 => Self::I64(Int64Builder::new()),
            ColumnKind::StrList => {
                Self::StrList(ListBuilder::new(StringBuilder::new()).with_field(Field::new(
                    "element",
                    DataType::Utf8,
                    false,
                )))
            }
            ColumnKind::Hash => Self::Bytes(BinaryBuilder::new()),
        }
    }

    /// Appends the value; one of another kind than the column's becomes NULL, which the table's
    /// schema refuses where it must.
    fn push(&mut self, value: ColumnValue<'_>) {
        match (self, value) {
            (Self::Str(column), ColumnValue::Str(text)) => column.append_value(text),
            (Self::Str(column), ColumnValue::Uuid(id)) => {
                let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
                column.append_value(id.hyphenated().encode_lower(&mut text));
            }
            (Self::Str(column), _) => column.append_null(),
            (Self::Time(column), ColumnValue::Time(time)) => column.append_value(time.as_us()),
            (Self::Time(column), _) => column.append_null(),
            (Self::Bool(column), ColumnValue::Bool(value)) => column.append_value(value),
            (Self::Bool(column), _) => column.append_null(),
            (Self::F64(column), ColumnValue::F64(value)) => column.append_value(value),
            (Self::F64(column), _) => column.append_null(),
            (Self::I64(column), ColumnValue::U32(value)) => column.append_value(i64::from(value)),
            (Self::I64(column), ColumnValue::U64(value)) => {
                column.append_option(i64::try_from(value).ok());
            }
            (Self::I64(column), _) => column.append_null(),
            (Self::StrList(column), ColumnValue::Skills(skills)) => {
                for skill in skills {
                    column.values().append_value(skill.as_str());
                }
                column.append(true);
            }
            (Self::StrList(column), _) => column.append(true),
            (Self::Bytes(column), ColumnValue::Hash(hash)) => column.append_value(hash.as_bytes()),
            (Self::Bytes(column), _) => column.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Str(column) => ArrayBuilder::finish(column),
            Self::Time(column) => ArrayBuilder::finish(column),
            Self::Bool(column) => ArrayBuilder::finish(column),
            Self::F64(column) => ArrayBuilder::finish(column),
            Self::I64(column) => ArrayBuilder::finish(column),
            Self::StrList(column) => ArrayBuilder::finish(column),
            Self::Bytes(column) => ArrayBuilder::finish(column),
        }
    }
}

/// Rows of `events` being built.
#[derive(Debug)]
pub(crate) struct EventRows {
    schema: SchemaRef,
    columns: Vec<Column>,
    rows: usize,
}

impl EventRows {
    pub(crate) fn new() -> Self {
        Self {
            schema: chalkstream_schemas::arrow::events_schema(),
            columns: EVENT_COLUMNS.iter().map(|column| Column::new(column.kind)).collect(),
            rows: 0,
        }
    }

    pub(crate) fn push(
        &mut self,
        partition: PartitionId,
        offset: LogOffset,
        event: &LearningEvent,
    ) {
        let values = event_values(event, partition, offset);
        for (column, value) in self.columns.iter_mut().zip(values) {
            column.push(value);
        }
        self.rows += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// The rows so far; the builder is empty afterwards.
    pub(crate) fn take(&mut self) -> Result<RecordBatch, ArrowError> {
        self.rows = 0;
        let arrays = self.columns.iter_mut().map(Column::finish).collect();
        RecordBatch::try_new(Arc::clone(&self.schema), arrays)
    }
}

/// A control record with its place in the log and everything it names.
#[derive(Clone, Debug)]
pub(crate) struct ControlRow {
    pub(crate) partition: PartitionId,
    pub(crate) offset: LogOffset,
    pub(crate) record: ControlRecord,
    /// The bytes of the blob, where the record names one: a replay needs nothing but the lake.
    pub(crate) blob: Option<bytes::Bytes>,
}

/// The rows of `control_records`.
pub(crate) fn control_batch<'a>(
    rows: impl IntoIterator<Item = &'a ControlRow>,
) -> Result<RecordBatch, ArrowError> {
    let mut partition = Int32Builder::new();
    let mut offset = Int64Builder::new();
    let mut control_id = StringBuilder::new();
    let mut issued_at = TimestampMicrosecondBuilder::new().with_timezone("UTC");
    let mut payload = BinaryBuilder::new();
    let mut blob = BinaryBuilder::new();
    for row in rows {
        partition.append_option(i32::try_from(row.partition.get()).ok());
        offset.append_option(i64::try_from(row.offset.get()).ok());
        control_id.append_value(row.record.control_id.to_string());
        issued_at.append_value(row.record.issued_at.as_us());
        payload.append_value(LogRecord::Control(row.record.clone()).encode());
        blob.append_option(row.blob.as_ref());
    }
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(partition.finish()),
        Arc::new(offset.finish()),
        Arc::new(control_id.finish()),
        Arc::new(issued_at.finish()),
        Arc::new(payload.finish()),
        Arc::new(blob.finish()),
    ];
    RecordBatch::try_new(LakeTable::ControlRecords.schema(), arrays)
}
