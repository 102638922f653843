-- One row per person and quarter of an hour; people are counted when the view is read.
CREATE TABLE IF NOT EXISTS activity_quarter_hourly_state
(
    epoch UInt32,
    school_id LowCardinality(String),
    bucket_at DateTime64(3, 'UTC'),
    user_id String,
    log_partition UInt32,
    part UInt64,
    event_count UInt32,
    learner Bool,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, bucket_at, user_id, log_partition, part)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Activity by person and quarter of an hour; private, read the view activity_quarter_hourly';
