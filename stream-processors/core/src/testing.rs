//! What the tests of folds share: events in one line, and rows as readable text.

use std::collections::BTreeMap;

use chalkstream_schemas::{
    ControlBody, ControlPayload, ControlRecord, Epoch, LearningEvent, LogOffset, ParseContext,
    PartitionId, SchoolId, Timestamp, Undated, parse_event,
};
use uuid::Uuid;

use crate::row::{Day, Position, RowSink, RowWriter, TableRow};
use crate::{PartitionState, StateRow};

pub(crate) fn at(time: &str) -> Timestamp {
    Timestamp::parse_rfc3339(time).unwrap()
}

/// An event of the school `lincoln` from the members of its JSON but `id`.
pub(crate) fn event(number: u64, members: &str) -> LearningEvent {
    let school_id = SchoolId::parse("lincoln").unwrap();
    let cx = ParseContext {
        school_id: &school_id,
        received_at: at("2030-01-01T00:00:00Z"),
        batch_sent_at: None,
        undated: Undated::Rejected,
        max_age: None,
        max_future: std::time::Duration::from_secs(600),
        max_event_bytes: 65_536,
    };
    let id = Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + u128::from(number));
    parse_event(format!("{{\"id\":\"{id}\",{members}}}").as_bytes(), &cx).unwrap()
}

