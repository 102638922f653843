//! What the demo sends, and what must come of it: computed from the data alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::data::DemoEvent;

/// Every hundredth event is sent a second time, this many events later.
const REPEAT_EVERY: usize = 100;
const REPEAT_DISTANCE: usize = 700;
/// Every so many events one is followed by a broken copy under another id.
const BREAK_EVERY: usize = 2_000;
/// Mastery's parameters until a model is loaded (Corbett & Anderson 1995): init, learn, guess, slip.
const DEFAULT_BKT: [f64; 4] = [0.3, 0.1, 0.2, 0.1];

/// One school's file and the figures that it must lead to.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) school: &'static str,
    pub(crate) sent: u64,
    pub(crate) accepted: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    pub(crate) answers: u64,
    pub(crate) correct: u64,
    pub(crate) video_ms: u64,
    /// (user, skill) -> P(known) after the learner's last answer.
    pub(crate) mastery: BTreeMap<(String, String), f64>,
    pub(crate) learners_with_answers: u64,
}

impl Plan {
    /// Sorts `events` by time, writes them with repeats and broken ones to `file`, one JSON a line.
    pub(crate) fn write(
        school: &'static str,
        mut events: Vec<DemoEvent>,
        file: &Path,
    ) -> Result<Self> {
        events.sort_by_key(|event| event.at);
        let out =
            File::create(file).with_context(|| format!("could not make {}", file.display()))?;
        let mut out = BufWriter::new(out);
        let mut plan = Self {
            school,
            sent: 0,
            accepted: 0,
            duplicate: 0,
            rejected: 0,
            answers: 0,
            correct: 0,
            video_ms: 0,
            mastery: BTreeMap::new(),
            learners_with_answers: 0,
        };
        for (index, event) in events.iter().enumerate() {
            plan.send(&event.json, &mut out)?;
            plan.accepted += 1;
            plan.expect(&event.json)?;
            if index % REPEAT_EVERY == 0 && index >= REPEAT_DISTANCE {
                plan.send(&events[index - REPEAT_DISTANCE].json, &mut out)?;
                plan.duplicate += 1;
            }
            if index % BREAK_EVERY == BREAK_EVERY - 1 {
                plan.send(&broken(&event.json, index), &mut out)?;
                plan.rejected += 1;
            }
        }
        out.flush().with_context(|| format!("could not write {}", file.display()))?;
        let learners: BTreeSet<&String> = plan.mastery.keys().map(|(user, _)| user).collect();
        plan.learners_with_answers = u64::try_from(learners.len())?;
        Ok(plan)
    }

    fn send(&mut self, json: &Value, out: &mut impl Write) -> Result<()> {
        writeln!(out, "{json}").context("could not write an event")?;
        self.sent += 1;
        Ok(())
    }

    fn expect(&mut self, event: &Value) -> Result<()> {
        let data = &event["data"];
        match event["type"].as_str() {
            Some("answer_submitted") => {
                let correct = data["correct"].as_bool().context("an answer is graded")?;
                let user = event["user_id"].as_str().context("an answer has a learner")?;
                let skill = data["skill_ids"][0].as_str().context("an answer has a skill")?;
                self.answers += 1;
                self.correct += u64::from(correct);
                let known = self
                    .mastery
                    .entry((user.to_owned(), skill.to_owned()))
                    .or_insert(DEFAULT_BKT[0]);
                *known = after_answer(*known, correct);
            }
            Some("video_watch") => {
                let seconds =
                    data["duration_seconds"].as_f64().context("a watch has a duration")?;
                self.video_ms += millis(seconds);
            }
            _ => {}
        }
        Ok(())
    }
}

/// A copy of a good event with one fault, under an id of its own.
fn broken(event: &Value, index: usize) -> Value {
    let mut event = event.clone();
    event["id"] = json!(format!("broken/{index}"));
    match index / BREAK_EVERY % 4 {
        0 => event["data"] = json!({}),
        1 => event["type"] = json!("answer_sumbitted"),
        2 => event["occurred_at"] = json!("yesterday"),
        _ => event["user_id"] = json!(""),
    }
    if event["type"] == "course_enrollment" && event["data"] == json!({}) {
        event["course_id"] = Value::Null;
    }
    event
}

/// P(known) after one answer: Bayes' rule, then the learning step.
fn after_answer(known: f64, correct: bool) -> f64 {
    let [_, learn, guess, slip] = DEFAULT_BKT;
    let (if_known, if_unknown) = if correct { (1.0 - slip, guess) } else { (slip, 1.0 - guess) };
    let posterior = known * if_known / (known * if_known + (1.0 - known) * if_unknown);
    posterior + (1.0 - posterior) * learn
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "durations of the data are non-negative and far below 2^53 ms"
)]
fn millis(seconds: f64) -> u64 {
    (seconds * 1000.0).round() as u64
}
