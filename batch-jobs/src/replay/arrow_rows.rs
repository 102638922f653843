//! Rows of the folds as Arrow batches, so that DataFusion sees what ClickHouse gets.
//!
//! In: rows of any table ([`RowSink`]). Out: per table its batches, with the storage table's
//! columns. Unsigned integers become 64-bit signed ones, as in the lake; UUIDs their text.
//! Always true: rows of one table keep the order in which they came.
//! Not here: what a newer row of the same key does to an older one ([`super`]).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Float64Builder, Int64Builder,
    ListArray, MapArray, RecordBatch, StringBuilder, StructArray, TimestampMicrosecondBuilder,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use chalkstream_core::row::{Column, Day, Kind, Position, RowSink, RowWriter, TableRow};
use chalkstream_schemas::Timestamp;

/// Rows that are turned into one batch.
const BATCH_ROWS: usize = 64 * 1024;

/// Takes the rows of the wanted tables and drops the others.
#[derive(Debug)]
pub(crate) struct ArrowRows {
    wanted: BTreeSet<&'static str>,
    tables: BTreeMap<&'static str, Table>,
    /// The first failure; a sink cannot return it.
    failed: Option<ArrowError>,
}

impl ArrowRows {
    pub(crate) fn new(wanted: impl IntoIterator<Item = &'static str>) -> Self {
        Self { wanted: wanted.into_iter().collect(), tables: BTreeMap::new(), failed: None }
    }

    /// The batches of each table that had rows.
    pub(crate) fn finish(mut self) -> Result<BTreeMap<&'static str, Batches>, ArrowError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut finished = BTreeMap::new();
        for (name, mut table) in self.tables {
            table.close_batch()?;
            finished.insert(name, Batches { schema: table.schema, batches: table.batches });
        }
        Ok(finished)
    }
}

/// Rows of one table.
#[derive(Clone, Debug)]
pub(crate) struct Batches {
    pub(crate) schema: SchemaRef,
    pub(crate) batches: Vec<RecordBatch>,
}

impl RowSink for ArrowRows {
    fn row<R: TableRow>(&mut self, _at: Position, row: &R) {
        if !self.wanted.contains(R::TABLE) || self.failed.is_some() {
            return;
        }
        let table = self.tables.entry(R::TABLE).or_insert_with(|| Table::new(R::COLUMNS));
        row.write(&mut Cells { table, at: 0 });
        table.rows += 1;
        if table.rows >= BATCH_ROWS
            && let Err(error) = table.close_batch()
        {
            self.failed = Some(error);
        }
    }
}

