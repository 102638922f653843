//! Figures of reports against a small school calculated by hand, and the folds over the lake
//! against a fold of the log.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use chalkstream_batch_jobs::lake::LakeTable;
use chalkstream_batch_jobs::replay;
use chalkstream_batch_jobs::reports::{self, Error, Format, ReportRequest, ReportRun};
use chalkstream_core::{Day, PartitionState, Position, RowSink, RowWriter, TableRow};
use chalkstream_event_log::control;
use chalkstream_event_log::{EventLog, Topic};
use chalkstream_schemas::{
    BktSkill, ControlBody, ControlPayload, Epoch, LogOffset, LogRecord, PartitionId, SchoolId,
    SkillId, Timestamp,
};
use datafusion::arrow::array::{Array, AsArray, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::{Value, json};

use crate::support::{PARTITIONS, SCHOOL, World, answer, at, check_golden, query};

const EPOCH: Epoch = Epoch::new(1);

fn event(kind: &str, user: &str, occurred_at: &str, envelope: Value, data: Value) -> Value {
    let mut event = json!({
        "id": format!("{kind}-{user}-{occurred_at}"),
        "type": kind,
        "user_id": user,
        "occurred_at": occurred_at,
        "data": data,
    });
    for (key, value) in envelope.as_object().unwrap() {
        event[key] = value.clone();
    }
    event
}

fn graded(item: &str, skill: &str, correct: bool, ms: Option<u64>) -> Value {
    let mut data = json!({ "item_id": item, "skill_ids": [skill], "correct": correct });
    if let Some(ms) = ms {
        data["time_taken_ms"] = ms.into();
    }
    data
}

/// The school of the hand-calculated reports, in Berlin; 5 and 6 January 2026 are asked for.
async fn small_school(world: &World) {
    let zone = ControlBody::SchoolSettings {
        school_id: SchoolId::parse(SCHOOL).unwrap(),
        name: "Lincoln".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
    };
    control::publish(world.log.as_ref(), &world.blobs, zone).await.unwrap();
    let class = || json!({ "course_id": "c1", "classroom_id": "k1" });
    let answered =
        |user, occurred_at, data| event("answer_submitted", user, occurred_at, class(), data);
    let events = [
        // 23:59:59 on the 4th in Berlin: before the range, but it counts for mastery.
        answered("amy", "2026-01-04T22:59:59Z", graded("i0", "s", true, Some(9))),
        answered("amy", "2026-01-05T08:10:00Z", graded("i1", "s", true, Some(1000))),
        answered("amy", "2026-01-05T08:20:00Z", graded("i2", "s", false, Some(3000))),
        // 23:59:59 on the 6th: the last second of the range.
        answered("amy", "2026-01-06T22:59:59Z", graded("i3", "s", true, None)),
        // 00:00 on the 7th: after it. It would make the skill mastered.
        answered("amy", "2026-01-06T23:00:00Z", graded("i4", "s", true, Some(9))),
        event(
            "quiz_attempt",
            "amy",
            "2026-01-05T09:00:00Z",
            class(),
            json!({ "quiz_id": "q1", "duration_seconds": 100 }),
        ),
        event(
            "quiz_complete",
            "amy",
            "2026-01-05T09:05:00Z",
            class(),
            json!({ "quiz_id": "q1", "score": 8, "max_score": 10, "duration_seconds": 500 }),
        ),
        event(
            "quiz_complete",
            "amy",
            "2026-01-05T09:10:00Z",
            class(),
            json!({ "quiz_id": "q2", "score": 50 }),
        ),
        event(
            "video_watch",
            "amy",
            "2026-01-05T10:00:00Z",
            class(),
            json!({ "video_id": "v", "duration_seconds": 60 }),
        ),
        event(
            "discussion_post",
            "amy",
            "2026-01-05T10:30:00Z",
            class(),
            json!({ "discussion_id": "d", "duration_seconds": 40 }),
        ),
        event(
            "assignment_submit",
            "amy",
            "2026-01-05T12:00:00Z",
            json!({ "course_id": "c2" }),
            json!({ "assignment_id": "a", "duration_seconds": 30 }),
        ),
        // 00:30 on the 6th in Berlin.
        answered("bob", "2026-01-05T23:30:00Z", graded("i1", "s", false, Some(500))),
        answered("bob", "2026-01-05T23:31:00Z", graded("i2", "u", true, Some(500))),
        answered("bob", "2026-01-05T23:32:00Z", graded("i3", "u", true, Some(500))),
        answered("bob", "2026-01-05T23:33:00Z", graded("i4", "u", true, Some(500))),
        event("peer_interaction", "bob", "2026-01-05T23:40:00Z", class(), json!({})),
        event(
            "page_view",
            "cara, \"C\"",
            "2026-01-06T10:00:00Z",
            json!({}),
            json!({ "page": "/home", "duration_seconds": 5 }),
        ),
        event(
            "answer_submitted",
            "tom",
            "2026-01-05T08:00:00Z",
            json!({ "course_id": "c1", "classroom_id": "k1", "user_role": "teacher" }),
            graded("i1", "s", false, Some(1)),
        ),
    ];
    world.send(SCHOOL, &events).await;
    world.send("washington", &[events[1].clone()]).await;
}

fn request(report: &str, out: &Path) -> ReportRequest {
    ReportRequest {
        report: report.to_owned(),
        school: SchoolId::parse(SCHOOL).unwrap(),
        from: "2026-01-05".parse().unwrap(),
        to: "2026-01-06".parse().unwrap(),
        course: None,
        classroom: None,
        formats: vec![Format::Csv, Format::Xlsx],
        out: out.to_path_buf(),
        lake_version: None,
        epoch: EPOCH,
    }
}

async fn run(world: &World, request: &ReportRequest) -> (ReportRun, String) {
    let run = reports::run(&world.lake, request).await.unwrap();
    let csv = request.out.join(format!("{}.csv", request.report));
    (run, std::fs::read_to_string(csv).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_figures_of_a_small_school_are_those_calculated_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    small_school(&world).await;
    world.archive_all().await;
    let out = folder.path().join("out");
    for report in ["student-performance", "classroom-engagement"] {
        let (run, csv) = run(&world, &request(report, &out)).await;
        check_golden(&format!("{report}.csv"), &csv);
        assert_eq!(run.rows + 1, csv.lines().count());
        assert_eq!(run.model_version, "default");
        assert_eq!(run.parameters["time_zone"], "Europe/Berlin");
        let meta: Value = serde_json::from_slice(
            &std::fs::read(out.join(format!("{report}.meta.json"))).unwrap(),
        )
        .unwrap();
        assert_eq!(meta["run_id"], json!(run.run_id));
        assert_eq!(meta["lake_version"], json!(run.lake_version));
        assert_eq!(meta["sql_hash"].as_str().unwrap().len(), 64);
        assert!(meta["data_as_of"].as_str().unwrap().starts_with("2026-01-01T00:00:00.0"));
    }
    let runs = query(&world.lake, LakeTable::ReportRuns, "SELECT report FROM t").await;
    assert_eq!(runs.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filter_keeps_what_it_names_and_cannot_be_broken_out_of() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    small_school(&world).await;
    world.archive_all().await;
    let out = folder.path().join("out");
    let mut only = request("student-performance", &out);
    only.course = Some("c2".parse().unwrap());
    let (_, csv) = run(&world, &only).await;
    assert_eq!(csv.lines().nth(1), Some("amy,c2,0,0,,,0,,0,1,,1,30"));
    assert_eq!(csv.lines().count(), 2);
    only.course = Some("' OR '1' = '1".parse().unwrap());
    let (run_of_nothing, csv) = run(&world, &only).await;
    assert_eq!((run_of_nothing.rows, csv.lines().count()), (0, 1));
    only.course = None;
    only.school = SchoolId::parse("x' OR school_id <> '").unwrap();
    assert_eq!(run(&world, &only).await.0.rows, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workbook_holds_the_same_cells_and_the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    small_school(&world).await;
    world.archive_all().await;
    let out = folder.path().join("out");
    let asked = request("student-performance", &out);
    let path = out.join("student-performance.xlsx");
    run(&world, &asked).await;
    let first = std::fs::read(&path).unwrap();
    run(&world, &asked).await;
    assert_eq!(first, std::fs::read(&path).unwrap(), "two runs of one version");
    // Python's own zip and XML readers: not the library that wrote it.
    let script = "
import sys, zipfile, xml.etree.ElementTree as E
ns = '{http://schemas.openxmlformats.org/spreadsheetml/2006/main}'
book = zipfile.ZipFile(sys.argv[1])
strings = [''.join(t.text or '' for t in s.iter(ns + 't'))
           for s in E.fromstring(book.read('xl/sharedStrings.xml')).iter(ns + 'si')]
sheet = E.fromstring(book.read('xl/worksheets/sheet1.xml'))
assert sheet.find('.//' + ns + 'pane').get('state') == 'frozen'
for row in list(sheet.iter(ns + 'row'))[:2]:
    print('|'.join(strings[int(c.find(ns + 'v').text)] if c.get('t') == 's' else c.find(ns + 'v').text
                   for c in row.iter(ns + 'c')))
";
    let output = Command::new("python3").args(["-c", script]).arg(&path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let mut lines = text.lines();
    assert!(lines.next().unwrap().starts_with("user_id|course_id|attempts|correct_count|accuracy"));
    assert!(lines.next().unwrap().starts_with("amy|c1|3|2|0.66666666666666"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_asked_for_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let pdf = "pdf".parse::<Format>().unwrap_err();
    assert!(pdf.is_usage() && pdf.hint().unwrap().contains("later version"));
    let mut unknown = request("no-such-report", folder.path());
    let error = reports::run(&world.lake, &unknown).await.unwrap_err();
    assert!(error.is_usage(), "{error}");
    assert!(error.to_string().contains("classroom-engagement, student-performance"));
    unknown.report = "student-performance".to_owned();
    let error = reports::run(&world.lake, &unknown).await.unwrap_err();
    assert!(matches!(error, Error::Lake(_) | Error::Replay(_)) && error.hint().is_some());
    unknown.to = "2025-12-31".parse().unwrap();
    assert!(reports::run(&world.lake, &unknown).await.unwrap_err().is_usage());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_score_of_one_student_does_not_fail_the_schools_report() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let quiz = |user, data| event("quiz_complete", user, "2026-01-05T09:00:00Z", json!({}), data);
    let events = [
        quiz("high", json!({ "quiz_id": "q", "score": 1e15 })),
        quiz("low", json!({ "quiz_id": "q", "score": -1e15, "max_score": 1e-9 })),
        quiz("infinite", json!({ "quiz_id": "q", "score": 1e15, "max_score": 1e-300 })),
        quiz("plain", json!({ "quiz_id": "q", "score": 8, "max_score": 10 })),
    ];
    world.send(SCHOOL, &events).await;
    world.archive_all().await;
    let asked = request("student-performance", &folder.path().join("out"));
    let (_, csv) = run(&world, &asked).await;
    let scores: Vec<_> = csv.lines().skip(1).map(|line| line.split(',').nth(7).unwrap()).collect();
    assert_eq!(scores, ["1000000", "1000000", "-1000000", "80"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiz_tried_as_a_teacher_takes_nothing_from_the_students_quiz() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let begun = json!({ "quiz_id": "q", "duration_seconds": 10 });
    let done = json!({ "quiz_id": "q", "score": 1, "duration_seconds": 30 });
    let teacher = json!({ "user_role": "teacher" });
    let events = [
        event("quiz_attempt", "amy", "2026-01-05T09:00:00Z", teacher, begun),
        event("quiz_complete", "amy", "2026-01-05T09:10:00Z", json!({}), done),
    ];
    world.send(SCHOOL, &events).await;
    world.archive_all().await;
    let asked = request("student-performance", &folder.path().join("out"));
    let (_, csv) = run(&world, &asked).await;
    assert_eq!(csv.lines().nth(1).and_then(|line| line.rsplit(',').next()), Some("30"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attempts_of_the_lake_equal_a_fold_of_the_log_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let publish = |model: &str, p_learn: f64| ControlBody::BktParameters {
        school_id: None,
        model_version: model.to_owned(),
        table: ControlPayload::Inline(
            chalkstream_schemas::control::encode_bkt(&[BktSkill {
                skill_id: SkillId::parse("s1").unwrap(),
                p_init: 0.25,
                p_learn,
                p_guess: 0.2,
                p_slip: 0.1,
                p_forget: 0.05,
            }])
            .unwrap(),
        ),
    };
    for round in 0..6_u32 {
        let events: Vec<_> = (0..60)
            .map(|n| answer(&format!("u{}", n % 7), round * 60 + n, (n * n + round) % 3 == 0))
            .collect();
        world.send(SCHOOL, &events).await;
        world.send(SCHOOL, events.get(..9).unwrap()).await;
        if round == 2 {
            let body = publish("m1", 0.3);
            control::publish(world.log.as_ref(), &world.blobs, body).await.unwrap();
            world.archive_all().await;
        }
    }
    let body = publish("m2", 0.4);
    control::publish(world.log.as_ref(), &world.blobs, body).await.unwrap();
    world.send(SCHOOL, &[answer("u1", 997, true)]).await;
    world.archive_all().await;

    let tables = ["attempts_raw", "skill_mastery_state", "learner_engagement_daily_state"];
    let found = replay::fold_tables(&world.lake, None, EPOCH, None, &tables).await.unwrap();
    let expected = fold_of_the_log(&world).await;
    for table in tables {
        let mut found: Vec<_> = found[table].iter().flat_map(texts).collect();
        let mut expected = expected[table].clone();
        found.sort();
        expected.sort();
        assert!(found.len() >= 7, "{table} has {} rows", found.len());
        assert_eq!(found, expected, "{table}");
    }
    let models: Vec<_> = found["attempts_raw"].iter().flat_map(texts).collect();
    for model in ["default", "m1", "m2"] {
        assert!(models.iter().any(|row| row.iter().any(|cell| cell == model)), "{model}");
    }
}

/// Folds the log as it is, dropping duplicates by the first offset, without any of the lake's code.
async fn fold_of_the_log(world: &World) -> BTreeMap<&'static str, Vec<Vec<String>>> {
    let mut rows = Texts::default();
    for partition in (0..PARTITIONS).map(PartitionId::new) {
        let mut state = PartitionState::new(partition, EPOCH);
        let mut seen = std::collections::BTreeSet::new();
        let mut from = LogOffset::ZERO;
        loop {
            let records = world.log.read(Topic::Events, partition, from, 1 << 20).await.unwrap();
            let Some(last) = records.last() else { break };
            from = last.offset.next();
            for record in records {
                match LogRecord::decode(&record.key, &record.payload).unwrap() {
                    LogRecord::Event(event) => {
                        if seen.insert(event.identity()) {
                            state.apply_event(record.offset, &event, &mut rows);
                        }
                    }
                    LogRecord::Control(control) => {
                        let bytes = match &control.body {
                            ControlBody::BktParameters { table, .. } => {
                                control::resolve(&world.blobs, table).await.unwrap()
                            }
                            ControlBody::SchoolSettings { .. } => Default::default(),
                        };
                        state.apply_control(record.offset, &control, &bytes, &mut rows).unwrap();
                    }
                }
            }
        }
        state.drain_rows(&mut rows);
    }
    rows.0
}

/// Rows as texts, cell by cell.
#[derive(Default)]
struct Texts(BTreeMap<&'static str, Vec<Vec<String>>>);

impl RowSink for Texts {
    fn row<R: TableRow>(&mut self, _at: Position, row: &R) {
        let mut cells = Cells(Vec::new());
        row.write(&mut cells);
        self.0.entry(R::TABLE).or_default().push(cells.0);
    }
}

struct Cells(Vec<String>);

impl RowWriter for Cells {
    fn u8(&mut self, value: u8) {
        self.0.push(value.to_string());
    }
    fn u16(&mut self, value: u16) {
        self.0.push(value.to_string());
    }
    fn u32(&mut self, value: u32) {
        self.0.push(value.to_string());
    }
    fn u64(&mut self, value: u64) {
        self.0.push(value.to_string());
    }
    fn f64(&mut self, value: f64) {
        self.0.push(value.to_bits().to_string());
    }
    fn bool(&mut self, value: bool) {
        self.0.push(value.to_string());
    }
    fn str(&mut self, value: &str) {
        self.0.push(value.to_owned());
    }
    fn bytes(&mut self, value: &[u8]) {
        self.0.push(String::from_utf8_lossy(value).into_owned());
    }
    fn uuid(&mut self, value: uuid::Uuid) {
        self.0.push(value.to_string());
    }
    fn hash(&mut self, value: &[u8; 16]) {
        self.0.push(format!("{value:?}"));
    }
    fn timestamp(&mut self, value: Timestamp) {
        self.0.push(value.as_us().to_string());
    }
    fn date(&mut self, value: Day) {
        self.0.push(value.0.to_string());
    }
    fn null(&mut self) {
        self.0.push(String::new());
    }
    fn present(&mut self) {}
    fn list(&mut self, _items: usize) {}
    fn map(&mut self, _pairs: usize) {}
}

/// Rows of a batch as the same texts: floats by their bits, times and days by their numbers.
fn texts(batch: &RecordBatch) -> Vec<Vec<String>> {
    let columns: Vec<_> = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Timestamp(..) => cast(column, &DataType::Int64).unwrap(),
            DataType::Date32 => cast(column, &DataType::Int32).unwrap(),
            _ => std::sync::Arc::clone(column),
        })
        .collect();
    let options = FormatOptions::default();
    (0..batch.num_rows())
        .map(|row| {
            columns
                .iter()
                .map(|column| match column.data_type() {
                    DataType::Float64 if !column.is_null(row) => {
                        let floats =
                            column.as_primitive::<datafusion::arrow::datatypes::Float64Type>();
                        floats.value(row).to_bits().to_string()
                    }
                    _ => ArrayFormatter::try_new(column, &options).unwrap().value(row).to_string(),
                })
                .collect()
        })
        .collect()
}

#[test]
fn times_of_the_fixture_are_where_the_support_says() {
    assert_eq!(at(0), "2026-01-01T00:00:00.000Z");
}
