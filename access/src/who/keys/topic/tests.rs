use std::time::Instant;

use bytes::Bytes;
use chalkstream_event_log::test_support::{Broker, kafka, unique_prefix};
use chalkstream_schemas::{SchoolId, Timestamp};

use super::*;
use crate::who::credential::AuthError;
use crate::who::grant::{Grant, KeyState, Scope};
use crate::who::keys::{KeyStore, WriteKey};

/// What the issue promises.
const AT_MOST: Duration = Duration::from_secs(5);

fn at(ms: i64) -> Timestamp {
    Timestamp::from_ms(ms)
}

fn school(name: &str) -> SchoolId {
    SchoolId::parse(name).unwrap()
}

fn info(key_id: &str) -> KeyInfo {
    let grant = Grant::new(school("a"), &[Scope::EventsWrite]);
    let key_id = key_id.to_owned();
    KeyInfo { key_id, grant, created_at: at(5), expires_at: None, rotated: None, revoked_at: None }
}

fn name(byte: u8, suffix: &str) -> Bytes {
    Bytes::from(hex::encode([byte; 32]) + suffix)
}

fn key_row(byte: u8, key_id: &str) -> (Bytes, Bytes) {
    let key = StoredKey::of(&info(key_id), &[byte; 32]);
    (name(byte, ""), Bytes::from(encode(KeyRow { key }).unwrap()))
}

fn row(byte: u8, suffix: &str, value: &'static str) -> (Bytes, Bytes) {
    (name(byte, suffix), Bytes::from_static(value.as_bytes()))
}

const REVOKED_ROW: &str = "{\"format\":1,\"at\":\"1970-01-01T00:00:00.007Z\"}";
const ROTATED_ROW: &str =
    "{\"format\":1,\"until\":\"1970-01-01T00:00:00.009Z\",\"successor\":\"csk_2\"}";

#[track_caller]
fn check(rows: impl IntoIterator<Item = (Bytes, Bytes)>, expected: &[KeyInfo]) {
    let found = keys(&rows.into_iter().collect());
    assert_eq!(found.into_iter().map(|(info, _)| info).collect::<Vec<_>>(), expected);
}

#[test]
fn the_rows_of_a_key_are_put_together_in_any_order() {
    let rotated = Some(Rotated { until: at(9), successor: "csk_2".to_owned() });
    check([key_row(1, "csk_1"), key_row(0, "csk_0")], &[info("csk_0"), info("csk_1")]);
    check(
        [row(1, ROTATED, ROTATED_ROW), row(1, REVOKED, REVOKED_ROW), key_row(1, "csk_1")],
        &[KeyInfo { rotated: rotated.clone(), revoked_at: Some(at(7)), ..info("csk_1") }],
    );
    // The key was removed; what remains of it names nobody.
    check([row(1, ROTATED, ROTATED_ROW), row(1, REVOKED, REVOKED_ROW)], &[]);
}

#[test]
fn what_cannot_be_read_takes_nothing_back_and_revokes_all_the_same() {
    let bad = ["", "{}", "null", "{\"format\":2}", "{\"format\":1,\"at\":\"soon\",\"until\":5}"];
    for value in bad {
        check([key_row(1, "csk_1"), row(2, "", value)], &[info("csk_1")]);
        check([key_row(1, "csk_1"), row(1, ROTATED, value)], &[info("csk_1")]);
        check(
            [key_row(1, "csk_1"), row(1, REVOKED, value)],
            &[KeyInfo { revoked_at: Some(at(5)), ..info("csk_1") }],
        );
        check([key_row(1, "csk_1"), row(1, "/later", value)], &[info("csk_1")]);
    }
    // A row under another's name would give a key the rights of another.
    let (_, value) = key_row(1, "csk_1");
    check([(name(2, ""), value)], &[]);
    check([(Bytes::from_static(b"\xff"), Bytes::new())], &[]);
}

fn options(broker: &Broker, prefix: &str) -> KafkaOptions {
    let mut options = KafkaOptions::new(broker.bootstrap());
    options.prefix = prefix.to_owned();
    options
}

async fn store(broker: &Broker, prefix: &str) -> KeyStore {
    KeyStore::on_kafka(options(broker, prefix)).await.unwrap()
}

/// The calls that change keys block.
async fn blocking<T: Send + 'static>(
    store: &KeyStore,
    work: impl FnOnce(&KeyStore) -> T + Send + 'static,
) -> T {
    let store = store.clone();
    tokio::task::spawn_blocking(move || work(&store)).await.unwrap()
}

async fn create(store: &KeyStore, name: &'static str) -> (WriteKey, KeyInfo) {
    let created =
        blocking(store, move |store| store.create(&school(name), &[Scope::EventsWrite], at(5)));
    created.await.unwrap()
}

