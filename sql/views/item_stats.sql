-- Partials of all partitions added up; learners counted from their first answers. A quantile is the
-- middle of the bucket of the histogram that it falls into: buckets below 32 are the milliseconds
-- themselves, then each doubling has 32.
CREATE OR REPLACE VIEW item_stats
(
    school_id String COMMENT 'School',
    item_id String COMMENT 'Question',
    attempts UInt64 COMMENT 'Graded answers of learners',
    learners UInt64 COMMENT 'Learners who answered it',
    correct_count UInt64 COMMENT 'Right answers',
    first_attempts UInt64 COMMENT 'Learners whose first answer is known',
    first_attempt_correct_count UInt64 COMMENT 'Learners whose first answer was right',
    hints_used UInt64 COMMENT 'Hints used',
    difficulty Float64 COMMENT '1 minus the share of right answers, 0 to 1',
    mean_time_ms Nullable(Float64) COMMENT 'Mean time of the answers that have one, milliseconds',
    time_p50_ms Nullable(Float64) COMMENT 'Median time, milliseconds, within 1.6 %',
    time_p90_ms Nullable(Float64) COMMENT 'Time that 90 % of the answers stay within, milliseconds, within 1.6 %',
    answers Map(String, UInt64) COMMENT 'The 50 commonest answers of at most 64 bytes and how often each was given'
)
AS WITH
    (bucket) -> if(bucket < 32, bucket, bitShiftLeft(toUInt64(32 + bucket % 32), intDiv(bucket, 32) - 1)
        + (bitShiftLeft(toUInt64(1), intDiv(bucket, 32) - 1) - 1) / 2) AS middle,
    (share) -> arrayFirstIndex(reached -> reached >= share * times, arrayCumSum(mapValues(time_histogram))) AS place
SELECT
    school_id,
    item_id,
    attempts,
    learners,
    correct_count,
    first_attempts,
    first_attempt_correct_count,
    hints_used,
    if(attempts = 0, 0., 1 - correct_count / attempts) AS difficulty,
    if(times = 0, NULL, time_ms_sum / times) AS mean_time_ms,
    if(times = 0, NULL, toFloat64(middle(mapKeys(time_histogram)[place(0.5)]))) AS time_p50_ms,
    if(times = 0, NULL, toFloat64(middle(mapKeys(time_histogram)[place(0.9)]))) AS time_p90_ms,
    mapFromArrays(
        arrayMap(entry -> entry.2, commonest) AS commonest_texts,
        arrayMap(entry -> toUInt64(-entry.1), commonest)) AS answers
FROM
(
    SELECT
        school_id,
        item_id,
        sum(i.attempts) AS attempts,
        sum(i.learners) AS learners,
        sum(i.correct_count) AS correct_count,
        sum(i.first_attempts) AS first_attempts,
        sum(i.first_attempt_correct_count) AS first_attempt_correct_count,
        sum(i.hints_used) AS hints_used,
        sum(i.time_ms_sum) AS time_ms_sum,
        sum(i.time_count) AS times,
        sumMap(i.time_histogram) AS time_histogram,
        sumMap(i.answers) AS all_answers,
        arraySlice(
            arraySort(arrayMap((text, count) -> (-toInt64(count), text), mapKeys(all_answers), mapValues(all_answers))),
            1, 50) AS commonest
    FROM
    (
        SELECT
            school_id, item_id, attempts, toUInt64(0) AS learners, correct_count,
            toUInt64(0) AS first_attempts, toUInt64(0) AS first_attempt_correct_count, hints_used,
            time_ms_sum, time_count, time_histogram, answers
        FROM item_stats_part FINAL
        WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
        UNION ALL
        SELECT
            school_id, item_id, 0, 1, 0, toUInt64(first_attempt),
            toUInt64(first_attempt AND correct), 0, 0, 0,
            CAST(map(), 'Map(UInt16, UInt64)'), CAST(map(), 'Map(String, UInt64)')
        FROM item_learners_state FINAL
        WHERE epoch = (SELECT argMax(epoch, version) FROM active_epoch_raw)
    ) AS i
    GROUP BY school_id, item_id
) AS totals
COMMENT 'One row per question: how it is answered'
