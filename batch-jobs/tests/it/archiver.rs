//! Each event once, whoever commits, and never into another log's lake.

use std::sync::Arc;

use chalkstream_batch_jobs::archiver::{Archiver, Error};
use chalkstream_batch_jobs::lake::{self, LakeTable};
use chalkstream_event_log::{EventLog as _, Topic, control};
use chalkstream_schemas::{ControlBody, ControlPayload, SchoolId, Timestamp};
use datafusion::arrow::array::AsArray;

use crate::support::{DEADLINE, SCHOOL, World, answer, check_exactly_once, places, query};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lake_holds_each_event_once_and_duplicates_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let events: Vec<_> = (0..300).map(|n| answer(&format!("u{}", n % 11), n, n % 2 == 0)).collect();
    world.send(SCHOOL, &events).await;
    // The same again, and once more with other content: neither counts.
    world.send(SCHOOL, events.get(..50).unwrap()).await;
    world.send(SCHOOL, &[answer("u3", 3, true)]).await;
    // The same id of another user, and of another school, are other events.
    let mut other = answer("u3", 3, true);
    other["user_id"] = "somebody-else".into();
    world.send(SCHOOL, &[other]).await;
    world.send("washington", &[answer("u3", 3, true)]).await;
    world.archive_all().await;
    assert_eq!(places(&world.lake, LakeTable::Events).await.len(), 302);
    check_exactly_once(&world).await;
    // A second run finds nothing to do, and makes no version.
    let before = world.lake.newest(LakeTable::Events).await.unwrap().unwrap().version();
    world.archive_all().await;
    assert_eq!(world.lake.newest(LakeTable::Events).await.unwrap().unwrap().version(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn archivers_that_fight_over_the_same_partitions_write_each_event_once() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut archivers = Vec::new();
    // Two groups: each archiver has every partition, as an owner and a stale owner would.
    for group in ["one", "two", "three"] {
        let mut options = world.options();
        options.group = group.to_owned();
        options.interval = std::time::Duration::from_millis(5);
        archivers.push(Archiver::start(options).await.unwrap());
    }
    for round in 0..40 {
        let events: Vec<_> =
            (0..25).map(|n| answer(&format!("u{}", n % 9), round * 25 + n, true)).collect();
        world.send(SCHOOL, &events).await;
    }
    let ends = archivers[0].log_ends().await.unwrap();
    for archiver in &archivers {
        archiver.wait_for(&ends, DEADLINE).await.unwrap();
    }
    let overtaken: u64 = archivers.iter().map(|archiver| archiver.progress().overtaken).sum();
    for archiver in &archivers {
        archiver.shutdown(DEADLINE).await.unwrap();
    }
    check_exactly_once(&world).await;
    assert!(overtaken > 0, "the archivers never met; the test proves nothing");
}

/// The index is filled from the lake where the log no longer has the records.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicates_of_what_the_log_has_trimmed_stay_out_of_the_lake() {
    let folder = tempfile::tempdir().unwrap();
    let events: Vec<_> = (0..320).map(|n| answer(&format!("u{}", n % 11), n, n % 2 == 0)).collect();
    let world = World::open(folder.path());
    for sent in events[..300].chunks(30) {
        world.send(SCHOOL, sent).await;
    }
    world.archive_all().await;
    let before = places(&world.lake, LakeTable::Events).await;
    let gone = world.log.trim(Topic::Events, Timestamp::MAX).await.unwrap();
    assert!(gone > 200, "only {gone} records went");
    world.log.close().await.unwrap();
    drop(world);
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();

    let world = World::open(folder.path());
    world.send(SCHOOL, &events).await;
    world.send(SCHOOL, &[answer("u3", 3, true)]).await;
    world.archive_all().await;
    let after = places(&world.lake, LakeTable::Events).await;
    assert_eq!(after.len(), 320, "20 of the events were new");
    assert!(before.iter().all(|place| after.contains(place)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_records_are_kept_with_the_bytes_that_they_name() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let table = vec![7; 200_000];
    let body = ControlBody::BktParameters {
        school_id: None,
        model_version: "m1".to_owned(),
        table: ControlPayload::Inline(table.clone()),
    };
    let record = control::publish(world.log.as_ref(), &world.blobs, body).await.unwrap();
    world.send(SCHOOL, &[answer("amy", 1, true)]).await;
    let zone = ControlBody::SchoolSettings {
        school_id: SchoolId::parse(SCHOOL).unwrap(),
        name: "Lincoln".to_owned(),
        time_zone: "Europe/Berlin".to_owned(),
    };
    control::publish(world.log.as_ref(), &world.blobs, zone).await.unwrap();
    world.archive_all().await;
    world.archive_all().await;
    // One in each partition, each once.
    assert_eq!(places(&world.lake, LakeTable::ControlRecords).await.len(), 8);
    let sql = format!("SELECT blob FROM t WHERE control_id = '{}'", record.control_id);
    let blobs = query(&world.lake, LakeTable::ControlRecords, &sql).await;
    let rows: usize = blobs.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 4);
    let first = datafusion::arrow::compute::cast(
        blobs[0].column(0),
        &datafusion::arrow::datatypes::DataType::Binary,
    )
    .unwrap();
    assert_eq!(first.as_binary::<i32>().value(0), table.as_slice());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lake_of_another_log_is_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    world.send(SCHOOL, &[answer("amy", 1, true)]).await;
    world.archive_all().await;
    let stranger = World::open(other.path());
    let mut options = stranger.options();
    options.lake = world.lake.clone();
    let error = Archiver::start(options).await.unwrap_err();
    assert!(matches!(&error, Error::Lake(lake::Error::OtherLog { .. })), "{error:?}");
    let text = std::error::Error::source(&error).unwrap().to_string();
    assert!(text.contains("was filled from another log"), "{text}");
    assert!(error.hint().unwrap().contains("lake.url"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_and_flushing_do_not_wait_for_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut options = world.options();
    options.interval = std::time::Duration::from_secs(3600);
    let archiver = Arc::new(Archiver::start(options).await.unwrap());
    world.send(SCHOOL, &[answer("amy", 1, true), answer("bob", 1, true)]).await;
    let ends = archiver.log_ends().await.unwrap();
    archiver.wait_for(&ends, DEADLINE).await.unwrap();
    assert_eq!(archiver.lag().await.unwrap(), 0);
    check_exactly_once(&world).await;
    world.send(SCHOOL, &[answer("amy", 2, true)]).await;
    assert_eq!(archiver.lag().await.unwrap(), 1);
    // What is in the log is archived on the way out, however long the interval is.
    archiver.shutdown(DEADLINE).await.unwrap();
    check_exactly_once(&world).await;
    assert!(matches!(archiver.flush_now().await, Err(Error::Stopped { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_required_position_that_is_not_reached_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let archiver = world.archiver().await;
    let mut beyond = archiver.log_ends().await.unwrap();
    beyond[0].1 = beyond[0].1.next();
    let waited = archiver.wait_for(&beyond, std::time::Duration::from_millis(300)).await;
    assert!(matches!(waited, Err(Error::NotReached { .. })), "{waited:?}");
    archiver.shutdown(DEADLINE).await.unwrap();
}
