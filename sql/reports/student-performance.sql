-- One row per student and course, over the days asked for.
-- Sums are taken over integers, and the one mean of shares is rounded, so that no order of rows shows.
-- A quiz's share of its maximum is kept within 10,000 times either way: one absurd score must neither
-- overflow the sum nor fail the school's report.
WITH in_range AS (
    SELECT
        user_id,
        coalesce(course_id, '') AS course_id,
        type,
        event_time,
        score,
        max_score,
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
students AS (
    SELECT user_id, course_id, count(DISTINCT school_day(event_time)) AS active_days
    FROM in_range
    GROUP BY user_id, course_id
),
answers AS (
    SELECT
        in_range.user_id,
        in_range.course_id,
        count(*) AS attempts,
        sum(CASE WHEN attempts.correct THEN 1 ELSE 0 END) AS correct_count,
        sum(attempts.time_taken_ms) AS time_taken_ms_sum,
        count(attempts.time_taken_ms) AS timed
    FROM in_range
    INNER JOIN attempts
        ON attempts.log_partition = in_range.log_partition
        AND attempts.log_offset = in_range.log_offset
    WHERE attempts.skill_index = 0
    GROUP BY in_range.user_id, in_range.course_id
),
class AS (
    SELECT
        course_id,
        round(avg(CAST(correct_count AS DOUBLE) / attempts), 12) AS class_mean_accuracy
    FROM answers
    GROUP BY course_id
),
quizzes AS (
    SELECT
        user_id,
        course_id,
        count(*) AS quizzes,
        sum(CAST(round(
            1e8 * least(greatest(score / nullif(coalesce(max_score, 100.0), 0.0), -1e4), 1e4)
        ) AS BIGINT)) / 1e6
            / nullif(count(nullif(coalesce(max_score, 100.0), 0.0)), 0) AS mean_quiz_score
    FROM in_range
    WHERE type = 'quiz_complete'
    GROUP BY user_id, course_id
),
last_state AS (
    SELECT
        user_id,
        skill_id,
        p_known_after,
        row_number() OVER (PARTITION BY user_id, skill_id ORDER BY log_offset DESC) AS place
    FROM attempts
    WHERE school_id = $school AND skill_id <> '' AND event_time < $to_at
),
skills AS (
    SELECT
        user_id,
        sum(CASE WHEN p_known_after >= 0.95 THEN 1 ELSE 0 END) AS skills_mastered,
        sum(CASE WHEN p_known_after >= 0.95 THEN 0 ELSE 1 END) AS skills_in_progress
    FROM last_state
    WHERE place = 1
    GROUP BY user_id
),
engagement AS (
    SELECT
        user_id,
        coalesce(course_id, '') AS course_id,
        sum(duration_ms * weight_halves) / 1000.0 / sum(weight_halves) AS engagement_score
    FROM interactions
    WHERE school_id = $school
        AND user_role = 'student'
        AND event_time >= $from_at
        AND event_time < $to_at
        AND ($course = '' OR course_id = $course)
        AND ($classroom = '' OR classroom_id = $classroom)
    GROUP BY user_id, coalesce(course_id, '')
)
SELECT
    students.user_id,
    students.course_id,
    coalesce(answers.attempts, 0) AS attempts,
    coalesce(answers.correct_count, 0) AS correct_count,
    CAST(answers.correct_count AS DOUBLE) / answers.attempts AS accuracy,
    CAST(answers.time_taken_ms_sum AS DOUBLE) / nullif(answers.timed, 0) AS mean_time_ms,
    coalesce(quizzes.quizzes, 0) AS quizzes,
    quizzes.mean_quiz_score,
    coalesce(skills.skills_mastered, 0) AS skills_mastered,
    coalesce(skills.skills_in_progress, 0) AS skills_in_progress,
    class.class_mean_accuracy,
    students.active_days,
    coalesce(engagement.engagement_score, 0.0) AS engagement_score
FROM students
LEFT JOIN answers
    ON answers.user_id = students.user_id AND answers.course_id = students.course_id
LEFT JOIN class ON class.course_id = students.course_id
LEFT JOIN quizzes
    ON quizzes.user_id = students.user_id AND quizzes.course_id = students.course_id
LEFT JOIN skills ON skills.user_id = students.user_id
LEFT JOIN engagement
    ON engagement.user_id = students.user_id AND engagement.course_id = students.course_id
ORDER BY students.user_id, students.course_id
