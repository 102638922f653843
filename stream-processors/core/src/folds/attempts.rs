//! `attempts`: one row per graded answer of a learner and skill, the training log.
//!
//! In: the answer, and what the folds filled into its drafts. Out: rows at once, final.
//! Always true: `skill_index` 0 counts answers; a skill named twice in an answer counts once; an
//! answer without a skill has one row with the skill '' and no mastery. Answers of teachers and
//! other staff are not attempts.
//! Not here: ability and easiness, which stay NULL until their folds exist.

use std::borrow::Cow;

use chalkstream_schemas::{Epoch, EventId, LearningEvent, LogOffset, PartitionId, Timestamp};

use crate::control::model_text;
use crate::fold::{AttemptDraft, Owner, Texts, graded_answer};
use crate::row::{RowSink, table_row};
use crate::symbols::Symbol;

table_row! {
    /// One graded answer and skill.
    pub struct AttemptRow<'a> in "attempts_raw" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The learner.
        user_id: &'a str,
        /// The skill, or the empty text.
        skill_id: &'a str,
        /// Which of the answer's skills, from 0.
        skill_index: u16,
        /// The event.
        event_id: EventId,
        /// When it was answered.
        event_time: Timestamp,
        /// The client's session.
        session_id: Option<&'a str>,
        /// The quiz.
        quiz_id: Option<&'a str>,
        /// The attempt at the quiz.
        quiz_attempt_id: Option<&'a str>,
        /// The course.
        course_id: Option<&'a str>,
        /// The class.
        classroom_id: Option<&'a str>,
        /// The question.
        item_id: &'a str,
        /// What was answered.
        answer: Option<&'a str>,
        /// Whether it was right.
        correct: bool,
        /// The share of the points.
        score: Option<f64>,
        /// From question to answer.
        time_taken_ms: Option<u64>,
        /// Which attempt at this question, as the client counts.
        attempt_number: Option<u32>,
        /// Hints used.
        hints_used: Option<u32>,
        /// Quality of recall.
        quality: Option<u8>,
        /// How sure the learner was.
        confidence: Option<u8>,
        /// Which practice of this skill, from 1.
        opportunity: u32,
        /// Seconds since this skill was practised last.
        elapsed_seconds: Option<f64>,
        /// BKT's prediction.
        predicted_correct: Option<f64>,
        /// P(known) before.
        p_known_before: Option<f64>,
        /// P(known) after.
        p_known_after: Option<f64>,
        /// Ability before.
        ability_before: Option<f64>,
        /// Ability after.
        ability_after: Option<f64>,
        /// Easiness before.
        easiness_before: Option<f64>,
        /// Easiness after.
        easiness_after: Option<f64>,
        /// The parameters that were used.
        model_version: &'a str,
        /// The partition.
        log_partition: PartitionId,
        /// The offset.
        log_offset: LogOffset,
    }
}

/// Begins the rows of an event: one draft a skill, none if it is no graded answer of a learner.
pub(crate) fn draft(event: &LearningEvent, texts: &mut Texts, drafts: &mut Vec<AttemptDraft>) {
    drafts.clear();
    let Some((answer, _)) = graded_answer(event) else { return };
    let mut add = |skill| {
        if drafts.iter().all(|draft: &AttemptDraft| draft.skill != skill) {
            drafts.push(AttemptDraft {
                skill,
                opportunity: 0,
                elapsed_ms: None,
                mastery: None,
                model: Symbol::EMPTY,
            });
        }
    };
    if answer.skill_ids.is_empty() {
        add(Symbol::EMPTY);
    }
    for skill in &answer.skill_ids {
        add(texts.symbols.intern(skill.as_str()));
    }
}

/// Writes the rows of an event, once every fold filled in its columns.
#[expect(clippy::cast_precision_loss, reason = "milliseconds stay far below 2^53")]
pub(crate) fn write<S: RowSink>(
    event: &LearningEvent,
    owner: &Owner<'_>,
    drafts: &[AttemptDraft],
    rows: &mut S,
) {
    let Some((answer, correct)) = graded_answer(event) else { return };
    let text: Option<Cow<'_, str>> = answer.answer.as_ref().map(|answer| answer.to_text());
    for (skill_index, draft) in (0..).zip(drafts) {
        rows.row(
            owner.at,
            &AttemptRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                user_id: owner.id,
                skill_id: owner.texts.symbols.text(draft.skill),
                skill_index,
                event_id: event.id,
                event_time: event.event_time,
                session_id: event.session_id.as_ref().map(|id| id.as_str()),
                quiz_id: answer.quiz_id.as_ref().map(|id| id.as_str()),
                quiz_attempt_id: answer.quiz_attempt_id.as_ref().map(|id| id.as_str()),
                course_id: event.course_id.as_ref().map(|id| id.as_str()),
                classroom_id: event.classroom_id.as_ref().map(|id| id.as_str()),
                item_id: answer.item_id.as_str(),
                answer: text.as_deref(),
                correct,
                score: answer.score,
                time_taken_ms: answer.time_taken_ms,
                attempt_number: answer.attempt_number,
                hints_used: answer.hints_used,
                quality: answer.quality,
                confidence: answer.confidence,
                opportunity: draft.opportunity,
                elapsed_seconds: draft.elapsed_ms.map(|ms| ms as f64 / 1000.0),
                predicted_correct: draft.mastery.map(|step| step.predicted_correct),
                p_known_before: draft.mastery.map(|step| step.before),
                p_known_after: draft.mastery.map(|step| step.after),
                ability_before: None,
                ability_after: None,
                easiness_before: None,
                easiness_after: None,
                model_version: model_text(owner.texts, draft.model),
                log_partition: owner.at.partition,
                log_offset: owner.at.offset,
            },
        );
    }
}