/// The Arrow schema of a storage table.
pub(crate) fn schema_of(columns: &[Column]) -> SchemaRef {
    let fields = columns.iter().map(|column| {
        let (data_type, nullable) = type_of(column.kind);
        Field::new(column.name, data_type, nullable)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn type_of(kind: Kind) -> (DataType, bool) {
    let data_type = match kind {
        Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => DataType::Int64,
        Kind::F64 => DataType::Float64,
        Kind::Bool => DataType::Boolean,
        Kind::Str | Kind::Uuid => DataType::Utf8,
        Kind::Hash => DataType::Binary,
        Kind::Date => DataType::Date32,
        Kind::Time => crate::lake::tables::timestamp_type(),
        Kind::Nullable(inner) => return (type_of(*inner).0, true),
        Kind::List(inner) => DataType::List(item_field(*inner)),
        Kind::Map(key, value) => DataType::Map(entries_field(*key, *value), false),
    };
    (data_type, false)
}

fn item_field(kind: Kind) -> Arc<Field> {
    let (data_type, nullable) = type_of(kind);
    Arc::new(Field::new("element", data_type, nullable))
}

fn entry_fields(key: Kind, value: Kind) -> Fields {
    let (value_type, nullable) = type_of(value);
    Fields::from(vec![
        Field::new("key", type_of(key).0, false),
        Field::new("value", value_type, nullable),
    ])
}

fn entries_field(key: Kind, value: Kind) -> Arc<Field> {
    Arc::new(Field::new("entries", DataType::Struct(entry_fields(key, value)), false))
}

#[derive(Debug)]
struct Table {
    schema: SchemaRef,
    columns: Vec<Builder>,
    rows: usize,
    batches: Vec<RecordBatch>,
}

impl Table {
    fn new(columns: &[Column]) -> Self {
        Self {
            schema: schema_of(columns),
            columns: columns.iter().map(|column| Builder::new(column.kind)).collect(),
            rows: 0,
            batches: Vec::new(),
        }
    }

    fn close_batch(&mut self) -> Result<(), ArrowError> {
        if self.rows == 0 {
            return Ok(());
        }
        self.rows = 0;
        let arrays = self.columns.iter_mut().map(Builder::finish).collect::<Result<Vec<_>, _>>()?;
        self.batches.push(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?);
        Ok(())
    }
}

/// A column being built.
#[derive(Debug)]
enum Builder {
    I64(Int64Builder),
    F64(Float64Builder),
    Bool(BooleanBuilder),
    Str(StringBuilder),
    Bytes(BinaryBuilder),
    Date(Date32Builder),
    Time(TimestampMicrosecondBuilder),
    List {
        kind: Kind,
        items: Box<Self>,
        pending: usize,
        ends: Vec<usize>,
    },
    Map {
        kinds: (Kind, Kind),
        keys: Box<Self>,
        values: Box<Self>,
        pending: usize,
        ends: Vec<usize>,
    },
}

/// Whether the column has its cell, or waits for items.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Filled {
    Whole,
    Partly,
}

/// One cell's value, as the writer gets it.
#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Null,
    Unsigned(u64),
    F64(f64),
    Bool(bool),
    Str(&'a str),
    Bytes(&'a [u8]),
    Date(Day),
    Time(Timestamp),
    /// A list of so many items, or a map of so many pairs.
    Begin(usize),
}

impl Builder {
    fn new(kind: Kind) -> Self {
        match kind {
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => Self::I64(Int64Builder::new()),
            Kind::F64 => Self::F64(Float64Builder::new()),
            Kind::Bool => Self::Bool(BooleanBuilder::new()),
            Kind::Str | Kind::Uuid => Self::Str(StringBuilder::new()),
            Kind::Hash => Self::Bytes(BinaryBuilder::new()),
            Kind::Date => Self::Date(Date32Builder::new()),
            Kind::Time => Self::Time(TimestampMicrosecondBuilder::new().with_timezone("UTC")),
            Kind::Nullable(inner) => Self::new(*inner),
            Kind::List(inner) => Self::List {
                kind: *inner,
                items: Box::new(Self::new(*inner)),
                pending: 0,
                ends: Vec::new(),
            },
            Kind::Map(key, value) => Self::Map {
                kinds: (*key, *value),
                keys: Box::new(Self::new(*key)),
                values: Box::new(Self::new(*value)),
                pending: 0,
                ends: Vec::new(),
            },
        }
    }

    /// Appends a value; one that the column cannot hold becomes NULL, which the schema refuses
    /// where there must be none.
    fn push(&mut self, value: Value<'_>) -> Filled {
        match self {
            Self::I64(column) => match value {
                Value::Unsigned(number) => column.append_option(i64::try_from(number).ok()),
                _ => column.append_null(),
            },
            Self::F64(column) => match value {
                Value::F64(number) => column.append_value(number),
                _ => column.append_null(),
            },
            Self::Bool(column) => match value {
                Value::Bool(bit) => column.append_value(bit),
                _ => column.append_null(),
            },
            Self::Str(column) => match value {
                Value::Str(text) => column.append_value(text),
                Value::Bytes(bytes) => column.append_value(String::from_utf8_lossy(bytes)),
                _ => column.append_null(),
            },
            Self::Bytes(column) => match value {
                Value::Bytes(bytes) => column.append_value(bytes),
                _ => column.append_null(),
            },
            Self::Date(column) => match value {
                Value::Date(Day(day)) => column.append_value(i32::from(day)),
                _ => column.append_null(),
            },
            Self::Time(column) => match value {
                Value::Time(time) => column.append_value(time.as_us()),
                _ => column.append_null(),
            },
            Self::List { items, pending, ends, .. } => {
                let last = ends.last().copied().unwrap_or(0);
                match value {
                    Value::Begin(count) => {
                        ends.push(last + count);
                        *pending = count;
                    }
                    value => {
                        items.push(value);
                        *pending = pending.saturating_sub(1);
                    }
                }
                return if *pending == 0 { Filled::Whole } else { Filled::Partly };
            }
            Self::Map { keys, values, pending, ends, .. } => {
                let last = ends.last().copied().unwrap_or(0);
                match value {
                    Value::Begin(pairs) => {
                        ends.push(last + pairs);
                        *pending = pairs * 2;
                    }
                    value => {
                        let side = if pending.is_multiple_of(2) { keys } else { values };
                        side.push(value);
                        *pending = pending.saturating_sub(1);
                    }
                }
                return if *pending == 0 { Filled::Whole } else { Filled::Partly };
            }
        }
        Filled::Whole
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::I64(column) => Arc::new(column.finish()),
            Self::F64(column) => Arc::new(column.finish()),
            Self::Bool(column) => Arc::new(column.finish()),
            Self::Str(column) => Arc::new(column.finish()),
            Self::Bytes(column) => Arc::new(column.finish()),
            Self::Date(column) => Arc::new(column.finish()),
            Self::Time(column) => Arc::new(column.finish()),
            Self::List { kind, items, ends, .. } => {
                let offsets = offsets(std::mem::take(ends))?;
                Arc::new(ListArray::try_new(item_field(*kind), offsets, items.finish()?, None)?)
            }
            Self::Map { kinds: (key, value), keys, values, ends, .. } => {
                let offsets = offsets(std::mem::take(ends))?;
                let columns: Vec<ArrayRef> = vec![keys.finish()?, values.finish()?];
                let entries = StructArray::try_new(entry_fields(*key, *value), columns, None)?;
                let field = entries_field(*key, *value);
                Arc::new(MapArray::try_new(field, offsets, entries, None, false)?)
            }
        })
    }
}

fn offsets(ends: Vec<usize>) -> Result<OffsetBuffer<i32>, ArrowError> {
    let mut offsets = vec![0];
    for end in ends {
        offsets.push(i32::try_from(end).map_err(|_too_many| ArrowError::OffsetOverflowError(end))?);
    }
    Ok(OffsetBuffer::new(offsets.into()))
}

/// Writes one row's cells, column by column.
struct Cells<'a> {
    table: &'a mut Table,
    at: usize,
}

