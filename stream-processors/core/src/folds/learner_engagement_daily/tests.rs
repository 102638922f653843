use chalkstream_schemas::{LearningEvent, LogOffset};

use crate::testing::{Rows, cells, event, fold, fold_on, fresh, school_zone};

fn of(number: u64, kind: &str, time: &str, course: &str, data: &str) -> LearningEvent {
    let course =
        if course.is_empty() { String::new() } else { format!(r#""course_id":"{course}","#) };
    event(
        number,
        &format!(
            r#""type":"{kind}","user_id":"kim","occurred_at":"{time}",{course}"data":{{{data}}}"#
        ),
    )
}

const TEN: &str = "2026-03-02T10:00:00Z";

#[test]
fn every_kind_is_counted_once_with_its_time() {
    let rows = fold(&[
        of(1, "login", TEN, "c", ""),
        of(2, "video_watch", TEN, "c", r#""video_id":"v","duration_seconds":12.5"#),
        of(3, "assignment_submit", TEN, "c", r#""assignment_id":"a","duration_seconds":10"#),
        of(4, "discussion_post", TEN, "c", r#""discussion_id":"d","duration_seconds":2"#),
        of(5, "discussion_post", TEN, "c", r#""discussion_id":"d""#),
        of(6, "peer_interaction", TEN, "c", r#""duration_seconds":4"#),
        of(7, "lesson_start", TEN, "c", r#""lesson_id":"l""#),
        of(8, "lesson_complete", TEN, "c", r#""lesson_id":"l","duration_seconds":30"#),
        of(9, "resource_access", TEN, "c", r#""resource_id":"r""#),
        of(10, "page_view", TEN, "", r#""page":"p","duration_seconds":1"#),
    ])
    .of("learner_engagement_daily_state");
    assert_eq!(rows.len(), 2);
    assert_eq!(cells(&rows[0], "course_id page_views page_view_ms"), " 1 1000");
    let counts =
        "logins videos assignments discussions peer_interactions lessons resources quizzes";
    assert_eq!(cells(&rows[1], counts), "1 1 1 2 1 2 1 0");
    let times = "video_ms assignment_ms discussion_ms peer_ms lesson_ms";
    assert_eq!(cells(&rows[1], times), "12500 10000 2000 4000 30000");
    // 12.5 x 1 + 10 x 4 + 2 x 3 + 4 x 2.5 = 68.5 s; weights 1 + 4 + 3 + 2.5 = 10.5.
    let sums = "engagement_weighted_ms_tenths engagement_weight_tenths";
    assert_eq!(cells(&rows[1], sums), "685000 105");
}

#[track_caller]
fn check_quiz(events: &[(&str, &str)], expected: &str) {
    let events: Vec<_> =
        (0..).zip(events).map(|(number, (kind, data))| of(number, kind, TEN, "c", data)).collect();
    let rows = fold(&events).of("learner_engagement_daily_state");
    assert_eq!(cells(&rows[0], "quizzes quiz_ms engagement_weight_tenths"), expected);
}

#[test]
fn a_quiz_counts_once() {
    let begun = ("quiz_attempt", r#""quiz_id":"q","quiz_attempt_id":"1","duration_seconds":60"#);
    let done = |rest: &'static str| ("quiz_complete", rest);
    let plain = done(r#""quiz_id":"q","quiz_attempt_id":"1","score":5,"duration_seconds":70"#);
    let other = done(r#""quiz_id":"q","quiz_attempt_id":"2","score":5,"duration_seconds":70"#);
    let untimed = ("quiz_attempt", r#""quiz_id":"q","quiz_attempt_id":"1""#);
    check_quiz(&[begun], "1 60000 20");
    check_quiz(&[plain], "1 70000 20");
    check_quiz(&[begun, plain], "1 60000 20");
    check_quiz(&[plain, begun], "1 70000 20");
    check_quiz(&[untimed, plain], "1 70000 20");
    check_quiz(&[untimed], "1 0 0");
    check_quiz(&[begun, other], "2 130000 40");
    check_quiz(&[begun, plain, begun, plain], "2 120000 40");
    // Begun twice and completed once: the first of the two is the one that was completed.
    check_quiz(&[begun, untimed, plain], "2 60000 20");
    check_quiz(&[untimed, begun, plain], "2 130000 40");
}

#[test]
fn a_day_is_the_schools_day_also_when_the_clock_changes() {
    let (mut state, mut rows) = (fresh(), Rows::default());
    let zone = school_zone("Europe/Berlin");
    state.apply_control(LogOffset::new(0), &zone, &[], &mut rows).unwrap();
    // On 29 March 2026 Berlin goes from +01:00 to +02:00 at 01:00 UTC.
    let times = [
        "2026-03-28T22:59:59Z",
        "2026-03-28T23:00:00Z",
        "2026-03-29T21:59:59Z",
        "2026-03-29T22:00:00Z",
        // And back on 25 October at 01:00 UTC.
        "2026-10-24T22:00:00Z",
        "2026-10-25T22:59:59Z",
        "2026-10-25T23:00:00Z",
    ];
    let events: Vec<_> =
        (1..).zip(times).map(|(number, time)| of(number, "login", time, "", "")).collect();
    fold_on(&mut state, 1, &events, &mut rows);
    state.drain_rows(&mut rows);
    let rows = rows.of("learner_engagement_daily_state");
    let days: Vec<_> = rows.iter().map(|row| cells(row, "day logins")).collect();
    let expected = ["2026-03-28 1", "2026-03-29 2", "2026-03-30 1", "2026-10-25 2", "2026-10-26 1"];
    assert_eq!(days, expected);
}

#[test]
fn a_late_event_after_eviction_begins_a_partial() {
    let mut events: Vec<_> =
        (1..=6).map(|day| of(day, "login", &format!("2026-03-0{day}T10:00:00Z"), "", "")).collect();
    events.push(of(7, "login", "2026-03-01T11:00:00Z", "", ""));
    let rows = fold(&events).of("learner_engagement_daily_state");
    let first: Vec<_> = rows.iter().filter(|row| row["day"] == "2026-03-01").collect();
    assert_eq!(first.len(), 2, "two partials of one day, for the view to add up");
    assert!(first.iter().all(|row| row["logins"] == "1"));
}
