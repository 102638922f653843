-- What control records set. Every partition writes the same rows; the latest record stays.
CREATE TABLE IF NOT EXISTS skill_parameters_raw
(
    epoch UInt32,
    school_id LowCardinality(String),
    skill_id String,
    model_version LowCardinality(String),
    p_init Float64,
    p_learn Float64,
    p_guess Float64,
    p_slip Float64,
    p_forget Float64,
    loaded_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, skill_id, model_version)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Parameters of knowledge tracing; private, read the view skill_parameters';

CREATE TABLE IF NOT EXISTS schools_raw
(
    epoch UInt32,
    school_id String,
    name String,
    time_zone LowCardinality(String),
    updated_at DateTime64(3, 'UTC'),
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY school_id
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Settings of schools; private, read the view schools';
