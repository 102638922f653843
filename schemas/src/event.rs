//! The event that every other crate works with.
//!
//! Always true: every field has been validated; `data` and `extra` are the text that was received.
//! Not here: reading it ([`crate::parse`]), storing it ([`crate::record`]).

use std::borrow::Cow;

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

    /// The event by reference, such as it is stored.
    pub fn by_ref(&self) -> EventRef<'_> {
        EventRef {
            id: self.id,
            original_id: self.original_id.as_deref().map(Cow::Borrowed),
            school_id: &self.school_id,
            user_id: self.user_id.as_str().into(),
            user_role: self.user_role,
            occurred_at: self.occurred_at,
            sent_at: self.sent_at,
            received_at: self.received_at,
            event_time: self.event_time,
            session_id: self.session_id.as_ref().map(|id| id.as_str().into()),
            course_id: self.course_id.as_ref().map(|id| id.as_str().into()),
            classroom_id: self.classroom_id.as_ref().map(|id| id.as_str().into()),
            app: self.app.as_deref().map(Cow::Borrowed),
            device_type: self.device_type.as_deref().map(Cow::Borrowed),
            app_version: self.app_version.as_deref().map(Cow::Borrowed),
            event_type: self.event_type(),
            type_name: self.type_name().into(),
            data: &self.data,
            extra: (&*self.extra).into(),
            content_hash: self.content_hash,
        }
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

/// A [`LearningEvent`] by reference, most often into the bytes that it was received in.
///
/// Always true: every field has been validated, those of `data` included. What is owned here was
/// written with escapes, or is a value that had to be put together.
#[derive(Clone, Debug, PartialEq)]
pub struct EventRef<'a> {
    /// Idempotency key.
    pub id: EventId,
    /// The id as it was sent, where it was not a UUID.
    pub original_id: Option<Cow<'a, str>>,
    /// The school, from the credential.
    pub school_id: &'a SchoolId,
    /// Who acted.
    pub user_id: Cow<'a, str>,
    /// In which role.
    pub user_role: UserRole,
    /// When it happened, by the device's clock.
    pub occurred_at: Timestamp,
    /// When it was sent, by the device's clock.
    pub sent_at: Option<Timestamp>,
    /// When the server took it in.
    pub received_at: Timestamp,
    /// When it happened, corrected.
    pub event_time: Timestamp,
    /// The client's session.
    pub session_id: Option<Cow<'a, str>>,
    /// The course.
    pub course_id: Option<Cow<'a, str>>,
    /// The class.
    pub classroom_id: Option<Cow<'a, str>>,
    /// The application.
    pub app: Option<Cow<'a, str>>,
    /// The kind of device.
    pub device_type: Option<Cow<'a, str>>,
    /// The application's version.
    pub app_version: Option<Cow<'a, str>>,
    /// The type.
    pub event_type: EventType,
    /// The canonical name of the type; `custom.<name>` for custom events.
    pub type_name: Cow<'a, str>,
    /// The JSON text of `data`.
    pub data: &'a str,
    /// The unknown members of the envelope as the text of one JSON object; empty if none.
    pub extra: Cow<'a, str>,
    /// The hash of the canonical form.
    pub content_hash: ContentHash,
}

impl EventRef<'_> {
    /// What makes this event the same as another.
    pub fn identity(&self) -> EventIdentity {
        EventIdentity::of(self.school_id, &self.user_id, self.id)
    }

    /// The type, as an enum.
    pub fn event_type(&self) -> EventType {
        self.event_type
    }

    /// The canonical name of the type; `custom.<name>` for custom events.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }
}
