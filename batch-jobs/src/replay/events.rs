//! Rows of the lake back as what the log held: events and control records.

use arrow::array::RecordBatch;
use bytes::Bytes;
use chalkstream_schemas::{
    ControlRecord, IdError, LearningEvent, LogOffset, LogRecord, PartitionId, Payload, Timestamp,
    UserRole,
};

use crate::lake::reading::{
    Columns, RowError, event_id_of, hash_of, offset_of, partition_of, time_of,
};

/// The columns of `events` from which an event is made again; the payload is read from `data`.
pub(crate) const EVENT_SOURCE: [&str; 21] = [
    "id",
    "type",
    "school_id",
    "user_id",
    "user_role",
    "occurred_at",
    "sent_at",
    "received_at",
    "event_time",
    "session_id",
    "course_id",
    "classroom_id",
    "app",
    "device_type",
    "app_version",
    "original_id",
    "data",
    "extra",
    "content_hash",
    "log_partition",
    "log_offset",
];

/// An event at its place in the log.
#[derive(Clone, Debug)]
pub(crate) struct PlacedEvent {
    pub(crate) partition: PartitionId,
    pub(crate) offset: LogOffset,
    pub(crate) event: LearningEvent,
}

/// The events of a batch with the columns [`EVENT_SOURCE`].
pub(crate) fn events_of(batch: &RecordBatch) -> Result<Vec<PlacedEvent>, RowError> {
    use arrow::array::Array as _;
    let columns = Columns::new(batch);
    let (ids, types) = (columns.texts("id")?, columns.texts("type")?);
    let (schools, users) = (columns.texts("school_id")?, columns.texts("user_id")?);
    let roles = columns.texts("user_role")?;
    let (occurred, sent) = (columns.times("occurred_at")?, columns.times("sent_at")?);
    let (received, event_time) = (columns.times("received_at")?, columns.times("event_time")?);
    let (sessions, courses) = (columns.texts("session_id")?, columns.texts("course_id")?);
    let (classrooms, apps) = (columns.texts("classroom_id")?, columns.texts("app")?);
    let (devices, versions) = (columns.texts("device_type")?, columns.texts("app_version")?);
    let originals = columns.texts("original_id")?;
    let (data, extra) = (columns.texts("data")?, columns.texts("extra")?);
    let hashes = columns.bytes("content_hash")?;
    let (partitions, offsets) =
        (columns.integers("log_partition")?, columns.integers("log_offset")?);
    let time = |array, row, column| -> Result<Timestamp, RowError> { time_of(array, row, column) };
    let mut events = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let data = data.required(row)?;
        let event = LearningEvent {
            id: event_id_of(ids.required(row)?)?,
            original_id: originals.optional(row).map(Into::into),
            school_id: id(schools.optional(row), "school_id")?,
            user_id: id(users.optional(row), "user_id")?,
            user_role: UserRole::from_name(roles.required(row)?)
                .ok_or(RowError { column: "user_role" })?,
            occurred_at: time(occurred, row, "occurred_at")?,
            sent_at: if sent.is_null(row) { None } else { Some(time(sent, row, "sent_at")?) },
            received_at: time(received, row, "received_at")?,
            event_time: time(event_time, row, "event_time")?,
            session_id: optional_id(sessions.optional(row), "session_id")?,
            course_id: optional_id(courses.optional(row), "course_id")?,
            classroom_id: optional_id(classrooms.optional(row), "classroom_id")?,
            app: apps.optional(row).map(Into::into),
            device_type: devices.optional(row).map(Into::into),
            app_version: versions.optional(row).map(Into::into),
            payload: Payload::parse(types.required(row)?, data)
                .map_err(|_rejection| RowError { column: "data" })?,
            data: data.into(),
            extra: extra.required(row)?.into(),
            content_hash: hash_of(hashes, row)?,
        };
        events.push(PlacedEvent {
            partition: partition_of(partitions, row)?,
            offset: offset_of(offsets, row)?,
            event,
        });
    }
    Ok(events)
}

fn id<T: std::str::FromStr<Err = IdError>>(
    text: Option<&str>,
    column: &'static str,
) -> Result<T, RowError> {
    text.and_then(|text| text.parse().ok()).ok_or(RowError { column })
}

fn optional_id<T: std::str::FromStr<Err = IdError>>(
    text: Option<&str>,
    column: &'static str,
) -> Result<Option<T>, RowError> {
    text.map(|text| id(Some(text), column)).transpose()
}

/// A control record at its place in the log, with the bytes of its blob if it names one.
#[derive(Clone, Debug)]
pub(crate) struct PlacedControl {
    pub(crate) partition: PartitionId,
    pub(crate) offset: LogOffset,
    pub(crate) record: ControlRecord,
    pub(crate) blob: Option<Bytes>,
}

/// The columns of `control_records` that a replay needs.
pub(crate) const CONTROL_SOURCE: [&str; 4] = ["log_partition", "log_offset", "payload", "blob"];

/// The control records of a batch with the columns [`CONTROL_SOURCE`].
pub(crate) fn controls_of(batch: &RecordBatch) -> Result<Vec<PlacedControl>, RowError> {
    use arrow::array::Array as _;
    let columns = Columns::new(batch);
    let (partitions, offsets) =
        (columns.integers("log_partition")?, columns.integers("log_offset")?);
    let (payloads, blobs) = (columns.bytes("payload")?, columns.bytes("blob")?);
    let mut controls = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let Ok(LogRecord::Control(record)) = LogRecord::decode(&[], payloads.value(row)) else {
            return Err(RowError { column: "payload" });
        };
        controls.push(PlacedControl {
            partition: partition_of(partitions, row)?,
            offset: offset_of(offsets, row)?,
            record,
            blob: (!blobs.is_null(row)).then(|| Bytes::copy_from_slice(blobs.value(row))),
        });
    }
    Ok(controls)
}
