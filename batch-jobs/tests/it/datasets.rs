//! The dataset `pykt`: right, reproducible, without names.

use std::path::Path;

use chalkstream_batch_jobs::datasets::{self, DatasetBuild, DatasetRequest};
use chalkstream_schemas::{Epoch, SchoolId};
use serde_json::json;

use crate::support::{SCHOOL, World, answer};

async fn build(world: &World, out: &Path, seed: u64, lake_version: Option<u64>) -> DatasetBuild {
    let request = DatasetRequest {
        dataset: "pykt".to_owned(),
        school: Some(SchoolId::parse(SCHOOL).unwrap()),
        out: out.to_path_buf(),
        seed,
        lake_version,
        epoch: Epoch::new(1),
    };
    datasets::build(&world.lake, &request).await.unwrap()
}

fn read(out: &Path, name: &str) -> String {
    std::fs::read_to_string(out.join(name)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learners_are_written_in_log_order_without_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let mut late = answer("amy", 1, false);
    late["id"] = "late".into();
    late["data"] = json!({ "item_id": "DNA,1", "correct": true, "skill_ids": ["a_b", "c", "c"] });
    let ungraded = json!({
        "id": "ungraded", "type": "answer_submitted", "user_id": "amy",
        "occurred_at": "2026-01-01T00:00:09Z", "data": { "item_id": "x", "graded": false },
    });
    let mut teacher = answer("tom", 1, true);
    teacher["user_role"] = "teacher".into();
    let mut bare = answer("bob", 4, true);
    bare["data"] = json!({ "item_id": "i9", "correct": true });
    world
        .send(
            SCHOOL,
            &[answer("amy", 5, true), late, ungraded, answer("bob", 3, false), teacher, bare],
        )
        .await;
    world.send("washington", &[answer("amy", 5, true)]).await;
    world.archive_all().await;
    let out = folder.path().join("out");
    let built = build(&world, &out, 7, None).await;
    assert_eq!(built.seed, 7);
    let data = read(&out, "data.txt");
    for name in ["amy", "bob", "tom"] {
        assert!(!data.contains(name), "{name} is named");
    }
    let lines: Vec<_> = data.lines().collect();
    assert_eq!(lines.len(), 12, "{data}");
    // Log order, not that of time; an ungraded answer is none; `late` took no time that is known.
    let amys = "i5,D%4EA%2C1\ns2,a%5Fb_c\n1,1\n1767225605000,1767225601000\n1005,NA\n";
    assert!(data.contains(&format!(",2\n{amys}")), "{data}");
    let bobs = "i3,i9\ns0,NA\n0,1\n1767225603000,1767225604000\n1003,NA\n";
    assert!(data.contains(&format!(",2\n{bobs}")), "{data}");
    let uids: Vec<_> = [lines[0], lines[6]].map(|line| line.split_once(',').unwrap().0).into();
    assert!(uids.is_sorted() && uids.iter().all(|uid| uid.len() == 16));
    let folds = read(&out, "folds.csv");
    let mut rows = folds.lines();
    assert_eq!(rows.next(), Some("user_id,fold"));
    for (row, uid) in rows.by_ref().zip(&uids) {
        let (of, fold) = row.split_once(',').unwrap();
        assert_eq!(of, *uid);
        assert!(fold.parse::<u32>().unwrap() < 5);
    }
    assert_eq!(folds.lines().count(), 3);
    let meta: serde_json::Value = serde_json::from_str(&read(&out, "meta.json")).unwrap();
    assert_eq!(meta["learners"], 2);
    assert_eq!(meta["answers"], 4);
    assert_eq!(meta["unknown_use_times"], 2);
    assert_eq!(meta["lake_version"], built.lake_version);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_version_and_seed_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let events: Vec<_> = (0..400).map(|n| answer(&format!("u{}", n % 23), n, n % 3 == 0)).collect();
    world.send(SCHOOL, events.get(..250).unwrap()).await;
    world.archive_all().await;
    let (first, second, third) =
        (folder.path().join("1"), folder.path().join("2"), folder.path().join("3"));
    let built = build(&world, &first, 7, None).await;
    world.send(SCHOOL, events.get(250..).unwrap()).await;
    world.archive_all().await;
    build(&world, &second, 7, Some(built.lake_version)).await;
    for name in ["data.txt", "folds.csv", "meta.json"] {
        assert_eq!(read(&first, name), read(&second, name), "{name}");
    }
    let newest = build(&world, &second, 7, None).await;
    assert!(newest.lake_version > built.lake_version);
    assert_ne!(read(&first, "data.txt"), read(&second, "data.txt"));
    build(&world, &third, 8, Some(built.lake_version)).await;
    assert_ne!(read(&first, "folds.csv"), read(&third, "folds.csv"));
    assert_ne!(read(&first, "data.txt"), read(&third, "data.txt"));
    assert_eq!(read(&first, "folds.csv").lines().count(), 24);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_dataset_or_version_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    world.send(SCHOOL, &[answer("amy", 1, true)]).await;
    world.archive_all().await;
    let mut request = DatasetRequest {
        dataset: "pykt".to_owned(),
        school: None,
        out: folder.path().join("out"),
        seed: 1,
        lake_version: Some(999),
        epoch: Epoch::new(1),
    };
    let error = datasets::build(&world.lake, &request).await.unwrap_err();
    assert!(error.to_string().contains("has no version 999"), "{error}");
    assert!(error.hint().is_some());
    request.dataset = "other".to_owned();
    assert!(datasets::build(&world.lake, &request).await.unwrap_err().is_usage());
}
