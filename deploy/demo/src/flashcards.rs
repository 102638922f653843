//! One person's flashcard reviews: each is a graded answer of the skill `flashcards`.

use std::path::Path;

use anyhow::Result;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use crate::data::{DemoEvent, csv_rows};

#[derive(Deserialize)]
struct ReviewRow {
    card_id: String,
    review_rating: u8,
    review_time: DateTime<Utc>,
    review_duration: u64,
}

/// Every review; rating 1 is a wrong answer, quality is the rating + 1.
pub(crate) fn events(folder: &Path) -> Result<Vec<DemoEvent>> {
    let rows: Vec<ReviewRow> = csv_rows(&folder.join("review_logs_josh.csv.gz"))?;
    let event = |(number, row): (usize, ReviewRow)| {
        DemoEvent::new(
            format!("flashcards/review/{number}"),
            "answer_submitted",
            "learner-1",
            None,
            row.review_time,
            json!({
                "item_id": row.card_id,
                "skill_ids": ["flashcards"],
                "correct": row.review_rating > 1,
                "quality": row.review_rating + 1,
                "time_taken_ms": row.review_duration,
            }),
        )
    };
    Ok(rows.into_iter().enumerate().map(event).collect())
}
