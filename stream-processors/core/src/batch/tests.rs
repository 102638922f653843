use chalkstream_schemas::{LogOffset, PartitionId};

use super::*;
use crate::row::{Pairs, table_row};
use crate::testing::at;

table_row! {
    /// A row with a cell of every kind that matters.
    pub(super) struct Sample<'a> in "sample_raw" {
        /// Text.
        text: &'a str,
        /// Optional.
        maybe: Option<u16>,
        /// Time.
        time: Timestamp,
        /// Pairs.
        pairs: Pairs<'a, u16, u64>,
    }
}

struct Dated(Timestamp, u8);

impl TableRow for Dated {
    const TABLE: &'static str = "dated_raw";
    const COLUMNS: &'static [Column] = &[Column { name: "n", kind: crate::Kind::U8 }];
    fn write<W: RowWriter>(&self, writer: &mut W) {
        writer.u8(self.1);
    }
    fn month(&self) -> Option<Month> {
        Some(Month::of(self.0))
    }
}

fn position(offset: u64) -> Position {
    Position { partition: PartitionId::new(0), offset: LogOffset::new(offset) }
}

#[test]
fn rows_are_row_binary() {
    let mut batch = RowBatch::new();
    let time = Timestamp::from_ms(0x0102);
    batch.row(position(1), &Sample { text: "é", maybe: None, time, pairs: Pairs(&[]) });
    batch.row(position(2), &Sample { text: "", maybe: Some(3), time, pairs: Pairs(&[(7, 8)]) });
    let table = batch.table("sample_raw").unwrap();
    let expected: &[u8] = &[
        2, 0xc3, 0xa9, 1, 2, 1, 0, 0, 0, 0, 0, 0, 0, //
        0, 0, 3, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 7, 0, 8, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(table.bytes(), expected);
    assert_eq!(table.slice(1..9).bytes(), &expected[13..]);
    assert_eq!(table.slice(1..9).positions().collect::<Vec<_>>(), [position(2)]);
    let mut whole = table.slice(0..1);
    whole.append(&table.slice(1..2));
    assert_eq!(whole.bytes(), expected);
    assert_eq!(table.column_list(), "text, maybe, time, pairs");
    let kinds: Vec<_> = table.columns().iter().map(|column| column.kind.to_string()).collect();
    let types = ["String", "Nullable(UInt16)", "DateTime64(3, 'UTC')", "Map(UInt16, UInt64)"];
    assert_eq!(kinds, types);
}

#[test]
fn a_batch_over_many_months_is_split_and_keeps_every_row() {
    let mut batch = RowBatch::new();
    for number in 0..240_u8 {
        let time = format!("20{:02}-{:02}-01T00:00:00Z", 10 + number / 12, 1 + number % 12);
        batch.row(position(u64::from(number)), &Dated(at(&time), number));
    }
    let [table] = <[TableBatch; 1]>::try_from(batch.take()).unwrap();
    assert!(batch.is_empty());
    let parts = table.split_months(MONTHS_MAX);
    assert_eq!(parts.len(), 5);
    assert!(parts.iter().all(|part| part.months().len() <= MONTHS_MAX));
    let rows: Vec<u8> = parts.iter().flat_map(|part| part.bytes().to_vec()).collect();
    assert_eq!(rows, (0..240).collect::<Vec<u8>>());
}
