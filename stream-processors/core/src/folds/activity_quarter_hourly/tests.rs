use crate::testing::{cells, event, fold};

#[test]
fn events_fall_into_quarters_of_an_hour_and_only_students_are_learners() {
    let view = |number, user: &str, role: &str, time: &str| {
        event(
            number,
            &format!(
                r#""type":"page_view","user_id":"{user}","user_role":"{role}","occurred_at":"2026-03-02T{time}Z","data":{{"page":"p"}}"#
            ),
        )
    };
    let rows = fold(&[
        view(1, "kim", "student", "10:00:00"),
        view(2, "kim", "student", "10:14:59.999"),
        view(3, "kim", "student", "10:15:00"),
        view(4, "ms-ito", "teacher", "10:05:00"),
    ])
    .of("activity_quarter_hourly_state");
    let found: Vec<_> =
        rows.iter().map(|row| cells(row, "bucket_at user_id event_count learner")).collect();
    assert_eq!(
        found,
        [
            "2026-03-02T10:00:00.000Z kim 2 true",
            "2026-03-02T10:00:00.000Z ms-ito 1 false",
            "2026-03-02T10:15:00.000Z kim 1 true",
        ]
    );
}
