-- One row per graded answer and skill, final when it is written.
CREATE TABLE IF NOT EXISTS attempts_raw
(
    epoch UInt32,
    school_id LowCardinality(String),
    user_id String,
    skill_id LowCardinality(String),
    skill_index UInt16,
    event_id UUID,
    event_time DateTime64(3, 'UTC'),
    session_id Nullable(String),
    quiz_id Nullable(String),
    quiz_attempt_id Nullable(String),
    course_id LowCardinality(Nullable(String)),
    classroom_id LowCardinality(Nullable(String)),
    item_id String,
    answer Nullable(String),
    correct Bool,
    score Nullable(Float64),
    time_taken_ms Nullable(UInt64),
    attempt_number Nullable(UInt32),
    hints_used Nullable(UInt32),
    quality Nullable(UInt8),
    confidence Nullable(UInt8),
    opportunity UInt32,
    elapsed_seconds Nullable(Float64),
    predicted_correct Nullable(Float64),
    p_known_before Nullable(Float64),
    p_known_after Nullable(Float64),
    ability_before Nullable(Float64),
    ability_after Nullable(Float64),
    easiness_before Nullable(Float64),
    easiness_after Nullable(Float64),
    model_version LowCardinality(String),
    log_partition UInt32,
    log_offset UInt64
)
ENGINE = ReplacingMergeTree
PARTITION BY epoch
ORDER BY (school_id, user_id, event_time, log_partition, log_offset, skill_index)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Every graded answer and skill once; private, read the view attempts';
