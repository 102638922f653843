CREATE OR REPLACE VIEW rejected_events
(
    school_id String COMMENT 'School',
    reason String COMMENT 'Why it was refused, such as missing_field',
    field Nullable(String) COMMENT 'The field at fault',
    message String COMMENT 'What is wrong and what to do',
    app Nullable(String) COMMENT 'Application, if the event named one',
    type Nullable(String) COMMENT 'Event type, if the event named one',
    key_id String COMMENT 'The write key that sent it',
    received_at DateTime64(3, 'UTC') COMMENT 'When these bytes came first',
    raw String COMMENT 'The bytes as they came',
    replayed_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When a replay found them accepted after all; NULL while they are not'
)
AS SELECT school_id, reason, field, message, app, type_name AS type, key_id, received_at, raw, replayed_at
FROM rejected_events_raw FINAL
COMMENT 'One row per school and raw bytes of an event that was refused for good'
