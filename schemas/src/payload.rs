//! The event types: one table from which structs, validation, schemas and columns follow.
//!
//! To add an event type, add it to the table below and run the tests once with
//! `CHALKSTREAM_BLESS=1`, which renews `proto/…/events.proto` and its snapshot. To add a field, do
//! the same. Numbers are protobuf's: never change or reuse one.
//! Always true: a payload was validated when it was made; its fields are exactly the table's.
//! Not here: rules over several fields ([`crate::rules`]), the envelope ([`crate::parse`]).

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::columns::{self, ColumnValue};
use crate::failure::Failure;
use crate::fields::{COUNT, Field, FieldType, Kind, NUMBER, POSITIVE, SECONDS, SHARE};
use crate::ids::{
    AssignmentId, ContentId, DiscussionId, ExperimentId, ItemId, LessonId, QuizAttemptId, QuizId,
    QuizRunId, RecommendationId, ResourceId, SkillId, UserId, VideoId,
};
use crate::member::{Checked, Member, store};
use crate::proto::events::v1::learning_event;
use crate::time::Timestamp;
use crate::transcode::{Object, ProtoField as _};

mod define;

use define::{event_types, finish, is_required, present, rust_type, store_each};

/// What a learner answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// A text, or the name of an option.
    Text(Box<str>),
    /// A number.
    Number(f64),
    /// Several options or gaps; numbers as their JSON text.
    Many(Vec<Box<str>>),
}

impl Answer {
    /// The answer as one text: several parts become a JSON array of strings.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Many(parts) => {
                let parts = parts.iter().map(|part| serde_json::Value::from(&**part));
                Cow::Owned(serde_json::Value::from_iter(parts).to_string())
            }
        }
    }
}

/// What the table says of one event type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TypeInfo {
    /// The type.
    pub event_type: EventType,
    /// The canonical name.
    pub name: &'static str,
    /// Other names that are accepted.
    pub aliases: &'static [&'static str],
    /// The name of its Rust struct and protobuf message.
    pub message: &'static str,
    /// Its number in the protobuf `oneof`; never used again for another type.
    pub number: u32,
    /// Envelope fields that this type requires.
    pub envelope: &'static [&'static str],
    /// The fields of `data`.
    pub fields: &'static [Field],
    /// What the event means, as a phrase.
    pub doc: &'static str,
}

