//! What an event is, for every other crate: ids, times, event types, reasons, and stored forms.
//!
//! In: bytes of one event. Out: a [`LearningEvent`] or one typed [`Rejection`].
//! Always true: one table ([`payload`]) drives the Rust structs, validation, JSON Schema, protobuf
//! and the typed columns; tests hold the published forms against it.
//! Not here: I/O, clocks, HTTP, and what an event means (folds).
#![warn(missing_docs)]
#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

pub mod arrow;
pub mod batch;
mod canonical;
pub mod columns;
pub mod control;
mod envelope;
pub mod event;
mod failure;
pub mod fields;
pub mod ids;
mod json;
pub mod json_schema;
mod key;
mod member;
mod number;
pub mod outcome;
pub mod parse;
pub mod payload;
pub mod proto;
pub mod reason;
pub mod record;
mod rules;
pub mod time;
pub mod transcode;
mod word;

pub use control::{
    BktSkill, BktTableError, ControlBody, ControlPayload, ControlRecord, TimeZoneError,
};
pub use event::{EventRef, LearningEvent, UserRole};
pub use ids::{
    AssignmentId, ClassroomId, ContentHash, ContentId, CourseId, DiscussionId, Epoch, EventId,
    EventIdentity, ExperimentId, IdError, ItemId, LessonId, LogOffset, PartitionId, QuizAttemptId,
    QuizId, QuizRunId, RecommendationId, ResourceId, RowVersion, SchoolId, SessionId, SkillId,
    UserId, VideoId,
};
pub use key::{learner_of_key, put_record_key, record_key};
pub use outcome::{EventOutcome, OutcomeCounts, OutcomeSeries};
pub use parse::{EventReader, ParseContext, Undated, parse_event};
pub use payload::{Answer, EventType, Payload};
pub use reason::{RefuseReason, RejectReason, Rejection};
pub use record::{DecodeError, LogRecord, RejectedEntry, RejectedRecord};
pub use time::{Timestamp, TimestampError};
