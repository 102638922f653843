-- The training log: what was answered, and what the models held before and after.
CREATE OR REPLACE VIEW attempts
(
    school_id String COMMENT 'School',
    user_id String COMMENT 'Learner',
    event_id UUID COMMENT 'The answer_submitted event',
    skill_index UInt16 COMMENT 'Which of the answer''s skills, from 0; rows with 0 count answers',
    skill_id String COMMENT 'Skill; empty if the answer names none',
    event_time DateTime64(3, 'UTC') COMMENT 'When it was answered',
    session_id Nullable(String) COMMENT 'Session as the client counts it',
    quiz_id Nullable(String) COMMENT 'Quiz',
    quiz_attempt_id Nullable(String) COMMENT 'The learner''s attempt at the quiz',
    course_id Nullable(String) COMMENT 'Course',
    classroom_id Nullable(String) COMMENT 'Class',
    item_id String COMMENT 'Question',
    answer Nullable(String) COMMENT 'What was answered; several parts as a JSON array',
    correct Bool COMMENT 'Whether it is right',
    score Nullable(Float64) COMMENT 'Share of the points, 0 to 1',
    time_taken_ms Nullable(UInt64) COMMENT 'Time from question to answer, milliseconds',
    attempt_number Nullable(UInt32) COMMENT 'Which attempt at the question, from 1, as the client counts',
    hints_used Nullable(UInt32) COMMENT 'Hints used',
    quality Nullable(UInt8) COMMENT 'Quality of recall, 0 to 5',
    confidence Nullable(UInt8) COMMENT 'How sure the learner was, 1 to 5',
    opportunity UInt32 COMMENT 'Which practice of this skill by this learner, from 1, in order of arrival',
    elapsed_seconds Nullable(Float64) COMMENT 'Seconds since this learner practised this skill last; NULL at first, 0 for a late answer',
    predicted_correct Nullable(Float64) COMMENT 'Probability of a right answer that the model gave before; NULL without a skill',
    p_known_before Nullable(Float64) COMMENT 'Probability that the skill was known before; NULL without a skill',
    p_known_after Nullable(Float64) COMMENT 'Probability that the skill is known after; NULL without a skill',
    ability_before Nullable(Float64) COMMENT 'Ability (theta) before; NULL until abilities are estimated',
    ability_after Nullable(Float64) COMMENT 'Ability (theta) after; NULL until abilities are estimated',
    easiness_before Nullable(Float64) COMMENT 'Easiness of the item''s schedule before; NULL until items are scheduled',
    easiness_after Nullable(Float64) COMMENT 'Easiness of the item''s schedule after; NULL until items are scheduled',
    model_version String COMMENT 'Version of the parameters that were used; default if none named the skill'
)
AS SELECT
    school_id, user_id, event_id, skill_index, skill_id, event_time, session_id, quiz_id,
    quiz_attempt_id, course_id, classroom_id, item_id, answer, correct, score, time_taken_ms,
    attempt_number, hints_used, quality, confidence, opportunity, elapsed_seconds,
    predicted_correct, p_known_before, p_known_after, ability_before, ability_after,
    easiness_before, easiness_after, model_version
FROM attempts_raw FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
COMMENT 'One row per graded answer of a learner and skill, with the state of the models before and after'
