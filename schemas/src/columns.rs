//! The columns of `events`, once: Arrow, the ClickHouse rows and the data dictionary follow it.
//!
//! In: an event and its place in the log. Out: one value per column, in the order of
//! [`EVENT_COLUMNS`].
//! Always true: a payload field whose name is in [`PAYLOAD_COLUMNS`] fills that column, whatever
//! the event type; a column without a value is NULL, or an empty list.
//! Not here: how values are encoded, and the tables' own bookkeeping columns (epoch, version).

use uuid::Uuid;

use crate::event::LearningEvent;
use crate::ids::{ContentHash, LogOffset, PartitionId, SkillId};
use crate::time::Timestamp;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ColumnKind {
    /// UTF-8 text.
    Str,
    /// A UUID.
    Uuid,
    /// A [`Timestamp`].
    Time,
    /// A boolean.
    Bool,
    /// A 64-bit float.
    F64,
    /// An unsigned 32-bit integer.
    U32,
    /// An unsigned 64-bit integer.
    U64,
    /// A list of texts, never NULL.
    StrList,
    /// 16 bytes.
    Hash,
}

impl ColumnKind {
    /// The column's type in ClickHouse, before `Nullable(…)`.
    pub const fn clickhouse_type(self) -> &'static str {
        match self {
            Self::Str => "String",
            Self::Uuid => "UUID",
            Self::Time => "DateTime64(3, 'UTC')",
            Self::Bool => "Bool",
            Self::F64 => "Float64",
            Self::U32 => "UInt32",
            Self::U64 => "UInt64",
            Self::StrList => "Array(String)",
            Self::Hash => "FixedString(16)",
        }
    }
}

/// One column of `events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventColumn {
    /// Its public name.
    pub name: &'static str,
    /// What it holds.
    pub kind: ColumnKind,
    /// Whether it can be NULL.
    pub nullable: bool,
    /// Its meaning and unit.
    pub doc: &'static str,
}

impl EventColumn {
    /// The column's type in ClickHouse.
    pub fn clickhouse_type(&self) -> String {
        let base = self.kind.clickhouse_type();
        if self.nullable { format!("Nullable({base})") } else { base.to_owned() }
    }
}

