//! Rows of the storage tables: what folds give, without knowing who writes them.
//!
//! In: values of a fold. Out: calls on a [`RowWriter`], one per column, in the table's order.
//! Always true: a row struct made by [`table_row!`] has its columns, their order and their types in
//! one place; a test holds them against the migrations.
//! Not here: bytes ([`crate::batch`]), inserts (the runtime).

use std::fmt;

use chalkstream_schemas::{EventId, LogOffset, PartitionId, Timestamp};

/// A record's place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The partition.
    pub partition: PartitionId,
    /// The offset within it.
    pub offset: LogOffset,
}

/// A day in a school's zone: days since 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Day(pub u16);

/// A calendar month in UTC, as ClickHouse's `toYYYYMM` numbers it: `202601`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(pub u32);

impl Month {
    /// The month of a point in time.
    pub fn of(time: Timestamp) -> Self {
        use chrono::Datelike;
        let day = chrono::DateTime::from_timestamp_millis(time.as_ms()).unwrap_or_default();
        Self(day.year().unsigned_abs() * 100 + day.month())
    }
}

/// What a column holds; [`fmt::Display`] gives ClickHouse's name of the type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `UInt8`.
    U8,
    /// `UInt16`.
    U16,
    /// `UInt32`.
    U32,
    /// `UInt64`.
    U64,
    /// `Float64`.
    F64,
    /// `Bool`.
    Bool,
    /// `String`.
    Str,
    /// `UUID`.
    Uuid,
    /// `FixedString(16)`.
    Hash,
    /// `Date`.
    Date,
    /// `DateTime64(3, 'UTC')`.
    Time,
    /// `Nullable(…)`.
    Nullable(&'static Self),
    /// `Array(…)`.
    List(&'static Self),
    /// `Map(…, …)`.
    Map(&'static Self, &'static Self),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8 => f.write_str("UInt8"),
            Self::U16 => f.write_str("UInt16"),
            Self::U32 => f.write_str("UInt32"),
            Self::U64 => f.write_str("UInt64"),
            Self::F64 => f.write_str("Float64"),
            Self::Bool => f.write_str("Bool"),
            Self::Str => f.write_str("String"),
            Self::Uuid => f.write_str("UUID"),
            Self::Hash => f.write_str("FixedString(16)"),
            Self::Date => f.write_str("Date"),
            Self::Time => f.write_str("DateTime64(3, 'UTC')"),
            Self::Nullable(inner) => write!(f, "Nullable({inner})"),
            Self::List(inner) => write!(f, "Array({inner})"),
            Self::Map(key, value) => write!(f, "Map({key}, {value})"),
        }
    }
}

/// A column of a storage table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// Takes the cells of one row, one call per column in the table's order.
///
/// A nullable cell is [`RowWriter::null`], or [`RowWriter::present`] and then its value. A list is
/// [`RowWriter::list`] and then its items; a map is [`RowWriter::map`] and then key and value in
/// turn.
pub trait RowWriter {
    /// An unsigned 8-bit integer.
    fn u8(&mut self, value: u8);
    /// An unsigned 16-bit integer.
    fn u16(&mut self, value: u16);
    /// An unsigned 32-bit integer.
    fn u32(&mut self, value: u32);
    /// An unsigned 64-bit integer.
    fn u64(&mut self, value: u64);
    /// A 64-bit float.
    fn f64(&mut self, value: f64);
    /// A boolean.
    fn bool(&mut self, value: bool);
    /// Text.
    fn str(&mut self, value: &str);
    /// Bytes for a column of text that need not be UTF-8.
    fn bytes(&mut self, value: &[u8]);
    /// A UUID.
    fn uuid(&mut self, value: uuid::Uuid);
    /// A hash of 16 bytes.
    fn hash(&mut self, value: &[u8; 16]);
    /// A point in time.
    fn timestamp(&mut self, value: Timestamp);
    /// A day.
    fn date(&mut self, value: Day);
    /// No value in a nullable column.
    fn null(&mut self);
    /// A value follows in a nullable column.
    fn present(&mut self);
    /// So many items follow.
    fn list(&mut self, items: usize);
    /// So many pairs of key and value follow.
    fn map(&mut self, pairs: usize);
}

