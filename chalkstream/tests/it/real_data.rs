//! Real and exact data by HTTP through the whole pipeline, against plain recomputations.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::data::private_data;
use crate::support::{self, Running};

/// Bayesian Knowledge Tracing as the formulas have it (Corbett & Anderson 1995, with forgetting).
#[derive(Clone, Copy, Debug)]
struct Bkt {
    init: f64,
    learn: f64,
    guess: f64,
    slip: f64,
    forget: f64,
}

const DEFAULT: Bkt = Bkt { init: 0.3, learn: 0.1, guess: 0.2, slip: 0.1, forget: 0.0 };

impl Bkt {
    fn predict(&self, known: f64) -> f64 {
        known * (1.0 - self.slip) + (1.0 - known) * self.guess
    }

    fn after(&self, known: f64, correct: bool) -> f64 {
        let (numerator, denominator) = if correct {
            (known * (1.0 - self.slip), known * (1.0 - self.slip) + (1.0 - known) * self.guess)
        } else {
            (known * self.slip, known * self.slip + (1.0 - known) * (1.0 - self.guess))
        };
        let posterior = if denominator == 0.0 { known } else { numerator / denominator };
        posterior * (1.0 - self.forget) + (1.0 - posterior) * self.learn
    }
}

#[derive(Debug, Deserialize)]
struct FilterRow {
    param_set: String,
    prior: f64,
    learn: f64,
    guess: f64,
    slip: f64,
    forget: f64,
    sequence: String,
    step: u32,
    correct: u8,
    p_known_before: f64,
    p_correct: f64,
    p_known_after: f64,
}

#[derive(Debug, Deserialize)]
struct DegenerateRow {
    case: String,
    prior: f64,
    learn: f64,
    guess: f64,
    slip: f64,
    forget: f64,
    correct: u8,
    p_known_before: f64,
    p_correct: f64,
    p_known_after: Option<f64>,
    defined: u8,
}

/// Each parameter set is a skill, each sequence a learner: every row of the exact tables is one
/// row of `attempts`.
#[test]
fn mastery_through_the_pipeline_equals_the_exact_filter() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../stream-processors/core/tests/data/bkt_filter");
    let rows: Vec<FilterRow> = read_csv(&std::fs::read(folder.join("filter_table.csv")).unwrap());
    let degenerate: Vec<DegenerateRow> =
        read_csv(&std::fs::read(folder.join("filter_degenerate.csv")).unwrap());

    let mut skills: BTreeMap<&str, Bkt> = BTreeMap::new();
    let mut events = Vec::new();
    let mut expected: BTreeMap<(String, String, u32), (f64, f64, f64)> = BTreeMap::new();
    for row in &rows {
        let FilterRow { prior: init, learn, guess, slip, forget, .. } = *row;
        skills.insert(&row.param_set, Bkt { init, learn, guess, slip, forget });
        events.push(answer(&row.sequence, &row.param_set, row.correct, events.len()));
        let figures = (row.p_known_before, row.p_correct, row.p_known_after);
        expected.insert((row.sequence.clone(), row.param_set.clone(), row.step), figures);
    }
    for row in &degenerate {
        let DegenerateRow { prior: init, learn, guess, slip, forget, .. } = *row;
        let bkt = Bkt { init, learn, guess, slip, forget };
        skills.insert(&row.case, bkt);
        events.push(answer("degenerate", &row.case, row.correct, events.len()));
        // Where Bayes' rule divides by zero the documented policy is: no update, then learning.
        let after = if row.defined == 1 {
            row.p_known_after.unwrap()
        } else {
            bkt.after(row.p_known_before, row.correct == 1)
        };
        let figures = (row.p_known_before, row.p_correct, after);
        expected.insert(("degenerate".to_owned(), row.case.clone(), 1), figures);
    }

    let folder = tempfile::tempdir().unwrap();
    let pipeline = Running::start(&folder.path().join("data"));
    let parameters = folder.path().join("bkt.csv");
    let mut csv = "skill_id,p_init,p_learn,p_guess,p_slip,p_forget\n".to_owned();
    for (skill, bkt) in &skills {
        let Bkt { init, learn, guess, slip, forget } = bkt;
        writeln!(csv, "{skill},{init},{learn},{guess},{slip},{forget}").unwrap();
    }
    std::fs::write(&parameters, csv).unwrap();
    let loaded = pipeline.json(&["model", "load", "bkt", parameters.to_str().unwrap()]);
    send(&pipeline, &events);
    pipeline.wait_until_visible();

    let query = "SELECT user_id, skill_id, opportunity, p_known_before, predicted_correct, \
                 p_known_after, model_version FROM attempts FORMAT JSONEachRow";
    let mut found = 0;
    for line in pipeline.ask(query).lines() {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let step = u32::try_from(integer(&row["opportunity"])).unwrap();
        let (before, predicted, after) = expected[&(text("user_id"), text("skill_id"), step)];
        for (name, expected) in
            [("p_known_before", before), ("predicted_correct", predicted), ("p_known_after", after)]
        {
            let value = row[name].as_f64().unwrap();
            assert!((value - expected).abs() <= 1e-12, "{name} is {value}, not {expected}: {row}");
        }
        assert_eq!(row["model_version"], loaded["model_version"]);
        found += 1;
    }
    assert_eq!(found, expected.len(), "every row of the tables is one attempt");
    assert!(pipeline.stop(Signal::TERM).success());
}

