//! Rules over several fields of one payload.
//!
//! In: a payload whose fields are valid one by one. Out: the first rule that it breaks.
//! Always true: each rule here is named in the published schema (`$comment` of the event type).

use crate::failure::Failure;
use crate::payload::Payload;
use crate::reason::RejectReason;

impl crate::payload::AnswerSubmitted {
    /// Whether the answer is right, where it was graded.
    pub fn outcome(&self) -> Option<bool> {
        if self.graded == Some(false) { None } else { self.correct }
    }
}

/// Checks the rules of a payload's type.
pub(crate) fn check(payload: &Payload) -> Result<(), Failure> {
    match payload {
        Payload::AnswerSubmitted(answer) => {
            if answer.correct.is_none() && answer.graded != Some(false) {
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
        Payload::Session(session) if session.ended_at < session.started_at => {
            invalid("data.ended_at", "data.ended_at must not be before data.started_at")
        }
        Payload::Session(session) => match (session.correct_count, session.items_attempted) {
            (Some(correct), Some(items)) if correct > items => invalid(
                "data.correct_count",
                "data.correct_count must not be more than data.items_attempted",
            ),
            _ => Ok(()),
        },
        Payload::QuizComplete(quiz) => match (quiz.correct_answers, quiz.total_questions) {
            (Some(correct), Some(total)) if correct > total => invalid(
                "data.correct_answers",
                "data.correct_answers must not be more than data.total_questions",
            ),
            _ => positive(quiz.max_score),
        },
        Payload::AssignmentSubmit(assignment) => positive(assignment.max_score),
        Payload::Login
        | Payload::Logout
        | Payload::ClassroomJoined
        | Payload::ClassroomLeft
        | Payload::CourseEnrollment(_)
        | Payload::LessonStart(_)
        | Payload::LessonComplete(_)
        | Payload::ProgressUpdated(_)
        | Payload::QuizCreated(_)
        | Payload::QuizStarted(_)
        | Payload::QuizEnded(_)
        | Payload::QuestionDisplayed(_)
        | Payload::AnswerGraded(_)
        | Payload::QuizAttempt(_)
        | Payload::DiscussionPost(_)
        | Payload::PeerInteraction(_)
        | Payload::ResourceAccess(_)
        | Payload::VideoWatch(_)
        | Payload::PageView(_)
        | Payload::Placement(_)
        | Payload::HelpRequested(_)
        | Payload::ContentRated(_)
        | Payload::ExperimentExposure(_)
        | Payload::RecommendationShown(_)
        | Payload::RecommendationClicked(_)
        | Payload::AppError(_)
        | Payload::Custom(_) => Ok(()),
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
