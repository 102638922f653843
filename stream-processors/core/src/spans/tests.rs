use super::*;

#[track_caller]
fn check(minutes: &[i64], active_seconds: u64) {
    let time = |minute: &i64| Timestamp::from_ms(minute * 60_000);
    for order in [minutes.to_vec(), minutes.iter().rev().copied().collect()] {
        let mut spans = Spans::at(time(&order[0]));
        order.iter().for_each(|minute| spans.add(time(minute)));
        assert_eq!(spans.active_ms(), active_seconds * 1000, "{order:?}");
        let mut out = Encoder::default();
        spans.encode(&mut out);
        let bytes = out.finish();
        assert_eq!(Spans::decode(&mut Decoder::bare(&bytes)).unwrap(), spans);
    }
}

#[test]
fn gaps_count_up_to_five_minutes_and_not_at_all_from_thirty_on() {
    check(&[0], 0);
    check(&[0, 4], 240);
    check(&[0, 5], 300);
    check(&[0, 12], 300);
    check(&[0, 29], 300);
    check(&[0, 30], 0);
    check(&[0, 4, 12, 13], 240 + 300 + 60);
    check(&[0, 60, 62], 120);
}

#[test]
fn a_point_between_two_runs_joins_them() {
    let minute = |it: i64| Timestamp::from_ms(it * 60_000);
    let mut spans = Spans::at(minute(0));
    spans.add(minute(8));
    assert_eq!(spans.runs.len(), 2);
    spans.add(minute(4));
    assert_eq!(spans.runs, [(minute(0), minute(8))]);
}