fn answer(user: &str, skill: &str, correct: u8, number: usize) -> Value {
    json!({
        "id": format!("answer-{number}"), "type": "answer_submitted", "user_id": user,
        "occurred_at": chrono::Utc::now().to_rfc3339(),
        "data": {"item_id": "item", "skill_ids": [skill], "correct": correct == 1},
    })
}

#[derive(Debug, Deserialize)]
struct AnswerRow {
    user_id: String,
    order: u32,
    problem_id: String,
    skill_id: String,
    correct: u8,
}

/// ASSISTments 2009: 325,589 graded answers.
#[test]
fn mastery_of_assist2009_is_bit_for_bit_a_plain_recomputation_in_log_order() {
    let Some(folder) = private_data("assist2009") else { return };
    let mut text = Vec::new();
    let file = std::fs::File::open(folder.join("interactions.csv.gz")).unwrap();
    flate2::read::GzDecoder::new(file).read_to_end(&mut text).unwrap();
    let answers: Vec<AnswerRow> = read_csv(&text);
    assert_eq!(answers.len(), 325_589);
    mastery_is_a_plain_recomputation(&answers);
}

/// The same with generated answers of the same shape: learners take turns, each learns with practice.
#[test]
fn mastery_of_generated_answers_is_bit_for_bit_a_plain_recomputation_in_log_order() {
    let mut random = StdRng::seed_from_u64(2009);
    let mut orders = [0_u32; 300];
    let mut practised: BTreeMap<(usize, u32), u32> = BTreeMap::new();
    let answers: Vec<AnswerRow> = (0..40_000)
        .map(|_| {
            let learner = random.random_range(0..orders.len());
            let skill = random.random_range(0..40_u32);
            let opportunities = practised.entry((learner, skill)).or_default();
            let known = 1.0 - 0.8 * 0.9_f64.powi(i32::try_from(*opportunities).unwrap());
            *opportunities += 1;
            orders[learner] += random.random_range(1..100_u32);
            AnswerRow {
                user_id: format!("learner-{learner}"),
                order: orders[learner],
                problem_id: format!("{skill}-{}", random.random_range(0..20_u32)),
                skill_id: format!("skill-{skill}"),
                correct: u8::from(random.random_bool(0.1 + 0.8 * known)),
            }
        })
        .collect();
    mastery_is_a_plain_recomputation(&answers);
}

