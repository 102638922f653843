//! The forward filter against tables computed in exact rational arithmetic.

use super::*;

/// A table of `tests/data/bkt_filter`, made for this project.
fn table(name: &str) -> Vec<csv::StringRecord> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/bkt_filter/");
    let mut reader = csv::Reader::from_path(format!("{folder}{name}")).unwrap();
    reader.records().map(Result::unwrap).collect()
}

fn number(record: &csv::StringRecord, at: usize) -> f64 {
    record.get(at).unwrap().parse().unwrap()
}

fn parameters(record: &csv::StringRecord) -> Parameters {
    Parameters {
        init: number(record, 1),
        learn: number(record, 2),
        guess: number(record, 3),
        slip: number(record, 4),
        forget: number(record, 5),
    }
}

#[track_caller]
fn close(found: f64, expected: f64, record: &csv::StringRecord) {
    assert!((found - expected).abs() <= 1e-13, "{found} is not {expected} in {record:?}");
}

#[test]
fn every_row_of_the_filter_table_is_met() {
    let rows = table("filter_table.csv");
    assert_eq!(rows.len(), 8 * 64 * 6);
    let mut known = Known::new(0.0);
    for row in &rows {
        let bkt = parameters(row);
        if &row[7] == "1" {
            known = bkt.start();
        }
        let correct = &row[8] == "1";
        close(known.p(), number(row, 9), row);
        close(bkt.predicted_correct(known), number(row, 10), row);
        close(bkt.posterior(known, correct).p(), number(row, 11), row);
        known = bkt.after(known, correct);
        close(known.p(), number(row, 12), row);
    }
}

#[test]
fn an_impossible_answer_leaves_the_probability_and_learning_goes_on() {
    let rows = table("filter_degenerate.csv");
    assert!(!rows.is_empty());
    for row in &rows {
        let (bkt, correct) = (parameters(row), &row[6] == "1");
        let known = bkt.start();
        close(known.p(), number(row, 7), row);
        close(bkt.predicted_correct(known), number(row, 8), row);
        let (posterior, after) = (bkt.posterior(known, correct).p(), bkt.after(known, correct).p());
        if &row[11] == "1" {
            close(posterior, number(row, 9), row);
            close(after, number(row, 10), row);
        } else {
            close(posterior, known.p(), row);
            close(after, known.p() * (1.0 - bkt.forget) + (1.0 - known.p()) * bkt.learn, row);
        }
    }
}

#[test]
fn both_ends_are_kept_exactly() {
    for p in [0.0, 1e-300, 0.3, 0.5, 0.75, 1.0 - f64::EPSILON, 1.0] {
        let known = Known::new(p);
        assert_eq!((known.p(), known.not_p()), (p, 1.0 - p));
        assert_eq!(Known::from_bits(known.to_bits()), known);
    }
}
