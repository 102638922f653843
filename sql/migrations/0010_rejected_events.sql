-- One row per school and raw bytes: the same broken event sent again is the same row. The version
-- falls with the time, so the first refusal stays. Not derived from the events' log: no epoch.
CREATE TABLE IF NOT EXISTS rejected_events_raw
(
    school_id LowCardinality(String),
    raw_hash FixedString(16) MATERIALIZED sipHash128(raw),
    reason LowCardinality(String),
    field Nullable(String),
    message String,
    app LowCardinality(Nullable(String)),
    type_name Nullable(String),
    key_id LowCardinality(String),
    received_at DateTime64(3, 'UTC'),
    raw String CODEC(ZSTD(1)),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (school_id, raw_hash)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Events refused for good; private, read the view rejected_events';

-- How far each partition of the rejected log has been written here. It lies beside the rows, not
-- with the log's group, so that an empty database fills itself from the log's beginning.
CREATE TABLE IF NOT EXISTS rejected_positions_raw
(
    cluster_id String COMMENT 'The log that the offset belongs to',
    log_partition UInt32 COMMENT 'Partition of chalkstream.rejected',
    next_offset UInt64 COMMENT 'The first offset that is not written yet'
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (cluster_id, log_partition)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Positions in the rejected log; private';
