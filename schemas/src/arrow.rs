//! The Arrow schema of the lake's table `events`.
//!
//! Always true: its columns are [`EVENT_COLUMNS`], in their order. Delta Lake has no unsigned
//! integers, UUIDs or fixed binaries: integers become `Int64`, UUIDs their text, hashes `Binary`.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::columns::{ColumnKind, EVENT_COLUMNS};

/// The Arrow type of a kind of column.
pub fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Str | ColumnKind::Uuid => DataType::Utf8,
        ColumnKind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        ColumnKind::Bool => DataType::Boolean,
        ColumnKind::F64 => DataType::Float64,
        ColumnKind::U32 | ColumnKind::U64 => DataType::Int64,
        ColumnKind::StrList => {
            DataType::List(Arc::new(Field::new("element", DataType::Utf8, false)))
        }
        ColumnKind::Hash => DataType::Binary,
    }
}

/// The columns of the lake's table `events`.
pub fn events_schema() -> SchemaRef {
    let fields = EVENT_COLUMNS
        .iter()
        .map(|column| Field::new(column.name, data_type(column.kind), column.nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