/// A row of a storage table.
pub trait TableRow {
    /// The table's name in the database `chalkstream`.
    const TABLE: &'static str;
    /// The table's columns, in the order of [`TableRow::write`].
    const COLUMNS: &'static [Column];
    /// Writes the cells.
    fn write<W: RowWriter>(&self, writer: &mut W);
    /// The month that the row lies in, if its table is partitioned by month.
    fn month(&self) -> Option<Month> {
        None
    }
}

/// Takes rows of every table.
pub trait RowSink {
    /// Takes one row that the record at `at` made or changed last.
    fn row<R: TableRow>(&mut self, at: Position, row: &R);
}

/// A value that fills a column.
pub trait Cell {
    /// The column's kind.
    const KIND: Kind;
    /// Writes the value.
    fn write<W: RowWriter>(&self, writer: &mut W);
}

macro_rules! cells {
    ($($ty:ty, $kind:ident, |$value:ident, $writer:ident| $write:expr;)*) => {$(
        impl Cell for $ty {
            const KIND: Kind = Kind::$kind;
            fn write<W: RowWriter>(&self, $writer: &mut W) {
                let $value = self;
                $write
            }
        }
    )*};
}

cells! {
    u8, U8, |value, writer| writer.u8(*value);
    u16, U16, |value, writer| writer.u16(*value);
    u32, U32, |value, writer| writer.u32(*value);
    u64, U64, |value, writer| writer.u64(*value);
    f64, F64, |value, writer| writer.f64(*value);
    bool, Bool, |value, writer| writer.bool(*value);
    &str, Str, |value, writer| writer.str(value);
    &[u8], Str, |value, writer| writer.bytes(value);
    EventId, Uuid, |value, writer| writer.uuid(value.as_uuid());
    uuid::Uuid, Uuid, |value, writer| writer.uuid(*value);
    Timestamp, Time, |value, writer| writer.timestamp(*value);
    Day, Date, |value, writer| writer.date(*value);
    chalkstream_schemas::Epoch, U32, |value, writer| writer.u32(value.get());
    chalkstream_schemas::RowVersion, U64, |value, writer| writer.u64(value.get());
    PartitionId, U32, |value, writer| writer.u32(value.get());
    LogOffset, U64, |value, writer| writer.u64(value.get());
}

impl<T: Cell> Cell for Option<T> {
    const KIND: Kind = Kind::Nullable(&T::KIND);
    fn write<W: RowWriter>(&self, writer: &mut W) {
        match self {
            None => writer.null(),
            Some(value) => {
                writer.present();
                value.write(writer);
            }
        }
    }
}

/// Pairs of key and value, sorted by key.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a, K, V>(pub &'a [(K, V)]);

impl<K: Cell, V: Cell> Cell for Pairs<'_, K, V> {
    const KIND: Kind = Kind::Map(&K::KIND, &V::KIND);
    fn write<W: RowWriter>(&self, writer: &mut W) {
        writer.map(self.0.len());
        for (key, value) in self.0 {
            key.write(writer);
            value.write(writer);
        }
    }
}

/// Declares a row: its struct, its table, its columns and how it is written, once.
macro_rules! table_row {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident$(<$life:lifetime>)? in $table:literal {
            $($(#[doc = $doc:literal])* $field:ident: $ty:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        $vis struct $name$(<$life>)? {
            $($(#[doc = $doc])* $vis $field: $ty,)*
        }

        impl$(<$life>)? $crate::row::TableRow for $name$(<$life>)? {
            const TABLE: &'static str = $table;
            const COLUMNS: &'static [$crate::row::Column] = &[$(
                $crate::row::Column {
                    name: stringify!($field),
                    kind: <$ty as $crate::row::Cell>::KIND,
                },
            )*];
            fn write<W: $crate::row::RowWriter>(&self, writer: &mut W) {
                $($crate::row::Cell::write(&self.$field, writer);)*
            }
        }
    };
}
pub(crate) use table_row;