/// The field of this name, found by the compiler.
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a mistake stops the build")]
const fn named(fields: &'static [Field], name: &str) -> &'static Field {
    let mut at = 0;
    while !columns::same(fields[at].name.as_bytes(), name.as_bytes()) {
        at += 1;
    }
    &fields[at]
}

/// The number of custom events in the protobuf `oneof`.
pub const CUSTOM_NUMBER: u32 = 99;

/// `custom.` and 1 to 64 letters, digits, `_`, `-` or `.`.
fn is_custom_name(name: &str) -> bool {
    name.strip_prefix("custom.").is_some_and(|rest| {
        (1..=64).contains(&rest.len())
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
    })
}

event_types! {
    bare {
        /// Somebody signed in.
        100 Login = "login" | "student_login" [];
        /// Somebody signed out.
        101 Logout = "logout" | "student_logout" [];
        /// Somebody joined a class.
        123 ClassroomJoined = "classroom_joined" ["classroom_id"];
        /// Somebody left a class.
        124 ClassroomLeft = "classroom_left" ["classroom_id"];
    }
    with_data {
        /// A learner's place in a course changed.
        102 CourseEnrollment = "course_enrollment" ["course_id"] {
            /// What the place is now.
            1 opt status: Box<str> = Kind::Word(&["enrolled", "unenrolled", "completed"]);
            /// How the course ended.
            2 opt result: Box<str> = Kind::Word(&["pass", "fail", "withdrawn", "distinction"]);
            /// The final score, in the course's own scale.
            3 opt final_score: f64 = NUMBER;
            /// How often the learner took this course before.
            4 opt prior_attempts: u32 = COUNT;
            /// What the learner brings along, in the application's words.
            5 opt experience_level: Box<str> = Kind::Text;
            /// The track within the course.
            6 opt track: Box<str> = Kind::Text;
        }
        /// A learner began a lesson.
        103 LessonStart = "lesson_start" | "lesson_started" [] {
            /// The lesson.
            1 req lesson_id: LessonId = Kind::Id;
        }
        /// A learner finished a lesson.
        104 LessonComplete = "lesson_complete" [] {
            /// The lesson.
            1 req lesson_id: LessonId = Kind::Id;
            /// How long it took, in seconds.
            2 opt duration_seconds: f64 = SECONDS;
            /// The share of the lesson that is done.
            3 opt progress: f64 = SHARE;
        }
        /// A learner's progress in a course changed.
        105 ProgressUpdated = "progress_updated" ["course_id"] {
            /// The share of the course, or of the lesson if one is named, that is done.
            1 req progress: f64 = SHARE;
            /// The lesson, if the progress is in one.
            2 opt lesson_id: LessonId = Kind::Id;
            /// The time spent since the last such event, in seconds.
            3 opt duration_seconds: f64 = SECONDS;
        }
        /// A teacher made a quiz.
        106 QuizCreated = "quiz_created" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The run of the quiz.
            2 opt quiz_run_id: QuizRunId = Kind::Id;
            /// The quiz's title.
            3 opt title: Box<str> = Kind::Text;
            /// How many questions it has.
            4 opt question_count: u32 = COUNT;
        }
        /// A teacher started a quiz in class.
        107 QuizStarted = "quiz_started" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The run of the quiz.
            2 opt quiz_run_id: QuizRunId = Kind::Id;
            /// The quiz's title.
            3 opt title: Box<str> = Kind::Text;
            /// How many questions it has.
            4 opt question_count: u32 = COUNT;
        }
        /// A teacher ended a quiz in class.
        108 QuizEnded = "quiz_ended" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The run of the quiz.
            2 opt quiz_run_id: QuizRunId = Kind::Id;
            /// The quiz's title.
            3 opt title: Box<str> = Kind::Text;
            /// How many questions it has.
            4 opt question_count: u32 = COUNT;
        }
        /// A question of a running quiz was shown.
        109 QuestionDisplayed = "question_displayed" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The question that was shown.
            2 req item_id | "question_id": ItemId = Kind::Id;
            /// The run of the quiz.
            3 opt quiz_run_id: QuizRunId = Kind::Id;
        }
        /// A learner answered a question.
        110 AnswerSubmitted = "answer_submitted" | "question_submitted" [] {
            /// The question that was answered.
            1 req item_id | "question_id": ItemId = Kind::Id;
            /// Whether the answer is right; required unless `graded` is false.
            2 opt correct: bool = Kind::Bool;
            /// Whether the answer was graded; true if absent.
            3 opt graded: bool = Kind::Bool;
            /// The quiz that the question belongs to.
            4 opt quiz_id: QuizId = Kind::Id;
            /// The learner's attempt at the quiz.
            5 opt quiz_attempt_id: QuizAttemptId = Kind::Id;
            /// The skills that the question practises.
            6 list skill_ids | "topics": Vec<SkillId> = Kind::Ids;
            /// What was answered.
            7 opt answer | "selected": Answer = Kind::Answer;
            /// The share of the points that was reached.
            8 opt score: f64 = SHARE;
            /// The time from question to answer, in milliseconds.
            9 opt time_taken_ms | "time_spent": u64 = Kind::Millis;
            /// Which attempt at this question it is, from 1.
            10 opt attempt_number: u32 = Kind::Integer { min: 1, max: u32::MAX as u64 };
            /// How many hints were used.
            11 opt hints_used: u32 = COUNT;
            /// The quality of recall, from 0 (blackout) to 5 (perfect).
            12 opt quality: u8 = Kind::Integer { min: 0, max: 5 };
            /// How sure the learner was, from 1 to 5.
            13 opt confidence: u8 = Kind::Integer { min: 1, max: 5 };
            /// The kind of mistake, in the application's words.
            14 opt error_kind: Box<str> = Kind::Text;
            /// Points given in the application.
            15 opt points: f64 = NUMBER;
        }
        /// An answer was graded later, by a person or a service.
        111 AnswerGraded = "answer_graded" [] {
            /// The `id` of the `answer_submitted` event.
            1 req answer_event_id: Box<str> = Kind::Id;
            /// Whether the answer is right.
            2 req correct: bool = Kind::Bool;
            /// The share of the points that was reached.
            3 opt score: f64 = SHARE;
            /// The kind of feedback given, in the application's words.
            4 opt feedback_kind: Box<str> = Kind::Text;
        }
        /// A learner began a quiz.
        112 QuizAttempt = "quiz_attempt" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The learner's attempt.
            2 opt quiz_attempt_id: QuizAttemptId = Kind::Id;
            /// The time spent, in seconds.
            3 opt duration_seconds: f64 = SECONDS;
        }
        /// A learner finished a quiz.
        113 QuizComplete = "quiz_complete" [] {
            /// The quiz.
            1 req quiz_id: QuizId = Kind::Id;
            /// The score that was reached.
            2 req score: f64 = NUMBER;
            /// The score that can be reached; 100 if absent.
            3 opt max_score: f64 = POSITIVE;
            /// Whether the quiz was passed.
            4 opt passed: bool = Kind::Bool;
            /// How many answers were right.
            5 opt correct_answers: u32 = COUNT;
            /// How many questions there were.
            6 opt total_questions: u32 = COUNT;
            /// The learner's attempt.
            7 opt quiz_attempt_id: QuizAttemptId = Kind::Id;
            /// The time spent, in seconds.
            8 opt duration_seconds: f64 = SECONDS;
        }
        /// A learner handed in an assignment.
        114 AssignmentSubmit = "assignment_submit" [] {
            /// The assignment.
            1 req assignment_id: AssignmentId = Kind::Id;
            /// The score that was reached.
            2 opt score: f64 = NUMBER;
            /// The score that can be reached.
            3 opt max_score: f64 = POSITIVE;
            /// Whether it came after it was due.
            4 opt late: bool = Kind::Bool;
            /// The time spent, in seconds.
            5 opt duration_seconds: f64 = SECONDS;
        }
        /// Somebody took part in a discussion.
        115 DiscussionPost = "discussion_post" [] {
            /// The discussion.
            1 req discussion_id: DiscussionId = Kind::Id;
            /// What they did.
            2 opt action: Box<str> = Kind::Word(&["asked", "answered", "posted", "replied", "voted"]);
            /// The time spent, in seconds.
            3 opt duration_seconds: f64 = SECONDS;
        }
        /// Learners worked with each other.
        116 PeerInteraction = "peer_interaction" [] {
            /// The other learner.
            1 opt peer_user_id: UserId = Kind::Id;
            /// The time spent, in seconds.
            2 opt duration_seconds: f64 = SECONDS;
        }
        /// A learner opened a resource.
        117 ResourceAccess = "resource_access" | "content_viewed" [] {
            /// The resource that was opened.
            1 req resource_id: ResourceId = Kind::Id;
            /// The kind of resource, in the application's words.
            2 opt kind: Box<str> = Kind::Text;
            /// The time spent, in seconds.
            3 opt duration_seconds: f64 = SECONDS;
        }
        /// A learner watched a video.
        118 VideoWatch = "video_watch" [] {
            /// The video.
            1 req video_id: VideoId = Kind::Id;
            /// The time watched, in seconds.
            2 req duration_seconds: f64 = SECONDS;
            /// Where in the video watching began, in seconds.
            3 opt position_start: f64 = SECONDS;
            /// Where in the video watching ended, in seconds.
            4 opt position_end: f64 = SECONDS;
            /// How long the video is, in seconds.
            5 opt video_length: f64 = SECONDS;
            /// What the learner did.
            6 opt action: Box<str> = Kind::Word(&["play", "pause", "seek", "complete"]);
        }
        /// Somebody viewed a page.
        119 PageView = "page_view" [] {
            /// The page: a path or name.
            1 req page: Box<str> = Kind::Text;
            /// The time spent, in seconds.
            2 opt duration_seconds: f64 = SECONDS;
            /// Where they came from.
            3 opt referrer: Box<str> = Kind::Text;
        }
        /// A learner's session ended, as the client counts sessions.
        120 Session = "session" [] {
            /// When it began, by the device's clock.
            1 req started_at: Timestamp = Kind::Time;
            /// When it ended, by the device's clock.
            2 req ended_at: Timestamp = Kind::Time;
            /// The kind of session.
            3 opt session_type: Box<str> = Kind::Word(&["practice", "review", "mock_test", "placement"]);
            /// How many questions were attempted.
            4 opt items_attempted: u32 = COUNT;
            /// How many of them were answered right.
            5 opt correct_count: u32 = COUNT;
            /// The time spent on questions, in milliseconds.
            6 opt total_time_ms: u64 = Kind::Millis;
            /// The skills that were practised.
            7 list skills_practiced: Vec<SkillId> = Kind::Ids;
            /// The mean difficulty of the questions.
            8 opt average_difficulty: f64 = NUMBER;
        }
        /// A placement test found where a learner stands.
        121 Placement = "placement" [] {
            /// Ability (theta) by skill.
            1 req abilities: BTreeMap<SkillId, f64> = Kind::SkillNumbers { min: -crate::fields::NUMBER_MAX, max: crate::fields::NUMBER_MAX };
            /// Probability of mastery by skill.
            2 opt mastery: BTreeMap<SkillId, f64> = Kind::SkillNumbers { min: 0.0, max: 1.0 };
        }
        /// A learner asked for help.
        122 HelpRequested = "help_requested" [] {
            /// The question that help was asked for.
            1 opt item_id | "question_id": ItemId = Kind::Id;
            /// The kind of help.
            2 opt kind: Box<str> = Kind::Word(&["hint", "solution", "person"]);
        }
        /// Somebody rated content.
        125 ContentRated = "content_rated" [] {
            /// The content that was rated.
            1 req content_id: ContentId = Kind::Id;
            /// The rating, from 1 to 5.
            2 req rating: f64 = Kind::Number { min: 1.0, max: 5.0 };
        }
        /// A learner met a variant of an experiment.
        126 ExperimentExposure = "experiment_exposure" [] {
            /// The experiment.
            1 req experiment_id: ExperimentId = Kind::Id;
            /// The variant that the learner met.
            2 req variant: Box<str> = Kind::Id;
        }
        /// A recommendation was shown.
        127 RecommendationShown = "recommendation_shown" [] {
            /// The recommendation.
            1 req recommendation_id: RecommendationId = Kind::Id;
            /// The content that was recommended.
            2 req content_id: ContentId = Kind::Id;
            /// How it was chosen.
            3 opt strategy: Box<str> = Kind::Text;
            /// Its place in the list.
            4 opt position: u32 = COUNT;
        }
        /// A recommendation was followed.
        128 RecommendationClicked = "recommendation_clicked" [] {
            /// The recommendation.
            1 req recommendation_id: RecommendationId = Kind::Id;
            /// The content that was recommended.
            2 req content_id: ContentId = Kind::Id;
            /// How it was chosen.
            3 opt strategy: Box<str> = Kind::Text;
            /// Its place in the list.
            4 opt position: u32 = COUNT;
        }
        /// An application met an error.
        129 AppError = "app_error" [] {
            /// What went wrong.
            1 req message: Box<str> = Kind::Text;
            /// The application's code for it.
            2 opt code: Box<str> = Kind::Text;
        }
    }
}
