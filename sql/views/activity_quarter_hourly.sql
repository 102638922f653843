CREATE OR REPLACE VIEW activity_quarter_hourly
(
    school_id String COMMENT 'School',
    bucket_at DateTime64(3, 'UTC') COMMENT 'Beginning of the 15 minutes',
    event_count UInt64 COMMENT 'Events of everybody',
    active_learners UInt64 COMMENT 'Learners with at least one event'
)
AS SELECT
    school_id,
    bucket_at,
    sum(a.event_count) AS event_count,
    uniqExactIf(a.user_id, a.learner) AS active_learners
FROM activity_quarter_hourly_state AS a FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
GROUP BY school_id, bucket_at
COMMENT 'One row per school and 15 minutes: how much happened'