/// The value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ColumnValue<'a> {
    /// No value.
    Null,
    /// UTF-8 text.
    Str(&'a str),
    /// A UUID.
    Uuid(Uuid),
    /// A point in time.
    Time(Timestamp),
    /// A boolean.
    Bool(bool),
    /// A 64-bit float.
    F64(f64),
    /// An unsigned 32-bit integer.
    U32(u32),
    /// An unsigned 64-bit integer.
    U64(u64),
    /// A list of skills.
    Skills(&'a [SkillId]),
    /// A content hash.
    Hash(ContentHash),
}

const fn column(
    name: &'static str,
    kind: ColumnKind,
    nullable: bool,
    doc: &'static str,
) -> EventColumn {
    EventColumn { name, kind, nullable, doc }
}

use ColumnKind::{Bool, F64, Str, StrList, Time, U32, U64, Uuid as Id};

/// The columns before the payload's: the envelope.
const ENVELOPE_COLUMNS: [EventColumn; 16] = [
    column("id", Id, false, "Idempotency key of the event"),
    column("type", Str, false, "Event type, canonical name"),
    column("school_id", Str, false, "School"),
    column("user_id", Str, false, "Who acted"),
    column("user_role", Str, false, "Role of who acted: student, teacher, parent or admin"),
    column("occurred_at", Time, false, "When it happened, by the device's clock"),
    column("sent_at", Time, true, "When it was sent, by the device's clock"),
    column("received_at", Time, false, "When the server took it in"),
    column("event_time", Time, false, "When it happened, corrected for a wrong device clock"),
    column("session_id", Str, true, "Session as the client counts it"),
    column("course_id", Str, true, "Course"),
    column("classroom_id", Str, true, "Class"),
    column("app", Str, true, "Application"),
    column("device_type", Str, true, "Kind of device"),
    column("app_version", Str, true, "Version of the application"),
    column("original_id", Str, true, "The id as it was sent, where it was not a UUID"),
];

/// The typed columns of the commonest payload fields. A new one goes to the end.
pub const PAYLOAD_COLUMNS: [EventColumn; 30] = [
    column("lesson_id", Str, true, "Lesson"),
    column("quiz_id", Str, true, "Quiz"),
    column("quiz_run_id", Str, true, "Run of a quiz in class"),
    column("quiz_attempt_id", Str, true, "One learner's attempt at a quiz"),
    column("item_id", Str, true, "Question"),
    column("skill_ids", StrList, false, "Skills that the question practises; empty if none"),
    column("correct", Bool, true, "Whether the answer is right"),
    column("graded", Bool, true, "Whether the answer was graded; true if absent"),
    column("score", F64, true, "Score: 0 to 1 for answers, else out of max_score"),
    column("max_score", F64, true, "Score that can be reached"),
    column("passed", Bool, true, "Whether the quiz was passed"),
    column("progress", F64, true, "Share that is done, 0 to 1"),
    column("time_taken_ms", U64, true, "Time from question to answer, milliseconds"),
    column("duration_seconds", F64, true, "Time spent, seconds"),
    column("attempt_number", U32, true, "Which attempt at the question, from 1"),
    column("hints_used", U32, true, "Hints used"),
    column("quality", U32, true, "Quality of recall, 0 to 5"),
    column("confidence", U32, true, "How sure the learner was, 1 to 5"),
    column("assignment_id", Str, true, "Assignment"),
    column("discussion_id", Str, true, "Discussion"),
    column("resource_id", Str, true, "Resource"),
    column("video_id", Str, true, "Video"),
    column("content_id", Str, true, "Content that was rated or recommended"),
    column("page", Str, true, "Page that was viewed"),
    column("action", Str, true, "What was done to a video or in a discussion"),
    column("kind", Str, true, "Kind of resource or of help"),
    column("status", Str, true, "Enrolment: enrolled, unenrolled or completed"),
    column("result", Str, true, "How a course ended: pass, fail, withdrawn or distinction"),
    column("final_score", F64, true, "Final score of a course, in the course's own scale"),
    column("rating", F64, true, "Rating of content, 1 to 5"),
];

const TAIL_COLUMNS: [EventColumn; 5] = [
    column("data", Str, false, "The JSON text of data as received"),
    column("extra", Str, false, "Unknown members of the envelope, a JSON object; '' if none"),
    column("content_hash", ColumnKind::Hash, false, "Hash of the event's canonical form"),
    column("log_partition", U32, false, "Partition of the event log"),
    column("log_offset", U64, false, "Offset within the partition"),
];

/// How many columns `events` has.
pub const EVENT_COLUMN_COUNT: usize =
    ENVELOPE_COLUMNS.len() + PAYLOAD_COLUMNS.len() + TAIL_COLUMNS.len();

/// The columns of `events`: envelope, payload, then text, hash and place in the log.
/// `content_hash` is stored, but not part of the public view.
pub const EVENT_COLUMNS: [EventColumn; EVENT_COLUMN_COUNT] = concatenated();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a mistake stops the build")]
const fn concatenated() -> [EventColumn; EVENT_COLUMN_COUNT] {
    let mut all = [ENVELOPE_COLUMNS[0]; EVENT_COLUMN_COUNT];
    let mut at = 0;
    while at < EVENT_COLUMN_COUNT {
        all[at] = if at < ENVELOPE_COLUMNS.len() {
            ENVELOPE_COLUMNS[at]
        } else if at < ENVELOPE_COLUMNS.len() + PAYLOAD_COLUMNS.len() {
            PAYLOAD_COLUMNS[at - ENVELOPE_COLUMNS.len()]
        } else {
            TAIL_COLUMNS[at - ENVELOPE_COLUMNS.len() - PAYLOAD_COLUMNS.len()]
        };
        at += 1;
    }
    all
}

/// The place of a payload field among [`PAYLOAD_COLUMNS`].
#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a mistake stops the build")]
pub(crate) const fn payload_column(name: &str) -> Option<usize> {
    let mut at = 0;
    while at < PAYLOAD_COLUMNS.len() {
        if same(PAYLOAD_COLUMNS[at].name.as_bytes(), name.as_bytes()) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[expect(clippy::indexing_slicing, reason = "within the length of both, checked above")]
pub(crate) const fn same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// One event's values, in the order of [`EVENT_COLUMNS`].
pub fn event_values(
    event: &LearningEvent,
    partition: PartitionId,
    offset: LogOffset,
) -> [ColumnValue<'_>; EVENT_COLUMN_COUNT] {
    use ColumnValue as V;
    let envelope = [
        V::Uuid(event.id.as_uuid()),
        V::Str(event.type_name()),
        V::Str(event.school_id.as_str()),
        V::Str(event.user_id.as_str()),
        V::Str(event.user_role.as_str()),
        V::Time(event.occurred_at),
        event.sent_at.map_or(V::Null, V::Time),
        V::Time(event.received_at),
        V::Time(event.event_time),
        event.session_id.as_ref().map_or(V::Null, |id| V::Str(id.as_str())),
        event.course_id.as_ref().map_or(V::Null, |id| V::Str(id.as_str())),
        event.classroom_id.as_ref().map_or(V::Null, |id| V::Str(id.as_str())),
        event.app.as_deref().map_or(V::Null, V::Str),
        event.device_type.as_deref().map_or(V::Null, V::Str),
        event.app_version.as_deref().map_or(V::Null, V::Str),
        event.original_id.as_deref().map_or(V::Null, V::Str),
    ];
    let tail = [
        V::Str(&event.data),
        V::Str(&event.extra),
        V::Hash(event.content_hash),
        V::U32(partition.get()),
        V::U64(offset.get()),
    ];
    let mut all = WITHOUT_VALUES;
    let (head, rest) = all.split_at_mut(ENVELOPE_COLUMNS.len());
    let (payload, end) = rest.split_at_mut(PAYLOAD_COLUMNS.len());
    head.copy_from_slice(&envelope);
    event.payload.visit(|field, value| {
        if let Some(slot) = field.column.and_then(|at| payload.get_mut(at)) {
            *slot = value;
        }
    });
    end.copy_from_slice(&tail);
    all
}

/// What an event has that gives a column no value.
const WITHOUT_VALUES: [ColumnValue<'static>; EVENT_COLUMN_COUNT] = without_values();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler; a mistake stops the build")]
const fn without_values() -> [ColumnValue<'static>; EVENT_COLUMN_COUNT] {
    let mut all = [ColumnValue::Null; EVENT_COLUMN_COUNT];
    let mut at = 0;
    while at < EVENT_COLUMN_COUNT {
        if matches!(EVENT_COLUMNS[at].kind, ColumnKind::StrList) {
            all[at] = ColumnValue::Skills(&[]);
        }
        at += 1;
    }
    all
}
