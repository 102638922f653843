use chalkstream_schemas::RejectReason;

use super::*;
use crate::fate::Fate;
use crate::tail::TailedEvent;

const RECEIVED_MS: i64 = 5 * HOUR_MS + 17;

fn account(outcomes: &Arc<Outcomes>, events: usize) -> Account {
    let school_id = SchoolId::parse("lincoln").unwrap();
    let credential = Credential::new("csk_1", school_id, Vec::new());
    outcomes.account(&credential, Timestamp::from_ms(RECEIVED_MS), events)
}

fn settled(fate: Fate) -> Settled {
    Settled { id: None, fate }
}

fn rejection(type_name: &str, app: &str) -> Rejection {
    let mut rejection = Rejection::new(RejectReason::InvalidField, Some("x"), "it is wrong");
    rejection.type_name = Some(type_name.to_owned());
    rejection.app = Some(app.to_owned());
    rejection.id = Some("e1".to_owned());
    rejection
}

/// (type, app, fate, events), sorted.
fn taken(outcomes: &Outcomes) -> Vec<(String, String, &'static str, u64)> {
    let mut counts: Vec<_> = outcomes
        .take()
        .into_iter()
        .map(|(series, events)| {
            assert_eq!(series.hour.as_ms(), 5 * HOUR_MS);
            assert_eq!((series.school_id.as_str(), &*series.key_id), ("lincoln", "csk_1"));
            let OutcomeSeries { type_name, app, outcome, .. } = series;
            (type_name.to_string(), app.to_string(), outcome.status(), events)
        })
        .collect();
    counts.sort();
    counts
}

#[test]
fn events_are_counted_by_canonical_type_and_app() {
    let outcomes = Arc::new(Outcomes::default());
    let long = "a".repeat(ID_MAX_BYTES + 1);
    let kinds = [
        ("student_login", "web"),
        ("login", "web"),
        ("no_such_type", "web"),
        ("custom.mine", ""),
        ("login", long.as_str()),
    ];
    let mut account = account(&outcomes, kinds.len() + 1);
    for (index, (type_name, app)) in kinds.iter().enumerate() {
        account.is_rejected(index, &rejection(type_name, app), b"");
    }
    // The last one was given up before anything was known of it.
    account.close(3, &vec![settled(Fate::Duplicate); kinds.len() + 1]);
    let row = |type_name: &str, app: &str, events| {
        (type_name.to_owned(), app.to_owned(), "duplicate", events)
    };
    let expected = [
        row("", "", 1),
        row("", "web", 1),
        row("custom.mine", "", 1),
        row("login", "other", 1),
        row("login", "web", 2),
    ];
    assert_eq!(taken(&outcomes), expected);
    assert_eq!(taken(&outcomes), [], "what was taken is gone");
}

#[test]
fn no_number_of_invented_names_is_too_many() {
    let outcomes = Arc::new(Outcomes::default());
    for request in 0..200 {
        let mut account = account(&outcomes, 100);
        for index in 0..100 {
            let name = format!("custom.{request}-{index}");
            account.is_rejected(index, &rejection(&name, ""), b"");
        }
        account.close(0, &vec![settled(Fate::Accepted(EventType::Login)); 100]);
    }
    let counts = taken(&outcomes);
    assert!(counts.len() <= WAITING_MAX + 1, "{}", counts.len());
    assert_eq!(counts.iter().map(|(.., events)| events).sum::<u64>(), 20_000);
}

#[test]
fn fates_are_told_only_to_those_who_watch() {
    let outcomes = Arc::new(Outcomes::default());
    let tell = || {
        let mut account = account(&outcomes, 1);
        let rejection = rejection("quiz", "");
        account.is_rejected(0, &rejection, br#"{"user_id": "ada", "type": "quiz"}"#);
        account.close(0, &[settled(Fate::Rejected(Box::new(rejection)))]);
    };
    tell();
    let mut watcher = outcomes.tail.watch();
    tell();
    let told = watcher.try_recv().unwrap();
    let TailedEvent { type_name, user_id, status, reason, field, id, .. } = &*told;
    assert_eq!((status.as_str(), reason.as_deref()), ("rejected", Some("invalid_field")));
    assert_eq!((type_name.as_deref(), user_id.as_deref()), (Some("quiz"), Some("ada")));
    assert_eq!((field.as_deref(), id.as_deref()), (Some("x"), Some("e1")));
    assert!(watcher.try_recv().is_err(), "the first one was told to nobody");
}
