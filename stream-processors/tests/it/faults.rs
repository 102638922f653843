//! ClickHouse refuses rows, is away, or is given too many months.

use serde_json::json;

use crate::events::{append, append_third, event, record};
use crate::support::{Installation, PARTITIONS, assert_same, ready, rows_of};

fn login(number: u64, user: &str, at_ms: i64) -> chalkstream_event_log::NewRecord {
    let raw = json!({
        "id": uuid::Uuid::from_u128(u128::from(number)).to_string(),
        "type": "login", "user_id": user,
    });
    record(&event("lincoln", &raw, at_ms), PARTITIONS)
}

#[tokio::test]
async fn a_refused_row_goes_to_the_rejected_log_and_nothing_else_is_held_up() {
    if !ready() {
        return;
    }
    let installation = Installation::new();
    installation
        .with_log(async |log| {
            let records = (0..300).map(|number| {
                let user = if number == 123 { "poison".to_owned() } else { format!("u{number}") };
                login(number, &user, 1_767_700_000_000)
            });
            append(&*log, records.collect()).await;
        })
        .await;
    let constraint = "ALTER TABLE events_raw ADD CONSTRAINT no_poison CHECK user_id != 'poison'";
    installation.must("fold", &[(crate::child::STATEMENT, constraint)]);
    let dump = installation.dump();
    assert_eq!(rows_of(&dump, "events_raw").len(), 299);
    let rejected = rows_of(&dump, "rejected_events_raw");
    assert_eq!(rejected.len(), 1, "{rejected:?}");
    assert!(rejected[0].contains("no_poison"), "{rejected:?}");
    assert!(rejected[0].contains("offset "), "{rejected:?}");
}

#[tokio::test]
async fn clickhouse_may_be_away_for_a_while() {
    if !ready() {
        return;
    }
    let expected = Installation::new();
    expected
        .with_log(async |log| {
            for third in 0..3 {
                append_third(&*log, third).await;
            }
        })
        .await;
    expected.must("fold", &[]);
    let installation = Installation::new();
    installation.with_log(async |log| append_third(&*log, 0).await).await;
    installation.must("outage", &[]);
    assert_same(&installation.dump(), &expected.dump(), "after three outages");
}

#[tokio::test]
async fn a_flush_over_more_months_than_clickhouse_takes_is_split() {
    if !ready() {
        return;
    }
    const MONTHS: u64 = 150;
    const MONTH_MS: i64 = 31 * 24 * 3600 * 1000;
    let installation = Installation::new();
    installation
        .with_log(async |log| {
            let records = (0..MONTHS).map(|number| {
                let months = i64::try_from(number).unwrap();
                login(number, "u", 1_200_000_000_000 + months * MONTH_MS)
            });
            append(&*log, records.collect()).await;
        })
        .await;
    installation.must("fold", &[]);
    assert_eq!(rows_of(&installation.dump(), "events_raw").len(), 150);
}
