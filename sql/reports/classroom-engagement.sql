-- One row per classroom, or per course where events name no classroom, over the days asked for.
-- Sums are taken over integers (milliseconds), so that no order of rows shows in them.
WITH in_range AS (
    SELECT
        user_id,
        coalesce(classroom_id, '') AS classroom_id,
        CASE WHEN classroom_id IS NULL THEN coalesce(course_id, '') ELSE '' END AS course_id,
        type,
        school_hour(event_time) AS hour,
        log_partition,
        log_offset
    FROM events
    WHERE school_id = $school
        AND user_role = 'student'
        AND event_time >= $from_at
        AND event_time < $to_at
        AND ($course = '' OR course_id = $course)
        AND ($classroom = '' OR classroom_id = $classroom)
),
counts AS (
    SELECT
        classroom_id,
        course_id,
        count(DISTINCT user_id) AS learners_active,
        count(*) AS event_count,
        count(*) FILTER (WHERE type = 'login') AS logins,
        count(*) FILTER (WHERE type = 'page_view') AS page_views,
        count(*) FILTER (WHERE type = 'video_watch') AS videos,
        count(*) FILTER (WHERE type = 'quiz_attempt') AS quizzes_started,
        count(*) FILTER (WHERE type = 'quiz_complete') AS quizzes_completed,
        count(*) FILTER (WHERE type = 'assignment_submit') AS assignments,
        count(*) FILTER (WHERE type = 'discussion_post') AS discussions,
        count(*) FILTER (WHERE type = 'peer_interaction') AS peer_interactions,
        count(*) FILTER (WHERE type = 'resource_access') AS resources,
        count(*) FILTER (WHERE type IN ('lesson_start', 'lesson_complete')) AS lessons,
        count(*) FILTER (WHERE hour = 0) AS hour_00,
        count(*) FILTER (WHERE hour = 1) AS hour_01,
        count(*) FILTER (WHERE hour = 2) AS hour_02,
        count(*) FILTER (WHERE hour = 3) AS hour_03,
        count(*) FILTER (WHERE hour = 4) AS hour_04,
        count(*) FILTER (WHERE hour = 5) AS hour_05,
        count(*) FILTER (WHERE hour = 6) AS hour_06,
        count(*) FILTER (WHERE hour = 7) AS hour_07,
        count(*) FILTER (WHERE hour = 8) AS hour_08,
        count(*) FILTER (WHERE hour = 9) AS hour_09,
        count(*) FILTER (WHERE hour = 10) AS hour_10,
        count(*) FILTER (WHERE hour = 11) AS hour_11,
        count(*) FILTER (WHERE hour = 12) AS hour_12,
        count(*) FILTER (WHERE hour = 13) AS hour_13,
        count(*) FILTER (WHERE hour = 14) AS hour_14,
        count(*) FILTER (WHERE hour = 15) AS hour_15,
        count(*) FILTER (WHERE hour = 16) AS hour_16,
        count(*) FILTER (WHERE hour = 17) AS hour_17,
        count(*) FILTER (WHERE hour = 18) AS hour_18,
        count(*) FILTER (WHERE hour = 19) AS hour_19,
        count(*) FILTER (WHERE hour = 20) AS hour_20,
        count(*) FILTER (WHERE hour = 21) AS hour_21,
        count(*) FILTER (WHERE hour = 22) AS hour_22,
        count(*) FILTER (WHERE hour = 23) AS hour_23
    FROM in_range
    GROUP BY classroom_id, course_id
),
graded AS (
    SELECT
        in_range.classroom_id,
        in_range.course_id,
        count(*) AS answers,
        sum(CASE WHEN attempts.correct THEN 1 ELSE 0 END) AS correct_count,
        sum(attempts.time_taken_ms) AS time_taken_ms_sum,
        count(attempts.time_taken_ms) AS timed
    FROM in_range
    INNER JOIN attempts
        ON attempts.log_partition = in_range.log_partition
        AND attempts.log_offset = in_range.log_offset
    WHERE attempts.skill_index = 0
    GROUP BY in_range.classroom_id, in_range.course_id
),
engagement AS (
    SELECT
        coalesce(classroom_id, '') AS classroom_id,
        CASE WHEN classroom_id IS NULL THEN coalesce(course_id, '') ELSE '' END AS course_id,
        sum(duration_ms * weight_halves) / 1000.0 / sum(weight_halves) AS engagement_score
    FROM interactions
    WHERE school_id = $school
        AND user_role = 'student'
        AND event_time >= $from_at
        AND event_time < $to_at
        AND ($course = '' OR course_id = $course)
        AND ($classroom = '' OR classroom_id = $classroom)
    GROUP BY
        coalesce(classroom_id, ''),
        CASE WHEN classroom_id IS NULL THEN coalesce(course_id, '') ELSE '' END
)
SELECT
    counts.classroom_id,
    counts.course_id,
    counts.learners_active,
    counts.event_count,
    counts.logins,
    counts.page_views,
    counts.videos,
    counts.quizzes_started,
    counts.quizzes_completed,
    counts.assignments,
    counts.discussions,
    counts.peer_interactions,
    counts.resources,
    counts.lessons,
    coalesce(graded.answers, 0) AS answers,
    coalesce(graded.correct_count, 0) AS correct_count,
    CAST(graded.correct_count AS DOUBLE) / graded.answers AS accuracy,
    CAST(graded.time_taken_ms_sum AS DOUBLE) / nullif(graded.timed, 0) AS mean_time_ms,
    coalesce(engagement.engagement_score, 0.0) AS engagement_score,
    counts.hour_00,
    counts.hour_01,
    counts.hour_02,
    counts.hour_03,
    counts.hour_04,
    counts.hour_05,
    counts.hour_06,
    counts.hour_07,
    counts.hour_08,
    counts.hour_09,
    counts.hour_10,
    counts.hour_11,
    counts.hour_12,
    counts.hour_13,
    counts.hour_14,
    counts.hour_15,
    counts.hour_16,
    counts.hour_17,
    counts.hour_18,
    counts.hour_19,
    counts.hour_20,
    counts.hour_21,
    counts.hour_22,
    counts.hour_23
FROM counts
LEFT JOIN graded
    ON graded.classroom_id = counts.classroom_id AND graded.course_id = counts.course_id
LEFT JOIN engagement
    ON engagement.classroom_id = counts.classroom_id AND engagement.course_id = counts.course_id
ORDER BY counts.classroom_id, counts.course_id
