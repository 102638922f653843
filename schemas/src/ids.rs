//! Ids and positions: one type for each thing that could be mixed up.
//!
//! In: text from clients. Out: newtypes with private fields, valid by construction.
//! Always true: a text id has 1 to 128 bytes of UTF-8 and no control character.
//! Not here: where ids come from (credentials, events), and what they name.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

use crate::word;

/// The longest text id, in bytes.
pub const ID_MAX_BYTES: usize = 128;

/// Why a text cannot be an id. `Display` completes the sentence "the id …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// No text at all.
    #[error("must not be empty; leave it out if there is none")]
    Empty,
    /// Longer than [`ID_MAX_BYTES`].
    #[error("has {bytes} bytes; at most {ID_MAX_BYTES} are allowed")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
    },
    /// A character below space, or DEL to U+009F.
    #[error("holds the control character U+{code:04X}; remove it")]
    Control {
        /// The character's code point.
        code: u32,
    },
}

/// Checks the rules that every text id obeys.
pub(crate) fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_MAX_BYTES {
        return Err(IdError::TooLong { bytes: text.len() });
    }
    if word::plain_length(text.as_bytes()) == text.len() {
        return Ok(());
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(IdError::Control { code: u32::from(c) }),
        None => Ok(()),
    }
}

/// Whether a text is as long as an id may be: all that is to check where it is plain.
pub(crate) const fn has_id_length(text: &str) -> bool {
    matches!(text.len(), 1..=ID_MAX_BYTES)
}

macro_rules! text_ids {
    ($($(#[doc = $doc:literal])* $name:ident;)*) => {$(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Box<str>);

        impl $name {
            /// Takes a text that obeys the rules of ids.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// The id's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                check_id(&text)?;
                Ok(Self(text.into_boxed_str()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:?})", stringify!($name), &*self.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::try_from(text).map_err(de::Error::custom)
            }
        }
    )*};
}

text_ids! {
    /// A school: the tenant. It comes from the credential, never from an event.
    SchoolId;
    /// A person of a school.
    UserId;
    /// A skill (knowledge component).
    SkillId;
    /// A question, problem or card that is answered.
    ItemId;
    /// A course.
    CourseId;
    /// A class of learners.
    ClassroomId;
    /// A lesson.
    LessonId;
    /// A quiz.
    QuizId;
    /// One run of a quiz in front of a class.
    QuizRunId;
    /// One learner's attempt at a quiz.
    QuizAttemptId;
    /// A session as the client counts it.
    SessionId;
    /// Anything of the catalogue.
    ContentId;
    /// An assignment.
    AssignmentId;
    /// A discussion.
    DiscussionId;
    /// A resource: a page, file or link.
    ResourceId;
    /// A video.
    VideoId;
    /// An experiment.
    ExperimentId;
    /// A recommendation that was shown.
    RecommendationId;
}

/// The idempotency key of a learner's event, always a UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId(Uuid);

impl EventId {
    /// Reads the id that a client sent.
    ///
    /// A UUID of any version in any usual spelling is taken as it is. Any other text becomes the
    /// UUIDv5 in the namespace OID over the UTF-8 of the JSON array `[school,user,id]` without
    /// spaces, and is returned beside it.
    pub fn parse<'t>(
        school: &SchoolId,
        user: impl AsRef<str>,
        text: &'t str,
    ) -> Result<(Self, Option<&'t str>), IdError> {
        check_id(text)?;
        Ok(Self::of_id_text(school, user, text))
    }

    /// [`EventId::parse`] of a text that is known to obey the rules of ids.
    pub(crate) fn of_id_text<'t>(
        school: &SchoolId,
        user: impl AsRef<str>,
        text: &'t str,
    ) -> (Self, Option<&'t str>) {
        if let Ok(uuid) = Uuid::try_parse(text) {
            return (Self(uuid), None);
        }
        let name = serde_json::json!([school.as_str(), user.as_ref(), text]).to_string();
        (Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())), Some(text))
    }

    /// The id of a UUID that is known already, such as one read from a table.
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What makes two events the same: school, user and id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventIdentity([u8; 16]);

impl std::hash::Hash for EventIdentity {
    /// Half of it is spread evenly already, and as one number it is hashed fastest.
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl EventIdentity {
    /// The first 16 bytes of BLAKE3 over school and user, each after its length as `u64` in little
    /// endian, and the 16 bytes of the id.
    pub fn of(school: &SchoolId, user: impl AsRef<str>, id: EventId) -> Self {
        let (school, user) = (school.as_str(), user.as_ref());
        let lengths = [school, user].map(|text| (text.len() as u64).to_le_bytes());
        let [of_school, of_user] = &lengths;
        let parts: [&[u8]; 5] =
            [of_school, school.as_bytes(), of_user, user.as_bytes(), id.0.as_bytes()];
        // Ids are short, and one call over one piece of memory is what BLAKE3 does fastest.
        let mut buffer = [0; 32 + 2 * ID_MAX_BYTES];
        let bytes = parts.iter().map(|part| part.len()).sum();
        let Some(input) = buffer.get_mut(..bytes) else {
            return Self(first_16(&blake3::hash(&parts.concat())));
        };
        let mut rest = &mut *input;
        for part in parts {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        Self(first_16(&blake3::hash(input)))
    }
}

/// A hash of what an event says, the same for every spelling of the same event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 16]);

/// The first half of a BLAKE3 hash.
fn first_16(hash: &blake3::Hash) -> [u8; 16] {
    let [a @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = *hash.as_bytes();
    a
}

macro_rules! hashes {
    ($($name:ident)*) => {$(
        impl $name {
            /// Takes stored bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The bytes to store.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}

hashes! { EventIdentity ContentHash }

macro_rules! numbers {
    ($($(#[doc = $doc:literal])* $name:ident($inner:ident) $prefix:literal;)*) => {$(
        $(#[doc = $doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The first.
            pub const ZERO: Self = Self(0);

            /// Wraps a number.
            pub const fn new(number: $inner) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0)
            }
        }
    )*};
}

numbers! {
    /// A partition of the event log.
    PartitionId(u32) "partition ";
    /// A record's place in its partition.
    LogOffset(u64) "";
    /// The version of a row: the offset of the last record that changed it, plus one.
    RowVersion(u64) "";
    /// One complete folding of the log; views show one epoch at a time.
    Epoch(u32) "";
}

impl LogOffset {
    /// The offset after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl RowVersion {
    /// The version of a row that the record at `offset` changed last; 0 is left for "never".
    pub const fn of(offset: LogOffset) -> Self {
        Self(offset.next().0)
    }
}
