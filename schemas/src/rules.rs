//! Rules over several fields of one payload.
//!
//! In: the members of a payload whose fields are valid one by one. Out: the first rule that it
//! breaks.
//! Always true: each rule here is named in the published schema (`$comment` of the event type).

use crate::Timestamp;
use crate::failure::Failure;
use crate::fields::{COUNT, FieldType, Kind, NUMBER};
use crate::member::Member;
use crate::payload::EventType;
use crate::reason::RejectReason;

impl crate::payload::AnswerSubmitted {
    /// Whether the answer is right, where it was graded.
    pub fn outcome(&self) -> Option<bool> {
        if self.graded == Some(false) { None } else { self.correct }
    }
}

/// The value of a field, where the event has it.
fn value<T: FieldType>(members: &[Member<'_>], field: &str, kind: &Kind) -> Option<T> {
    let member = members.iter().find(|member| !member.absent && member.name() == field)?;
    T::read(&member.value, kind).ok()
}

/// Checks the rules of a payload's type.
pub(crate) fn check(event_type: EventType, members: &[Member<'_>]) -> Result<(), Failure> {
    let truth = |field| value::<bool>(members, field, &Kind::Bool);
    let count = |field| value::<u32>(members, field, &COUNT);
    let time = |field| value::<Timestamp>(members, field, &Kind::Time);
    let max_score = || value::<f64>(members, "max_score", &NUMBER);
    match event_type {
        EventType::AnswerSubmitted => {
            if truth("correct").is_none() && truth("graded") != Some(false) {
                return Err(Failure {
                    reason: RejectReason::MissingField,
                    field: "data.correct".into(),
                    message: "answer_submitted needs data.correct: whether the answer is right; \
                              for an answer that nobody graded send \"graded\": false"
                        .to_owned(),
                });
            }
            Ok(())
        }
        EventType::Session if time("ended_at") < time("started_at") => {
            invalid("data.ended_at", "data.ended_at must not be before data.started_at")
        }
        EventType::Session => match (count("correct_count"), count("items_attempted")) {
            (Some(correct), Some(items)) if correct > items => invalid(
                "data.correct_count",
                "data.correct_count must not be more than data.items_attempted",
            ),
            _ => Ok(()),
        },
        EventType::QuizComplete => match (count("correct_answers"), count("total_questions")) {
            (Some(correct), Some(total)) if correct > total => invalid(
                "data.correct_answers",
                "data.correct_answers must not be more than data.total_questions",
            ),
            _ => positive(max_score()),
        },
        EventType::AssignmentSubmit => positive(max_score()),
        EventType::Login
        | EventType::Logout
        | EventType::ClassroomJoined
        | EventType::ClassroomLeft
        | EventType::CourseEnrollment
        | EventType::LessonStart
        | EventType::LessonComplete
        | EventType::ProgressUpdated
        | EventType::QuizCreated
        | EventType::QuizStarted
        | EventType::QuizEnded
        | EventType::QuestionDisplayed
        | EventType::AnswerGraded
        | EventType::QuizAttempt
        | EventType::DiscussionPost
        | EventType::PeerInteraction
        | EventType::ResourceAccess
        | EventType::VideoWatch
        | EventType::PageView
        | EventType::Placement
        | EventType::HelpRequested
        | EventType::ContentRated
        | EventType::ExperimentExposure
        | EventType::RecommendationShown
        | EventType::RecommendationClicked
        | EventType::AppError
        | EventType::Custom => Ok(()),
    }
}

fn positive(max_score: Option<f64>) -> Result<(), Failure> {
    match max_score {
        Some(score) if score <= 0.0 => {
            invalid("data.max_score", "data.max_score must be more than 0: it is divided by")
        }
        _ => Ok(()),
    }
}

fn invalid(field: &'static str, message: &str) -> Result<(), Failure> {
    Err(Failure {
        reason: RejectReason::InvalidField,
        field: field.into(),
        message: message.to_owned(),
    })
}
