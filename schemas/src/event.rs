//! The event that every other crate works with.
//!
//! Always true: every field has been validated; `data` and `extra` are the text that was received.
//! Not here: reading it ([`crate::parse`]), storing it ([`crate::record`]).

use crate::ids::{
    ClassroomId, ContentHash, CourseId, EventId, EventIdentity, SchoolId, SessionId, UserId,
};
use crate::payload::{EventType, Payload};
use crate::time::Timestamp;

/// Who acted, as the client says; the roster wins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserRole {
    /// A learner.
    #[default]
    Student,
    /// A teacher.
    Teacher,
    /// A learner's parent or guardian.
    Parent,
    /// A school's administrator.
    Admin,
}

impl UserRole {
    /// Every role.
    pub const ALL: &[Self] = &[Self::Student, Self::Teacher, Self::Parent, Self::Admin];
    /// Every role's public name.
    pub const NAMES: &[&str] = &["student", "teacher", "parent", "admin"];

    /// The public name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Student => "student",
            Self::Teacher => "teacher",
            Self::Parent => "parent",
            Self::Admin => "admin",
        }
    }

    /// The role with this public name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == name)
    }
}

/// Something that a person did, or that happened to them, in a learning application.
#[derive(Clone, Debug, PartialEq)]
pub struct LearningEvent {
    /// Idempotency key.
    pub id: EventId,
    /// The id as it was sent, where it was not a UUID.
    pub original_id: Option<Box<str>>,
    /// The school, from the credential.
    pub school_id: SchoolId,
    /// Who acted.
    pub user_id: UserId,
    /// In which role.
    pub user_role: UserRole,
    /// When it happened, by the device's clock.
    pub occurred_at: Timestamp,
    /// When it was sent, by the device's clock.
    pub sent_at: Option<Timestamp>,
    /// When the server took it in.
    pub received_at: Timestamp,
    /// When it happened, corrected for a device clock that is more than five minutes off.
    pub event_time: Timestamp,
    /// The client's session.
    pub session_id: Option<SessionId>,
    /// The course.
    pub course_id: Option<CourseId>,
    /// The class.
    pub classroom_id: Option<ClassroomId>,
    /// The application, such as `whiteboard`.
    pub app: Option<Box<str>>,
    /// The kind of device.
    pub device_type: Option<Box<str>>,
    /// The application's version.
    pub app_version: Option<Box<str>>,
    /// What happened, by type.
    pub payload: Payload,
    /// The JSON text of `data` as received; `{}` if there was none.
    pub data: Box<str>,
    /// The unknown members of the envelope as the text of one JSON object; empty if none.
    pub extra: Box<str>,
    /// The hash of the canonical form (see [`crate::parse`]).
    pub content_hash: ContentHash,
}

impl LearningEvent {
    /// What makes this event the same as another.
    pub fn identity(&self) -> EventIdentity {
        EventIdentity::of(&self.school_id, &self.user_id, self.id)
    }

    /// The type, as an enum.
    pub fn event_type(&self) -> EventType {
        self.payload.event_type()
    }

    /// The canonical name of the type; `custom.<name>` for custom events.
    pub fn type_name(&self) -> &str {
        self.payload.type_name()
    }
}
