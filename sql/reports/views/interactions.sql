-- What the engagement score is made of: one row per interaction that has a duration.
-- Weights are doubled to be whole: video 1, quiz 2, discussion 3, assignment 4, peer interaction 2.5.
-- A quiz counts once: its n-th quiz_attempt and its n-th quiz_complete (by quiz and attempt id) are
-- one, and the first of the two that has a duration gives it, as in learner_engagement_daily.
WITH acts AS (
    SELECT
        school_id,
        user_id,
        user_role,
        course_id,
        classroom_id,
        event_time,
        type,
        quiz_id,
        coalesce(quiz_attempt_id, '') AS quiz_attempt_id,
        CAST(round(duration_seconds * 1000.0) AS BIGINT) AS duration_ms,
        log_offset
    FROM events
    WHERE type IN (
        'video_watch', 'quiz_attempt', 'quiz_complete', 'discussion_post',
        'assignment_submit', 'peer_interaction'
    )
),
numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY school_id, user_id, user_role, quiz_id, quiz_attempt_id, type
            ORDER BY log_offset
        ) AS taking
    FROM acts
    WHERE type IN ('quiz_attempt', 'quiz_complete')
),
quizzes AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY school_id, user_id, user_role, quiz_id, quiz_attempt_id, taking
            ORDER BY log_offset
        ) AS place
    FROM numbered
    WHERE duration_ms IS NOT NULL
)
SELECT
    school_id,
    user_id,
    user_role,
    course_id,
    classroom_id,
    event_time,
    duration_ms,
    CASE type
        WHEN 'video_watch' THEN 2
        WHEN 'discussion_post' THEN 6
        WHEN 'assignment_submit' THEN 8
        ELSE 5
    END AS weight_halves
FROM acts
WHERE type NOT IN ('quiz_attempt', 'quiz_complete') AND duration_ms IS NOT NULL
UNION ALL
SELECT
    school_id,
    user_id,
    user_role,
    course_id,
    classroom_id,
    event_time,
    duration_ms,
    4 AS weight_halves
FROM quizzes
WHERE place = 1
