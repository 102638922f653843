CREATE OR REPLACE VIEW skill_parameters
(
    school_id String COMMENT 'School; empty for parameters of all schools',
    skill_id String COMMENT 'Skill',
    model_version String COMMENT 'Version under which they were loaded',
    p_init Float64 COMMENT 'Probability that the skill is known before the first answer',
    p_learn Float64 COMMENT 'Probability of learning it at an answer',
    p_guess Float64 COMMENT 'Probability of a right answer without knowing it',
    p_slip Float64 COMMENT 'Probability of a wrong answer in spite of knowing it',
    p_forget Float64 COMMENT 'Probability of forgetting it at an answer',
    loaded_at DateTime64(3, 'UTC') COMMENT 'When they were loaded'
)
AS SELECT school_id, skill_id, model_version, p_init, p_learn, p_guess, p_slip, p_forget, loaded_at
FROM skill_parameters_raw FINAL
WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
COMMENT 'One row per skill and model version: parameters of Bayesian knowledge tracing'
