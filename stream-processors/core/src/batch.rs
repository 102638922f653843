//! Rows on their way to ClickHouse, encoded as `RowBinary`.
//!
//! In: rows of any table ([`RowSink`]). Out: per table its columns, bytes, and where each row ends,
//! so that a refused insert can be bisected and the offending row named by its position.
//! Always true: `slice` and `split_months` keep every row exactly once and in order per table.
//! Not here: inserting, retrying.

use std::collections::BTreeSet;
use std::ops::Range;

use chalkstream_schemas::Timestamp;

use crate::row::{Column, Day, Month, Position, RowSink, RowWriter, TableRow};

/// ClickHouse refuses an insert that touches more than 100 partitions; half of it is safe.
pub const MONTHS_MAX: usize = 50;

/// Rows of any number of tables. Tables stand in the order of their first row.
#[derive(Debug, Default)]
pub struct RowBatch {
    tables: Vec<TableBatch>,
}

/// Rows of one table.
#[derive(Clone, Debug)]
pub struct TableBatch {
    table: &'static str,
    columns: &'static [Column],
    bytes: Vec<u8>,
    rows: Vec<RowEnd>,
}

#[derive(Clone, Copy, Debug)]
struct RowEnd {
    end: usize,
    at: Position,
    month: Option<Month>,
}

impl RowBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// The tables that have rows.
    pub fn tables(&self) -> impl Iterator<Item = &TableBatch> {
        self.tables.iter().filter(|table| !table.is_empty())
    }

    /// The rows of one table, if there are any.
    pub fn table(&self, name: &str) -> Option<&TableBatch> {
        self.tables().find(|table| table.table == name)
    }

    /// Takes all rows out and leaves the batch empty.
    #[must_use]
    pub fn take(&mut self) -> Vec<TableBatch> {
        let mut tables = std::mem::take(&mut self.tables);
        tables.retain(|table| !table.is_empty());
        tables
    }

    /// How many rows there are in all tables.
    pub fn row_count(&self) -> usize {
        self.tables.iter().map(TableBatch::row_count).sum()
    }

    /// How many bytes the rows of all tables have.
    pub fn byte_count(&self) -> usize {
        self.tables.iter().map(|table| table.bytes.len()).sum()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.row_count() == 0
    }
}

impl RowSink for RowBatch {
    fn row<R: TableRow>(&mut self, at: Position, row: &R) {
        let found = self.tables.iter().position(|table| {
            std::ptr::eq(table.table.as_ptr(), R::TABLE.as_ptr()) || table.table == R::TABLE
        });
        let found = found.unwrap_or_else(|| {
            self.tables.push(TableBatch::new::<R>());
            self.tables.len() - 1
        });
        if let Some(table) = self.tables.get_mut(found) {
            table.push(at, row);
        }
    }
}

impl TableBatch {
    fn new<R: TableRow>() -> Self {
        Self { table: R::TABLE, columns: R::COLUMNS, bytes: Vec::new(), rows: Vec::new() }
    }

    fn push<R: TableRow>(&mut self, at: Position, row: &R) {
        row.write(&mut RowBinary { bytes: &mut self.bytes });
        self.rows.push(RowEnd { end: self.bytes.len(), at, month: row.month() });
    }

    /// The table's name.
    pub const fn table(&self) -> &'static str {
        self.table
    }

    /// The table's columns, in the order of the bytes.
    pub const fn columns(&self) -> &'static [Column] {
        self.columns
    }

    /// The rows as ClickHouse's format `RowBinary`.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many rows there are.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The place in the log of each row's last change, row by row.
    pub fn positions(&self) -> impl ExactSizeIterator<Item = Position> + '_ {
        self.rows.iter().map(|row| row.at)
    }

    /// `INSERT INTO chalkstream.<table> (<columns>) FORMAT RowBinary`, without the data.
    pub fn insert_statement(&self) -> String {
        format!("INSERT INTO chalkstream.{} ({}) FORMAT RowBinary", self.table, self.column_list())
    }

    /// The names of the columns, separated by commas.
    pub fn column_list(&self) -> String {
        self.columns.iter().map(|column| column.name).collect::<Vec<_>>().join(", ")
    }

    /// The months that the rows lie in; empty if the table is not partitioned by month.
    pub fn months(&self) -> BTreeSet<Month> {
        self.rows.iter().filter_map(|row| row.month).collect()
    }

    /// A copy of some rows; what lies beyond the last row is left out.
    #[must_use]
    pub fn slice(&self, rows: Range<usize>) -> Self {
        let mut part = self.without_rows();
        for index in rows.start..rows.end.min(self.rows.len()) {
            part.copy_row(self, index);
        }
        part
    }

    /// The same rows in as few batches as touch at most `max` months each.
    #[must_use]
    pub fn split_months(self, max: usize) -> Vec<Self> {
        let months = self.months();
        if months.len() <= max {
            return vec![self];
        }
        let months: Vec<Month> = months.into_iter().collect();
        let part_of = |row: &RowEnd| {
            row.month.and_then(|month| months.binary_search(&month).ok()).unwrap_or(0) / max.max(1)
        };
        let mut parts = vec![self.without_rows(); months.len().div_ceil(max.max(1))];
        for (index, row) in self.rows.iter().enumerate() {
            if let Some(part) = parts.get_mut(part_of(row)) {
                part.copy_row(&self, index);
            }
        }
        parts
    }

    fn without_rows(&self) -> Self {
        Self { table: self.table, columns: self.columns, bytes: Vec::new(), rows: Vec::new() }
    }

    fn copy_row(&mut self, from: &Self, index: usize) {
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => from.rows.get(before).map_or(0, |row| row.end),
        };
        let Some(row) = from.rows.get(index) else { return };
        self.bytes.extend_from_slice(from.bytes.get(start..row.end).unwrap_or_default());
        self.rows.push(RowEnd { end: self.bytes.len(), ..*row });
    }

    /// Appends the rows of another batch of the same table.
    pub fn append(&mut self, other: &Self) {
        debug_assert_eq!(self.table, other.table, "rows of two tables in one batch");
        let base = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.rows.extend(other.rows.iter().map(|row| RowEnd { end: base + row.end, ..*row }));
    }
}

/// ClickHouse's `RowBinary`.
struct RowBinary<'a> {
    bytes: &'a mut Vec<u8>,
}

impl RowBinary<'_> {
    fn length(&mut self, length: usize) {
        crate::codec::put_varint(self.bytes, length as u64);
    }
}

impl RowWriter for RowBinary<'_> {
    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }
    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    fn f64(&mut self, value: f64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }
    fn bool(&mut self, value: bool) {
        self.bytes.push(u8::from(value));
    }
    fn str(&mut self, value: &str) {
        self.bytes(value.as_bytes());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.length(value.len());
        self.bytes.extend_from_slice(value);
    }
    fn uuid(&mut self, value: uuid::Uuid) {
        let (high, low) = value.as_u64_pair();
        self.u64(high);
        self.u64(low);
    }
    fn hash(&mut self, value: &[u8; 16]) {
        self.bytes.extend_from_slice(value);
    }
    fn timestamp(&mut self, value: Timestamp) {
        self.bytes.extend_from_slice(&value.as_ms().to_le_bytes());
    }
    fn date(&mut self, value: Day) {
        self.u16(value.0);
    }
    fn null(&mut self) {
        self.bytes.push(1);
    }
    fn present(&mut self) {
        self.bytes.push(0);
    }
    fn list(&mut self, items: usize) {
        self.length(items);
    }
    fn map(&mut self, pairs: usize) {
        self.length(pairs);
    }
}

#[cfg(test)]
mod tests;
