use chalkstream_schemas::LogOffset;

use super::*;
use crate::testing::{Rows, answer, bkt, cells, fold, fold_on, fresh};

const A: &str = r#""data":{"item_id":"i","skill_ids":["a"],"correct":true}"#;
const A_WRONG: &str = r#""data":{"item_id":"i","skill_ids":["a"],"correct":false}"#;

#[test]
fn counts_and_streaks_follow_the_answers() {
    let answers = [A, A, A_WRONG, A];
    let events: Vec<_> = (0_u32..)
        .zip(answers)
        .map(|(at, rest)| answer(at.into(), "kim", 60_000 * i64::from(at), rest))
        .collect();
    let rows = fold(&events).of("skill_mastery_state");
    assert_eq!(rows.len(), 1);
    let columns = "skill_id attempts correct_count current_streak longest_streak mastered \
                   last_practised_at model_version";
    assert_eq!(cells(&rows[0], columns), "a 4 3 1 2 false 1970-01-01T00:03:00.000Z default");
}

#[test]
fn attempts_show_the_state_before_and_after() {
    let events = [answer(1, "kim", 0, A), answer(2, "kim", 90_500, A_WRONG)];
    let rows = fold(&events).of("attempts_raw");
    let columns = "opportunity elapsed_seconds predicted_correct p_known_before p_known_after";
    // 0.3 * 0.9 + 0.7 * 0.2 = 0.41; 0.27 / 0.41 = 27/41; 27/41 + 14/41 * 0.1 = 28.4/41.
    let first = cells(&rows[0], columns);
    let numbers: Vec<f64> = first.split(' ').filter_map(|it| it.parse().ok()).collect();
    for (found, expected) in numbers.iter().zip([1.0, 0.41, 0.3, 28.4 / 41.0]) {
        assert!((found - expected).abs() < 1e-12, "{first}");
    }
    assert_eq!(rows[0]["elapsed_seconds"], "NULL");
    assert_eq!(cells(&rows[1], "opportunity elapsed_seconds"), "2 90.5");
    assert_eq!(rows[0]["p_known_after"], rows[1]["p_known_before"]);
}

#[test]
fn a_skill_named_twice_counts_once_and_no_skill_has_no_mastery() {
    let twice = r#""data":{"item_id":"i","skill_ids":["b","a","b"],"correct":true}"#;
    let none = r#""data":{"item_id":"i","correct":true}"#;
    let rows = fold(&[answer(1, "kim", 0, twice), answer(2, "kim", 1000, none)]);
    let attempts: Vec<_> = rows
        .of("attempts_raw")
        .iter()
        .map(|row| cells(row, "skill_index skill_id opportunity model_version"))
        .collect();
    assert_eq!(attempts, ["0 b 1 default", "1 a 1 default", "0  1 default"]);
    let last = rows.of("attempts_raw").pop().unwrap();
    assert_eq!(cells(&last, "predicted_correct p_known_before p_known_after"), "NULL NULL NULL");
    assert_eq!(rows.of("skill_mastery_state").len(), 2);
}

#[test]
fn teachers_and_ungraded_answers_teach_nothing() {
    let teacher =
        r#""user_role":"teacher","data":{"item_id":"i","skill_ids":["a"],"correct":true}"#;
    let ungraded = r#""data":{"item_id":"i","skill_ids":["a"],"graded":false}"#;
    let rows = fold(&[answer(1, "kim", 0, teacher), answer(2, "lee", 1000, ungraded)]);
    assert!(rows.of("attempts_raw").is_empty());
    assert!(rows.of("skill_mastery_state").is_empty());
    assert!(rows.of("item_stats_part").is_empty());
    assert_eq!(rows.of("events_raw").len(), 2);
}

#[test]
fn parameters_hold_from_their_record_on_and_the_schools_own_come_first() {
    let (mut state, mut rows) = (fresh(), Rows::default());
    let control = |state: &mut crate::PartitionState, offset, record| {
        state.apply_control(LogOffset::new(offset), &record, &[], &mut Rows::default()).unwrap();
    };
    fold_on(&mut state, 0, &[answer(1, "kim", 0, A)], &mut rows);
    control(&mut state, 1, bkt(7, Some("lincoln"), "own", "a", 0.5));
    control(&mut state, 2, bkt(8, None, "all", "a", 0.9));
    control(&mut state, 3, bkt(8, None, "repeated id", "a", 0.1));
    let events = [answer(2, "kim", 1000, A), answer(3, "lee", 2000, A)];
    fold_on(&mut state, 4, &events, &mut rows);
    let attempts = rows.of("attempts_raw");
    let versions: Vec<_> = attempts.iter().map(|row| &row["model_version"]).collect();
    assert_eq!(versions, ["default", "own", "own"]);
    assert_eq!(attempts[1]["p_known_before"], attempts[0]["p_known_after"]);
    assert_eq!(attempts[2]["p_known_before"], "0.5");
}

#[test]
fn packing_keeps_every_value() {
    for skill in [
        Skill::new(&Parameters::default()),
        Skill {
            known: Known::new(0.999_456_789),
            last_practised_at: Timestamp::MAX,
            model: Symbol::from_index((1 << MODEL_BITS) - 1),
            touched: true,
            attempts: COUNT_MAX,
            correct_count: 1,
            current_streak: 65_537,
            longest_streak: COUNT_MAX - 1,
        },
    ] {
        assert_eq!(Skill::unpack(&skill.pack()), skill);
    }
    assert_eq!(size_of::<(Symbol, Packed)>(), 32);
}
