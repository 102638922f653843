use chalkstream_schemas::LearningEvent;

use crate::testing::{at, cells, event, fold};

fn view(number: u64, time: &str, session: Option<&str>) -> LearningEvent {
    let session = session.map_or(String::new(), |id| format!(r#""session_id":"{id}","#));
    event(
        number,
        &format!(
            r#""type":"page_view","user_id":"kim","occurred_at":"2026-03-02T{time}Z",{session}"data":{{"page":"p"}}"#
        ),
    )
}

#[track_caller]
fn check(events: &[(&str, Option<&str>)], expected: &[&str]) {
    let events: Vec<_> =
        (0..).zip(events).map(|(number, (time, session))| view(number, time, *session)).collect();
    let rows = fold(&events).of("sessions_state");
    let found: Vec<_> = rows
        .iter()
        .map(|row| cells(row, "session_id started_at ended_at event_count active_ms"))
        .collect();
    let mut expected: Vec<_> =
        expected.iter().map(|it| it.replace('@', "2026-03-02T").replace('Z', ".000Z")).collect();
    expected.sort();
    let mut found = found;
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn thirty_idle_minutes_end_a_session() {
    let ms = at("2026-03-02T10:00:00Z").as_ms();
    let later = at("2026-03-02T10:59:59Z").as_ms();
    check(
        &[("10:00:00", None), ("10:29:59", None), ("10:59:59", None)],
        &[
            &format!("auto-{ms} @10:00:00Z @10:29:59Z 2 300000"),
            &format!("auto-{later} @10:59:59Z @10:59:59Z 1 0"),
        ],
    );
}

#[test]
fn another_session_of_the_client_is_another_session() {
    check(
        &[("10:00:00", Some("a")), ("10:01:00", Some("b")), ("10:02:00", Some("b"))],
        &["a @10:00:00Z @10:00:00Z 1 0", "b @10:01:00Z @10:02:00Z 2 60000"],
    );
}

#[test]
fn a_client_session_that_goes_on_after_a_break_has_two_rows() {
    check(
        &[("10:00:00", Some("a")), ("11:00:00", Some("a"))],
        &["a @10:00:00Z @10:00:00Z 1 0", "a @11:00:00Z @11:00:00Z 1 0"],
    );
}

#[test]
fn a_late_event_moves_the_start_and_the_old_row_goes() {
    let ms = at("2026-03-02T09:50:00Z").as_ms();
    check(
        &[("10:00:00", None), ("09:50:00", None)],
        &[&format!("auto-{ms} @09:50:00Z @10:00:00Z 2 300000")],
    );
}

#[test]
fn a_late_event_joins_two_sessions_and_the_second_goes() {
    let ms = at("2026-03-02T10:00:00Z").as_ms();
    check(
        &[("10:00:00", None), ("10:40:00", None), ("10:20:00", None)],
        &[&format!("auto-{ms} @10:00:00Z @10:40:00Z 3 600000")],
    );
}

#[test]
fn a_device_that_comes_back_after_days_keeps_its_session_together() {
    let mut events = vec![view(0, "10:00:00", None)];
    let later = r#""type":"page_view","user_id":"kim","occurred_at":"2026-03-09T10:00:00Z","data":{"page":"p"}"#;
    events.push(event(1, later));
    events.extend([
        view(2, "12:00:00", None),
        view(3, "12:01:00", None),
        view(4, "12:02:00", None),
    ]);
    let rows = fold(&events).of("sessions_state");
    let counts: Vec<_> = rows.iter().map(|row| cells(row, "event_count active_ms")).collect();
    assert_eq!(rows.len(), 3);
    assert!(counts.contains(&"3 120000".to_owned()), "{counts:?}");
}