async fn within_5_seconds(what: &str, reached: impl Fn() -> bool) {
    let began = Instant::now();
    while !reached() {
        assert!(began.elapsed() < AT_MOST, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_follows_what_any_of_them_changes() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let (one, two) = tokio::join!(store(broker, &prefix), store(broker, &prefix));
    let (key, info) = create(&one, "lincoln").await;
    assert!(one.authenticate(key.reveal(), at(6)).is_ok(), "whoever made it has it at once");
    within_5_seconds("the key on the other node", || two.authenticate(key.reveal(), at(6)).is_ok())
        .await;
    assert_eq!(two.list(), std::slice::from_ref(&info));

    let key_id = info.key_id.clone();
    let rotated = blocking(&two, move |two| two.rotate(&key_id, AT_MOST, at(10))).await;
    let (next, next_info) = rotated.unwrap();
    assert_eq!(next_info.grant, info.grant);
    within_5_seconds("the successor", || one.authenticate(next.reveal(), at(11)).is_ok()).await;
    within_5_seconds("the rotation", || {
        one.list().iter().any(|key| key.state(at(11)) == KeyState::Rotating { until: at(5_010) })
    })
    .await;
    assert!(one.authenticate(key.reveal(), at(11)).is_ok());
    assert!(one.authenticate(key.reveal(), at(5_010)).is_err());

    let key_id = next_info.key_id.clone();
    blocking(&one, move |one| one.revoke(&key_id, at(12))).await.unwrap();
    let revoked = |store: &KeyStore| {
        matches!(store.authenticate(next.reveal(), at(13)), Err(AuthError::Revoked { .. }))
    };
    assert!(revoked(&one));
    within_5_seconds("the revocation on the other node", || revoked(&two)).await;
    // A node that starts later knows all of it.
    let three = store(broker, &prefix).await;
    assert!(revoked(&three) && three.list() == one.list());
    let none = blocking(&three, |three| three.revoke("csk_none", at(14))).await;
    assert!(matches!(none, Err(KeyError::NoSuchKey { .. })));
    assert!(three.trouble().is_none() && three.path().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_and_rotated_at_once_is_revoked() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let (one, two) = tokio::join!(store(broker, &prefix), store(broker, &prefix));
    let mut keys = Vec::new();
    for _ in 0..5 {
        let (key, info) = create(&one, "lincoln").await;
        within_5_seconds("the key", || two.list().contains(&info)).await;
        let (revoke, rotate) = (info.key_id.clone(), info.key_id.clone());
        let (revoked, _either) = tokio::join!(
            blocking(&one, move |one| one.revoke(&revoke, at(6))),
            blocking(&two, move |two| two.rotate(&rotate, AT_MOST, at(6)).map(drop)),
        );
        revoked.unwrap();
        keys.push(key);
    }
    let three = store(broker, &prefix).await;
    for store in [&one, &two, &three] {
        for key in &keys {
            within_5_seconds("the revocation", || {
                matches!(store.authenticate(key.reveal(), at(7)), Err(AuthError::Revoked { .. }))
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_made_on_several_nodes_at_once_are_all_there() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let (one, two) = tokio::join!(store(broker, &prefix), store(broker, &prefix));
    let several = async |store: &KeyStore, school| {
        let mut made = Vec::new();
        for _ in 0..8 {
            made.push(create(store, school).await.0);
        }
        made
    };
    let (of_one, of_two) = tokio::join!(several(&one, "x"), several(&two, "y"));
    for store in [&one, &two] {
        for key in of_one.iter().chain(&of_two) {
            within_5_seconds("the key", || store.authenticate(key.reveal(), at(6)).is_ok()).await;
        }
    }
    assert_eq!(one.list().len(), 16);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_stands_in_the_topic() {
    let Some(broker) = kafka() else { return };
    let prefix = unique_prefix();
    let store = store(broker, &prefix).await;
    let (key, _info) = create(&store, "lincoln").await;
    let seen = Arc::new(parking_lot::Mutex::new(String::new()));
    let show = Arc::clone(&seen);
    let table = KafkaTable::open(options(broker, &prefix), TOPIC, move |rows| {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        *show.lock() = rows.iter().map(|(key, row)| text(key) + &text(row)).collect();
    });
    let table = table.await.unwrap();
    tokio::task::spawn_blocking(move || table.wait_until_current().unwrap()).await.unwrap();
    let seen = seen.lock();
    assert!(seen.contains("lincoln") && !seen.contains(key.reveal().strip_prefix("csk_").unwrap()));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_the_keys_that_are_known_stay_valid() {
    if kafka().is_none() {
        return;
    }
    let broker = Broker::start().unwrap();
    let store = store(&broker, "").await;
    let (key, _info) = create(&store, "lincoln").await;
    let signal = |signal: &str| {
        let pid = broker.pid().to_string();
        assert!(
            std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success()
        );
    };
    signal("-STOP");
    let began = Instant::now();
    while store.trouble().is_none() {
        assert!(began.elapsed() < Duration::from_secs(60), "no trouble is said");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (_since, why) = store.trouble().unwrap();
    assert!(why.contains("chalkstream.keys"), "{why}");
    assert!(store.authenticate(key.reveal(), at(6)).is_ok());
    let failed = blocking(&store, |store| store.create(&school("a"), &[Scope::EventsWrite], at(6)));
    let error = failed.await.unwrap_err();
    assert!(
        error.to_string().contains("on Kafka") && error.hint().contains("log.brokers"),
        "{error}"
    );
    signal("-CONT");
    while store.trouble().is_some() {
        assert!(began.elapsed() < Duration::from_secs(120), "trouble stays: {:?}", store.trouble());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    create(&store, "b").await;
}
