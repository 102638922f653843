//! Why an event was not taken: one typed reason, the field, and a sentence for its developer.
//!
//! Always true: `rejected` is final, `refused` may be sent again; the names are public.
//! Not here: counting (ingest), HTTP statuses.

use std::fmt;

macro_rules! reasons {
    ($(#[doc = $enum_doc:literal])* $enum:ident { $($(#[doc = $doc:literal])* $variant:ident = $name:literal,)* }) => {
        $(#[doc = $enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum {
            $($(#[doc = $doc])* $variant,)*
        }

        impl $enum {
            /// Every reason, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The public name.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The reason with this public name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|reason| reason.as_str() == name)
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

reasons! {
    /// Why an event was rejected, for good: sending it again as it is cannot help.
    RejectReason {
        /// Not one JSON object in UTF-8, nested too deeply, or a member named twice.
        MalformedJson = "malformed_json",
        /// A required field is absent or null.
        MissingField = "missing_field",
        /// A field has the wrong type, lies outside its range, or is given twice by its aliases.
        InvalidField = "invalid_field",
        /// No event type of this name.
        UnknownType = "unknown_type",
        /// A time is not RFC 3339 with an offset, or outside 1970 to 2261.
        InvalidTimestamp = "invalid_timestamp",
        /// The event happened longer ago than the server takes.
        TooOld = "too_old",
        /// The event claims to happen later than the server's clock allows.
        InFuture = "in_future",
        /// More bytes than one event may have.
        EventTooLarge = "event_too_large",
        /// The same user's event with this id has other content.
        IdConflict = "id_conflict",
        /// The credential may not write this event.
        NotPermitted = "not_permitted",
        /// The user is not in the school's roster, which the server requires.
        UnknownUser = "unknown_user",
    }
}

reasons! {
    /// Why an event was refused for now: it may be sent again.
    RefuseReason {
        /// Too many events in too short a time.
        RateLimited = "rate_limited",
        /// The school's quota is used up.
        QuotaExceeded = "quota_exceeded",
        /// A publishable key brings too many new users in too short a time.
        TooManyUsers = "too_many_users",
        /// The log cannot take more now.
        Unavailable = "unavailable",
    }
}

/// One event's rejection, as its sender reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The typed reason.
    pub reason: RejectReason,
    /// The field at fault, such as `user_id` or `data.item_id`.
    pub field: Option<String>,
    /// What is wrong and what to do, for a client's developer.
    pub message: String,
    /// The event's id as it was sent, where it could be read.
    pub id: Option<String>,
    /// The event's type as it was sent, where it could be read.
    pub type_name: Option<String>,
    /// The event's `app`, where it could be read.
    pub app: Option<String>,
}

impl Rejection {
    /// A rejection that names no event yet.
    pub fn new(reason: RejectReason, field: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            reason,
            field: field.map(str::to_owned),
            message: message.into(),
            id: None,
            type_name: None,
            app: None,
        }
    }

    /// Names the event's id as it was sent.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}
