CREATE OR REPLACE VIEW ingest_outcomes
(
    school_id String COMMENT 'School',
    hour DateTime64(3, 'UTC') COMMENT 'Begin of the hour in which the events were received, in UTC',
    key_id String COMMENT 'The write key that sent them; replay for rejected events that were replayed',
    app String COMMENT 'Application; empty if none was named, other beyond the limit of distinct series',
    type String COMMENT 'Event type; empty if none was named that exists, other beyond the limit of distinct series',
    status String COMMENT 'What became of them: accepted, duplicate, rejected or refused',
    reason String COMMENT 'Why they were rejected or refused; else empty',
    event_count UInt64 COMMENT 'How many events'
)
AS SELECT
    school_id,
    hour,
    key_id,
    app,
    type_name AS type,
    status,
    reason,
    sum(o.event_count) AS event_count
FROM ingest_outcomes_raw AS o FINAL
GROUP BY school_id, hour, key_id, app, type_name, status, reason
COMMENT 'One row per hour, key, application, type, fate and reason: how many events'
