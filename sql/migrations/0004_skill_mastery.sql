-- The latest state of each learner and skill: the row with the highest version.
CREATE TABLE IF NOT EXISTS skill_mastery_state
(
    epoch UInt32,
    school_id LowCardinality(String),
    user_id String,
    skill_id LowCardinality(String),
    log_partition UInt32,
    p_known Float64,
    mastered Bool,
    attempts UInt32,
    correct_count UInt32,
    current_streak UInt32,
    longest_streak UInt32,
    last_practised_at DateTime64(3, 'UTC'),
    model_version LowCardinality(String),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, user_id, skill_id, log_partition)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Mastery by learner and skill; private, read the view skill_mastery';
