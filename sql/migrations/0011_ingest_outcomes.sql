-- What became of events, as the ingest nodes counted. A row holds all events of its series that one
-- instance has counted so far, and such a count only grows: the highest is the newest, so a record
-- that is written again, late or in another order changes nothing.
CREATE TABLE IF NOT EXISTS ingest_outcomes_raw
(
    school_id LowCardinality(String),
    hour DateTime64(3, 'UTC'),
    key_id LowCardinality(String),
    app LowCardinality(String),
    type_name LowCardinality(String),
    status LowCardinality(String),
    reason LowCardinality(String),
    instance UUID,
    event_count UInt64
)
ENGINE = ReplacingMergeTree(event_count)
ORDER BY (school_id, hour, key_id, app, type_name, status, reason, instance)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Fates of events by counting instance; private, read the view ingest_outcomes';
