CREATE OR REPLACE VIEW skill_mastery
(
    school_id String COMMENT 'School',
    user_id String COMMENT 'Learner',
    skill_id String COMMENT 'Skill',
    p_known Float64 COMMENT 'Probability that the learner knows the skill, 0 to 1 (Bayesian knowledge tracing)',
    mastered Bool COMMENT 'Whether p_known is 0.95 or more',
    attempts UInt32 COMMENT 'Graded answers that practised the skill',
    correct_count UInt32 COMMENT 'The right ones among them',
    current_streak UInt32 COMMENT 'Right answers since the last wrong one',
    longest_streak UInt32 COMMENT 'The longest run of right answers',
    last_practised_at DateTime64(3, 'UTC') COMMENT 'When the skill was practised last',
    model_version String COMMENT 'Version of the parameters that were used last; default if none named the skill'
)
AS SELECT
    school_id, user_id, skill_id, p_known, mastered, attempts, correct_count, current_streak,
    longest_streak, last_practised_at, model_version
FROM skill_mastery_state FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
COMMENT 'One row per learner and skill: how well the learner knows it now'