/// A graded answer of `user` at a time given in ms.
pub(crate) fn answer(number: u64, user: &str, ms: i64, rest: &str) -> LearningEvent {
    let time = Timestamp::from_ms(ms);
    event(
        number,
        &format!(r#""type":"answer_submitted","user_id":"{user}","occurred_at":"{time}",{rest}"#),
    )
}

pub(crate) fn school_zone(zone: &str) -> ControlRecord {
    ControlRecord {
        control_id: Uuid::from_u128(1),
        issued_at: at("2026-01-01T00:00:00Z"),
        body: ControlBody::SchoolSettings {
            school_id: SchoolId::parse("lincoln").unwrap(),
            name: "Lincoln".into(),
            time_zone: zone.into(),
        },
    }
}

pub(crate) fn bkt(
    id: u128,
    school: Option<&str>,
    version: &str,
    skill: &str,
    init: f64,
) -> ControlRecord {
    let table = chalkstream_schemas::control::encode_bkt(&[chalkstream_schemas::BktSkill {
        skill_id: chalkstream_schemas::SkillId::parse(skill).unwrap(),
        p_init: init,
        p_learn: 0.2,
        p_guess: 0.1,
        p_slip: 0.05,
        p_forget: 0.01,
    }]);
    ControlRecord {
        control_id: Uuid::from_u128(id),
        issued_at: at("2026-01-01T00:00:00Z"),
        body: ControlBody::BktParameters {
            school_id: school.map(|id| SchoolId::parse(id).unwrap()),
            model_version: version.into(),
            table: ControlPayload::Inline(table.unwrap()),
        },
    }
}

pub(crate) fn fresh() -> PartitionState {
    PartitionState::new(PartitionId::new(3), Epoch::new(1))
}

/// A partition restored from states, the last of each key.
pub(crate) fn restored(states: &[StateRow]) -> PartitionState {
    let latest: BTreeMap<_, _> =
        states.iter().map(|row| ((row.kind.clone(), row.key.clone()), row)).collect();
    let mut state = fresh();
    latest.values().for_each(|row| state.restore(row).unwrap());
    state
}

/// A row: cells by column, as text.
pub(crate) type Row = BTreeMap<&'static str, String>;

/// Rows by table, in the order written.
#[derive(Debug, Default)]
pub(crate) struct Rows(pub(crate) Vec<(&'static str, Row)>);

struct Cells(Vec<String>, usize);

impl Cells {
    /// Adds a value: a cell, or a part of the list or map that is open.
    fn put(&mut self, value: String) {
        if self.1 > 0 {
            self.1 -= 1;
            let last = self.0.last_mut().unwrap();
            last.push_str(&value);
            last.push(' ');
        } else {
            self.0.push(value);
        }
    }
    fn open(&mut self, parts: usize) {
        self.0.push(String::new());
        self.1 = parts;
    }
}

impl RowWriter for Cells {
    fn u8(&mut self, value: u8) {
        self.put(value.to_string());
    }
    fn u16(&mut self, value: u16) {
        self.put(value.to_string());
    }
    fn u32(&mut self, value: u32) {
        self.put(value.to_string());
    }
    fn u64(&mut self, value: u64) {
        self.put(value.to_string());
    }
    fn f64(&mut self, value: f64) {
        self.put(value.to_string());
    }
    fn bool(&mut self, value: bool) {
        self.put(value.to_string());
    }
    fn str(&mut self, value: &str) {
        self.put(value.to_owned());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.put(format!("{value:?}"));
    }
    fn uuid(&mut self, value: Uuid) {
        self.put(value.to_string());
    }
    fn hash(&mut self, value: &[u8; 16]) {
        self.put(format!("{value:?}"));
    }
    fn timestamp(&mut self, value: Timestamp) {
        self.put(value.to_string());
    }
    fn date(&mut self, value: Day) {
        let midnight = Timestamp::from_ms(i64::from(value.0) * 86_400_000).to_string();
        self.put(midnight.split('T').next().unwrap().to_owned());
    }
    fn null(&mut self) {
        self.put("NULL".into());
    }
    fn present(&mut self) {}
    fn list(&mut self, items: usize) {
        self.open(items);
    }
    fn map(&mut self, pairs: usize) {
        self.open(pairs * 2);
    }
}

impl RowSink for Rows {
    fn row<R: TableRow>(&mut self, _at: Position, row: &R) {
        let mut cells = Cells(Vec::new(), 0);
        row.write(&mut cells);
        assert_eq!(cells.0.len(), R::COLUMNS.len(), "{}", R::TABLE);
        let names = R::COLUMNS.iter().map(|column| column.name);
        self.0.push((R::TABLE, names.zip(cells.0).collect()));
    }
}

/// The columns that tell rows of a table apart.
fn key(table: &str) -> &'static [&'static str] {
    match table {
        "events_raw" => &["log_partition", "log_offset"],
        "attempts_raw" => &["log_partition", "log_offset", "skill_index"],
        "skill_mastery_state" => &["school_id", "user_id", "skill_id"],
        "sessions_state" => &["school_id", "user_id", "session_id", "started_at", "part"],
        "learner_engagement_daily_state" => &["school_id", "user_id", "course_id", "day", "part"],
        "item_stats_part" => &["school_id", "item_id", "log_partition", "part"],
        "item_learners_state" => &["school_id", "item_id", "user_id"],
        "activity_quarter_hourly_state" => &["school_id", "bucket_at", "user_id", "part"],
        "skill_parameters_raw" => &["school_id", "skill_id", "model_version"],
        "schools_raw" => &["school_id"],
        other => panic!("no key is known for {other}"),
    }
}

impl Rows {
    /// What `FINAL` shows: of each key the row with the highest version, unless it is gone. Rows
    /// of one key and version must be equal. Versions themselves are left out.
    pub(crate) fn visible(&self) -> BTreeMap<(&'static str, Vec<String>), Row> {
        let mut latest: BTreeMap<(&'static str, Vec<String>), Row> = BTreeMap::new();
        let version = |row: &Row| row.get("version").map_or(0, |it| it.parse::<u64>().unwrap());
        for (table, row) in &self.0 {
            let key = (*table, key(table).iter().map(|column| row[column].clone()).collect());
            match latest.get(&key) {
                Some(seen) if version(seen) > version(row) => {}
                Some(seen) if version(seen) == version(row) => assert_eq!(seen, row),
                _ => {
                    latest.insert(key, row.clone());
                }
            }
        }
        latest.retain(|_, row| row.get("gone").is_none_or(|gone| gone == "0"));
        latest.values_mut().for_each(|row| {
            row.remove("version");
        });
        latest
    }

    /// What `FINAL` shows of one table.
    pub(crate) fn of(&self, table: &str) -> Vec<Row> {
        self.visible().into_iter().filter(|(key, _)| key.0 == table).map(|(_, row)| row).collect()
    }
}

/// Folds events from offset 0 on, and drains at the end.
pub(crate) fn fold(events: &[LearningEvent]) -> Rows {
    let (mut state, mut rows) = (fresh(), Rows::default());
    fold_on(&mut state, 0, events, &mut rows);
    state.drain_rows(&mut rows);
    rows
}

pub(crate) fn fold_on(
    state: &mut PartitionState,
    from: u64,
    events: &[LearningEvent],
    rows: &mut Rows,
) {
    for (offset, event) in (from..).zip(events) {
        state.apply_event(LogOffset::new(offset), event, rows);
    }
}

/// One row's cells, in the order asked for, separated by spaces.
pub(crate) fn cells(row: &Row, columns: &str) -> String {
    columns.split(' ').map(|column| row[column].as_str()).collect::<Vec<_>>().join(" ")
}
