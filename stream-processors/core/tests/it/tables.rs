//! Rows and migrations name the same columns, in the same order, of the same types.

use std::collections::BTreeMap;
use std::path::Path;

use chalkstream_core::TableRow;
use chalkstream_core::control::{SchoolRow, SkillParametersRow};
use chalkstream_core::folds::activity_quarter_hourly::ActivityRow;
use chalkstream_core::folds::attempts::AttemptRow;
use chalkstream_core::folds::events::EventRow;
use chalkstream_core::folds::ingest_outcomes::IngestOutcomeRow;
use chalkstream_core::folds::item_stats::{ItemLearnerRow, ItemStatsRow};
use chalkstream_core::folds::learner_engagement_daily::EngagementRow;
use chalkstream_core::folds::rejected_events::RejectedEventRow;
use chalkstream_core::folds::sessions::SessionRow;
use chalkstream_core::folds::skill_mastery::SkillMasteryRow;
use chalkstream_schemas::columns::EVENT_COLUMNS;

fn sql(folder: &str) -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sql").join(folder);
    let mut files: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}

/// `LowCardinality(X)` is stored differently, but inserted as `X`.
fn plain(kind: &str) -> String {
    let mut kind = kind.to_owned();
    while let Some(at) = kind.find("LowCardinality(") {
        let open = at + "LowCardinality".len();
        let mut depth = 0_i32;
        let close = kind[open..].find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let close = open + close.unwrap();
        kind = format!("{}{}{}", &kind[..at], &kind[open + 1..close], &kind[close + 1..]);
    }
    kind
}

/// Name and type of each column between the first brackets that stand alone on their lines.
fn columns(definition: &str) -> Vec<(String, String)> {
    let inner = definition.split("\n(\n").nth(1).unwrap().split("\n)\n").next().unwrap();
    inner
        .lines()
        .filter(|line| !line.contains(" MATERIALIZED "))
        .map(|line| {
            let line = line.trim().trim_end_matches(',');
            let (name, kind) = line.split_once(' ').unwrap();
            let kind = kind.split(" COMMENT ").next().unwrap().split(" CODEC").next().unwrap();
            (name.to_owned(), plain(kind))
        })
        .collect()
}

fn tables() -> BTreeMap<String, Vec<(String, String)>> {
    let mut tables: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for file in sql("migrations") {
        for part in file.split("CREATE TABLE IF NOT EXISTS ").skip(1) {
            tables.insert(part.lines().next().unwrap().to_owned(), columns(part));
        }
        for part in file.split("ALTER TABLE ").skip(1) {
            // Others change settings.
            let Some((table, added)) = part.split_once(" ADD COLUMN IF NOT EXISTS ") else {
                continue;
            };
            let column = columns(&format!("\n(\n{}\n)\n", added.lines().next().unwrap()));
            tables.get_mut(table).unwrap().extend(column);
        }
    }
    tables
}

fn check<R: TableRow>() {
    let rows: Vec<_> =
        R::COLUMNS.iter().map(|column| (column.name.to_owned(), column.kind.to_string())).collect();
    assert_eq!(tables()[R::TABLE], rows, "{}", R::TABLE);
}

#[test]
fn every_row_fits_its_table() {
    check::<EventRow<'_>>();
    check::<AttemptRow<'_>>();
    check::<SkillMasteryRow<'_>>();
    check::<SessionRow<'_>>();
    check::<EngagementRow<'_>>();
    check::<ItemStatsRow<'_>>();
    check::<ItemLearnerRow<'_>>();
    check::<ActivityRow<'_>>();
    check::<SkillParametersRow<'_>>();
    check::<SchoolRow<'_>>();
    check::<RejectedEventRow<'_>>();
    check::<IngestOutcomeRow<'_>>();
}

#[test]
fn the_view_events_has_every_column_but_the_hash() {
    let views = sql("views");
    let view = views.iter().find(|view| view.contains("VIEW events\n")).unwrap();
    let expected: Vec<_> = EVENT_COLUMNS
        .iter()
        .filter(|column| column.name != "content_hash")
        .map(|column| (column.name.to_owned(), column.clickhouse_type()))
        .collect();
    assert_eq!(columns(view), expected);
}

#[test]
fn every_view_and_each_of_its_columns_says_what_it_means() {
    for view in sql("views") {
        assert!(view.contains("\nCOMMENT '"), "a view without a comment:\n{view}");
        let inner = view.split("\n(\n").nth(1).unwrap().split("\n)\n").next().unwrap();
        for line in inner.lines() {
            assert!(line.contains(" COMMENT '"), "a column without a comment: {line}");
        }
    }
}
