-- A session whose start moved or that was joined to another stays as a row with gone = 1, which
-- FINAL leaves out.
CREATE TABLE IF NOT EXISTS sessions_state
(
    epoch UInt32,
    school_id LowCardinality(String),
    user_id String,
    session_id String,
    started_at DateTime64(3, 'UTC'),
    log_partition UInt32,
    part UInt64,
    ended_at DateTime64(3, 'UTC'),
    active_ms UInt64,
    event_count UInt32,
    answers UInt32,
    correct_count UInt32,
    version UInt64,
    gone UInt8
)
ENGINE = ReplacingMergeTree(version, gone)
PARTITION BY epoch
ORDER BY (school_id, user_id, started_at, session_id, log_partition, part)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Sessions; private, read the view sessions';
