//! Reads the demo's gzip files, and what every source makes of them: one JSON event a row.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// One event with the time by which a school's file is sorted.
#[derive(Clone, Debug)]
pub(crate) struct DemoEvent {
    pub(crate) at: DateTime<Utc>,
    pub(crate) json: Value,
}

impl DemoEvent {
    /// An event of `user_id` at `at`; `data` is the payload, `course_id` goes to the envelope.
    pub(crate) fn new(
        id: String,
        event_type: &str,
        user_id: &str,
        course_id: Option<&str>,
        at: DateTime<Utc>,
        data: Value,
    ) -> Self {
        let mut json = serde_json::json!({
            "id": id,
            "type": event_type,
            "user_id": user_id,
            "occurred_at": at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            "app": "demo",
            "data": data,
        });
        if let Some(course_id) = course_id {
            json["course_id"] = Value::from(course_id);
        }
        Self { at, json }
    }
}

/// The rows of a gzip-compressed CSV file with a header.
pub(crate) fn csv_rows<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut reader = csv::Reader::from_reader(open(path)?);
    let rows: std::result::Result<Vec<T>, csv::Error> = reader.deserialize().collect();
    rows.with_context(|| format!("could not read the rows of {}", path.display()))
}

/// The values of a gzip-compressed file with one JSON value a line.
pub(crate) fn json_lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let mut rows = Vec::new();
    for (number, line) in BufReader::new(open(path)?).lines().enumerate() {
        let line = line.with_context(|| format!("could not read {}", path.display()))?;
        rows.push(
            serde_json::from_str(&line)
                .with_context(|| format!("{} line {}", path.display(), number + 1))?,
        );
    }
    Ok(rows)
}

fn open(path: &Path) -> Result<impl Read + use<>> {
    let file = File::open(path).with_context(|| format!("could not open {}", path.display()))?;
    Ok(GzDecoder::new(file))
}
