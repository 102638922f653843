use super::*;
use crate::testing::{answer, cells, fold};

#[test]
fn an_item_adds_up_and_a_learners_first_answer_stays() {
    let data = |correct: bool, ms: u32, choice: &str| {
        format!(
            r#""data":{{"item_id":"i","correct":{correct},"time_taken_ms":{ms},"hints_used":1,"answer":{choice}}}"#
        )
    };
    let rows = fold(&[
        answer(1, "kim", 0, &data(false, 1000, r#""B""#)),
        answer(2, "kim", 1000, &data(true, 500, r#""A""#)),
        answer(3, "lee", 2000, &data(true, 20, "7")),
        answer(4, "lee", 3000, &data(true, 20, &format!("{:?}", "free text ".repeat(7)))),
    ]);
    let items = rows.of("item_stats_part");
    let columns = "attempts correct_count hints_used time_ms_sum time_count answers";
    assert_eq!(cells(&items[0], columns), "4 3 4 1540 4 7 1 A 1 B 1 ");
    let learners: Vec<_> = rows
        .of("item_learners_state")
        .iter()
        .map(|row| cells(row, "user_id first_attempt correct"))
        .collect();
    assert_eq!(learners, ["kim true false", "lee true true"]);
}

#[test]
fn buckets_rise_with_time_and_are_narrow() {
    let middle = |bucket: u16| {
        let bucket = u64::from(bucket);
        if bucket < 32 {
            return bucket as f64;
        }
        let width = 1_u64 << (bucket / 32 - 1);
        ((32 + bucket % 32) * width) as f64 + (width - 1) as f64 / 2.0
    };
    let mut before = 0;
    for ms in (0..5000).chain([86_400_000, chalkstream_schemas::fields::MILLIS_MAX]) {
        let bucket = time_bucket(ms);
        assert!(bucket >= before);
        before = bucket;
        assert!((middle(bucket) - ms as f64).abs() <= ms as f64 * 0.016, "{ms}");
    }
}

#[test]
fn the_commonest_answers_survive_many_rare_ones() {
    let mut stats = ItemStats::default();
    for number in 0..1000 {
        stats.count_answer("A");
        stats.count_answer("B");
        stats.count_answer(&format!("rare {number}"));
    }
    assert_eq!(stats.answers.len(), ANSWERS_MAX);
    let count = |text: &str| stats.answers.iter().find(|it| &*it.0 == text).map(|it| it.1);
    assert_eq!((count("A"), count("B")), (Some(1000), Some(1000)));
    assert!(stats.answers.is_sorted());
}
