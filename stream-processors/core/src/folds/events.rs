//! `events`: one row per event, as it was received.
//!
//! Always true: columns and values are those of [`chalkstream_schemas::columns`], after `epoch`.

use chalkstream_schemas::columns::{
    ColumnKind, ColumnValue, EVENT_COLUMN_COUNT, EVENT_COLUMNS, EventColumn, event_values,
};
use chalkstream_schemas::{Epoch, LearningEvent};

use crate::row::{Column, Kind, Month, Position, RowWriter, TableRow};

/// One event.
#[derive(Clone, Copy, Debug)]
pub struct EventRow<'a> {
    /// The folding.
    pub epoch: Epoch,
    /// Where it stands.
    pub at: Position,
    /// The event.
    pub event: &'a LearningEvent,
}

const fn kind(column: EventColumn) -> Kind {
    match (column.kind, column.nullable) {
        (ColumnKind::Str, false) => Kind::Str,
        (ColumnKind::Str, true) => Kind::Nullable(&Kind::Str),
        (ColumnKind::Uuid, false) => Kind::Uuid,
        (ColumnKind::Uuid, true) => Kind::Nullable(&Kind::Uuid),
        (ColumnKind::Time, false) => Kind::Time,
        (ColumnKind::Time, true) => Kind::Nullable(&Kind::Time),
        (ColumnKind::Bool, false) => Kind::Bool,
        (ColumnKind::Bool, true) => Kind::Nullable(&Kind::Bool),
        (ColumnKind::F64, false) => Kind::F64,
        (ColumnKind::F64, true) => Kind::Nullable(&Kind::F64),
        (ColumnKind::U32, false) => Kind::U32,
        (ColumnKind::U32, true) => Kind::Nullable(&Kind::U32),
        (ColumnKind::U64, false) => Kind::U64,
        (ColumnKind::U64, true) => Kind::Nullable(&Kind::U64),
        (ColumnKind::StrList, _) => Kind::List(&Kind::Str),
        (ColumnKind::Hash, false) => Kind::Hash,
        (ColumnKind::Hash, true) => Kind::Nullable(&Kind::Hash),
    }
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a mistake stops the build")]
const fn columns() -> [Column; EVENT_COLUMN_COUNT + 1] {
    let mut all = [Column { name: "epoch", kind: Kind::U32 }; EVENT_COLUMN_COUNT + 1];
    let mut at = 0;
    while at < EVENT_COLUMN_COUNT {
        all[at + 1] = Column { name: EVENT_COLUMNS[at].name, kind: kind(EVENT_COLUMNS[at]) };
        at += 1;
    }
    all
}

const COLUMNS: [Column; EVENT_COLUMN_COUNT + 1] = columns();

impl TableRow for EventRow<'_> {
    const TABLE: &'static str = "events_raw";
    const COLUMNS: &'static [Column] = &COLUMNS;

    fn write<W: RowWriter>(&self, writer: &mut W) {
        writer.u32(self.epoch.get());
        let values = event_values(self.event, self.at.partition, self.at.offset);
        for (column, value) in EVENT_COLUMNS.iter().zip(values) {
            if column.nullable && value != ColumnValue::Null {
                writer.present();
            }
            match value {
                ColumnValue::Null => writer.null(),
                ColumnValue::Str(text) => writer.str(text),
                ColumnValue::Uuid(uuid) => writer.uuid(uuid),
                ColumnValue::Time(time) => writer.timestamp(time),
                ColumnValue::Bool(truth) => writer.bool(truth),
                ColumnValue::F64(number) => writer.f64(number),
                ColumnValue::U32(number) => writer.u32(number),
                ColumnValue::U64(number) => writer.u64(number),
                ColumnValue::Skills(skills) => {
                    writer.list(skills.len());
                    skills.iter().for_each(|skill| writer.str(skill.as_str()));
                }
                ColumnValue::Hash(hash) => writer.hash(hash.as_bytes()),
            }
        }
    }

    fn month(&self) -> Option<Month> {
        Some(Month::of(self.event.event_time))
    }
}