impl Cells<'_> {
    fn push(&mut self, value: Value<'_>) {
        if let Some(column) = self.table.columns.get_mut(self.at)
            && column.push(value) == Filled::Whole
        {
            self.at += 1;
        }
    }
}

impl RowWriter for Cells<'_> {
    fn u8(&mut self, value: u8) {
        self.push(Value::Unsigned(value.into()));
    }
    fn u16(&mut self, value: u16) {
        self.push(Value::Unsigned(value.into()));
    }
    fn u32(&mut self, value: u32) {
        self.push(Value::Unsigned(value.into()));
    }
    fn u64(&mut self, value: u64) {
        self.push(Value::Unsigned(value));
    }
    fn f64(&mut self, value: f64) {
        self.push(Value::F64(value));
    }
    fn bool(&mut self, value: bool) {
        self.push(Value::Bool(value));
    }
    fn str(&mut self, value: &str) {
        self.push(Value::Str(value));
    }
    fn bytes(&mut self, value: &[u8]) {
        self.push(Value::Bytes(value));
    }
    fn uuid(&mut self, value: uuid::Uuid) {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        self.push(Value::Str(value.hyphenated().encode_lower(&mut text)));
    }
    fn hash(&mut self, value: &[u8; 16]) {
        self.push(Value::Bytes(value));
    }
    fn timestamp(&mut self, value: Timestamp) {
        self.push(Value::Time(value));
    }
    fn date(&mut self, value: Day) {
        self.push(Value::Date(value));
    }
    fn null(&mut self) {
        self.push(Value::Null);
    }
    fn present(&mut self) {}
    fn list(&mut self, items: usize) {
        self.push(Value::Begin(items));
    }
    fn map(&mut self, pairs: usize) {
        self.push(Value::Begin(pairs));
    }
}

#[cfg(test)]
mod tests {
    use arrow::util::pretty::pretty_format_batches;

    use super::*;

    struct Row {
        day: u16,
        name: Option<&'static str>,
        times: Vec<(u64, u64)>,
    }

    impl TableRow for Row {
        const TABLE: &'static str = "things";
        const COLUMNS: &'static [Column] = &[
            Column { name: "day", kind: Kind::Date },
            Column { name: "name", kind: Kind::Nullable(&Kind::Str) },
            Column { name: "times", kind: Kind::Map(&Kind::U64, &Kind::U64) },
            Column { name: "names", kind: Kind::List(&Kind::Str) },
            Column { name: "last", kind: Kind::F64 },
        ];
        fn write<W: RowWriter>(&self, writer: &mut W) {
            writer.date(Day(self.day));
            match self.name {
                None => writer.null(),
                Some(name) => {
                    writer.present();
                    writer.str(name);
                }
            }
            writer.map(self.times.len());
            for (key, value) in &self.times {
                writer.u64(*key);
                writer.u64(*value);
            }
            writer.list(self.name.iter().count());
            if let Some(name) = self.name {
                writer.str(name);
            }
            writer.f64(0.5);
        }
    }

    #[test]
    fn every_cell_lands_in_its_column() {
        let at = Position {
            partition: chalkstream_schemas::PartitionId::ZERO,
            offset: chalkstream_schemas::LogOffset::ZERO,
        };
        let mut rows = ArrowRows::new(["things"]);
        rows.row(at, &Row { day: 1, name: None, times: vec![(1, 2), (3, 4)] });
        rows.row(at, &Row { day: 2, name: Some("x"), times: Vec::new() });
        let tables = rows.finish().unwrap();
        let text = pretty_format_batches(&tables["things"].batches).unwrap().to_string();
        let expected = "\
+------------+------+--------------+-------+------+
| day        | name | times        | names | last |
+------------+------+--------------+-------+------+
| 1970-01-02 |      | {1: 2, 3: 4} | []    | 0.5  |
| 1970-01-03 | x    | {}           | [x]   | 0.5  |
+------------+------+--------------+-------+------+";
        assert_eq!(text, expected);
    }

    #[test]
    fn rows_of_tables_that_nobody_wants_are_dropped() {
        let at = Position {
            partition: chalkstream_schemas::PartitionId::ZERO,
            offset: chalkstream_schemas::LogOffset::ZERO,
        };
        let mut rows = ArrowRows::new(["others"]);
        rows.row(at, &Row { day: 1, name: None, times: Vec::new() });
        assert!(rows.finish().unwrap().is_empty());
    }
}
