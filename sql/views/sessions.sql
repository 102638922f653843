-- Partials with the same start and id exist only where a session left the state of the stream
-- processor and got an even later event at exactly its start; they are added up.
CREATE OR REPLACE VIEW sessions
(
    school_id String COMMENT 'School',
    user_id String COMMENT 'Person, of whatever role',
    session_id String COMMENT 'The client''s session id; auto-<started_at in ms> without one',
    started_at DateTime64(3, 'UTC') COMMENT 'First event',
    ended_at DateTime64(3, 'UTC') COMMENT 'Last event',
    active_seconds Float64 COMMENT 'Active time, seconds: gaps between events, each counted up to 300 s',
    event_count UInt64 COMMENT 'Events',
    answers UInt64 COMMENT 'Graded answers of a learner',
    correct_count UInt64 COMMENT 'The right ones among them'
)
AS SELECT
    school_id,
    user_id,
    session_id,
    started_at,
    max(s.ended_at) AS ended_at,
    sum(s.active_ms) / 1000 AS active_seconds,
    sum(s.event_count) AS event_count,
    sum(s.answers) AS answers,
    sum(s.correct_count) AS correct_count
FROM sessions_state AS s FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
GROUP BY school_id, user_id, session_id, started_at
COMMENT 'One row per session: a run of events without 30 idle minutes and without a change of the client''s session'
