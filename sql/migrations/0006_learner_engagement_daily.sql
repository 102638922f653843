-- Integers only: the view adds partials (part) up, and the sums must not depend on their order.
CREATE TABLE IF NOT EXISTS learner_engagement_daily_state
(
    epoch UInt32,
    school_id LowCardinality(String),
    user_id String,
    course_id LowCardinality(String),
    day Date,
    log_partition UInt32,
    part UInt64,
    logins UInt64,
    page_views UInt64,
    videos UInt64,
    quizzes UInt64,
    assignments UInt64,
    discussions UInt64,
    peer_interactions UInt64,
    resources UInt64,
    lessons UInt64,
    answers UInt64,
    page_view_ms UInt64,
    video_ms UInt64,
    quiz_ms UInt64,
    assignment_ms UInt64,
    discussion_ms UInt64,
    peer_ms UInt64,
    resource_ms UInt64,
    lesson_ms UInt64,
    answer_ms UInt64,
    active_ms UInt64,
    engagement_weighted_ms_tenths UInt64,
    engagement_weight_tenths UInt64,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY epoch
ORDER BY (school_id, user_id, course_id, day, log_partition, part)
SETTINGS index_granularity = 512, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Engagement by learner, course and day; private, read the view learner_engagement_daily';
