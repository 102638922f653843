-- Partials of each item by partition of the log, added up by the view.
CREATE TABLE IF NOT EXISTS item_stats_part
(
    epoch UInt32,
    school_id LowCardinality(String),
    item_id String,
    log_partition UInt32,
    part UInt64,
    attempts UInt64,
    correct_count UInt64,
    hints_used UInt64,
    time_ms_sum UInt64,
    time_count UInt64,
    time_histogram Map(UInt16, UInt64),
    answers Map(String, UInt64),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, item_id, log_partition, part)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Partial item statistics; private, read the view item_stats';

-- Each learner's first answer to each item: version falls with the offset, so the first one stays.
CREATE TABLE IF NOT EXISTS item_learners_state
(
    epoch UInt32,
    school_id LowCardinality(String),
    item_id String,
    user_id String,
    log_partition UInt32,
    first_attempt Bool,
    correct Bool,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, item_id, user_id, log_partition)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Who answered an item, and how at first; private, read the view item_stats';