/// Sends the answers and recomputes them from `events` in log order, bit for bit.
fn mastery_is_a_plain_recomputation(answers: &[AnswerRow]) {
    let folder = tempfile::tempdir().unwrap();
    let pipeline = Running::start(&folder.path().join("data"));
    let start = chrono::DateTime::from_timestamp(1_252_000_000, 0).unwrap();
    let events: Vec<Value> = answers
        .iter()
        .map(|row| {
            // Half a minute between a learner's answers, increasing in the file's order.
            let at = start + chrono::TimeDelta::seconds(i64::from(row.order) * 30);
            json!({
                "id": format!("{}-{}", row.user_id, row.order), "type": "answer_submitted",
                "user_id": row.user_id, "occurred_at": at.to_rfc3339(),
                "data": {"item_id": row.problem_id, "skill_ids": [row.skill_id],
                         "correct": row.correct == 1},
            })
        })
        .collect();
    send(&pipeline, &events);
    pipeline.wait_until_visible();

    let query = "SELECT user_id, skill_ids[1] AS skill, correct, toUnixTimestamp64Milli(event_time), \
                 log_partition, log_offset FROM events ORDER BY log_partition, log_offset FORMAT TSV";
    let mut state: BTreeMap<(String, String), (f64, u32, u32, i64)> = BTreeMap::new();
    let mut expected_attempts = Vec::with_capacity(answers.len());
    for line in pipeline.ask(query).lines() {
        let [user, skill, correct, at, partition, offset] = fields(line);
        let (correct, at): (bool, i64) = (matches!(correct, "true" | "1"), at.parse().unwrap());
        let entry =
            state.entry((user.to_owned(), skill.to_owned())).or_insert((DEFAULT.init, 0, 0, at));
        let (before, opportunity) = (entry.0, entry.1 + 1);
        let elapsed = (entry.1 > 0).then(|| (at - entry.3) / 1000);
        let after = DEFAULT.after(before, correct);
        *entry = (after, opportunity, entry.2 + u32::from(correct), at);
        expected_attempts.push(format!(
            "{partition}\t{offset}\t{user}\t{skill}\t{opportunity}\t{}\t{}\t{}\t{}\t{}",
            u8::from(correct),
            elapsed.map_or_else(|| "\\N".to_owned(), |seconds| seconds.to_string()),
            before.to_bits(),
            DEFAULT.predict(before).to_bits(),
            after.to_bits(),
        ));
    }
    assert_eq!(expected_attempts.len(), answers.len());

    let query = "SELECT e.log_partition, e.log_offset, a.user_id, a.skill_id, a.opportunity, \
                 toUInt8(a.correct), toInt64(a.elapsed_seconds), \
                 reinterpretAsUInt64(assumeNotNull(a.p_known_before)), \
                 reinterpretAsUInt64(assumeNotNull(a.predicted_correct)), \
                 reinterpretAsUInt64(assumeNotNull(a.p_known_after)) \
                 FROM attempts AS a INNER JOIN events AS e ON e.id = a.event_id \
                 ORDER BY e.log_partition, e.log_offset FORMAT TSV";
    let found = pipeline.ask(query);
    let found: Vec<&str> = found.lines().collect();
    assert_eq!(found.len(), expected_attempts.len(), "rows of attempts");
    let differs = found.iter().zip(&expected_attempts).find(|(a, b)| **a != b.as_str());
    assert!(differs.is_none(), "first different attempt (found, expected): {differs:#?}");

    let query = "SELECT user_id, skill_id, reinterpretAsUInt64(p_known), attempts, correct_count, \
                 toUInt8(mastered) FROM skill_mastery FORMAT TSV";
    let found: BTreeSet<String> = pipeline.ask(query).lines().map(str::to_owned).collect();
    let expected: BTreeSet<String> = state
        .iter()
        .map(|((user, skill), (known, attempts, correct, _at))| {
            let mastered = u8::from(*known >= 0.95);
            format!("{user}\t{skill}\t{}\t{attempts}\t{correct}\t{mastered}", known.to_bits())
        })
        .collect();
    assert!(
        found == expected,
        "skill_mastery: {:#?}",
        found.symmetric_difference(&expected).next()
    );
    assert!(pipeline.stop(Signal::TERM).success());
}

/// Sends events by HTTP in their order, 1,000 a request, with a key that may send old ones.
fn send(pipeline: &Running, events: &[Value]) {
    let key = pipeline.create_key("default", "events:backfill");
    let url = format!("{}/v1/events", pipeline.http_url());
    let http = reqwest::Client::new();
    support::runtime().block_on(async {
        for batch in events.chunks(1_000) {
            let answer = http.post(&url).bearer_auth(&key).json(&batch).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let answer: Value = answer.json().await.unwrap();
            assert_eq!(answer["accepted"].as_u64(), u64::try_from(batch.len()).ok(), "{answer}");
        }
    });
}

fn read_csv<T: serde::de::DeserializeOwned>(text: &[u8]) -> Vec<T> {
    csv::Reader::from_reader(text).deserialize().map(Result::unwrap).collect()
}

fn fields<const N: usize>(line: &str) -> [&str; N] {
    let fields: Vec<&str> = line.split('\t').collect();
    fields.try_into().unwrap_or_else(|_| panic!("{N} fields in {line}"))
}

/// ClickHouse writes 64-bit integers of JSON as text unless told otherwise.
fn integer(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| value.as_str().unwrap().parse().unwrap())
}
