//! kill -9 of a process that appends and archives, again and again: each event exactly once.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use chalkstream_batch_jobs::archiver::Archiver;
use chalkstream_batch_jobs::lake::LakeTable;

use crate::support::{SCHOOL, World, answer, check_exactly_once, places};

const FOLDER: &str = "CHALKSTREAM_TEST_KILL_FOLDER";
const SEED: &str = "CHALKSTREAM_TEST_KILL_SEED";
const ROUNDS: u64 = 15;

/// The process that is killed: it appends, sends some events twice, and archives all the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn victim() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let seed: u32 = std::env::var(SEED).unwrap().parse().unwrap();
    let world = World::open(Path::new(&folder));
    let mut options = world.options();
    options.interval = Duration::from_millis(3);
    let _archiver = Archiver::start(options).await.unwrap();
    for batch in 0.. {
        let first = seed * 10_000 + batch * 20;
        let mut events: Vec<_> =
            (first..first + 20).map(|n| answer(&format!("u{}", n % 13), n, n % 3 == 0)).collect();
        // A client that resends what it sent a moment ago, and once what another life sent.
        events.extend(events.get(..5).unwrap().to_vec());
        events.push(answer(&format!("u{}", batch % 13), batch, true));
        world.send(SCHOOL, &events).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_loses_and_doubles_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let seed = std::env::var("CHALKSTREAM_TEST_SEED")
        .map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("CHALKSTREAM_TEST_SEED={seed}");
    let mut random = seed;
    for round in 0..ROUNDS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "kill::victim"])
            .env(FOLDER, folder.path())
            .env(SEED, round.to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_millis(150 + (random >> 33) % 700));
        assert!(victim.try_wait().unwrap().is_none(), "the victim of round {round} died by itself");
        victim.kill().unwrap();
        victim.wait().unwrap();
    }
    let world = World::open(folder.path());
    let archived = places(&world.lake, LakeTable::Events).await.len();
    assert!(archived > 0, "no life of the victim archived anything (seed {seed})");
    world.archive_all().await;
    let events = world.expected_places().await.len();
    assert!(events > 100, "only {events} events were written before the kills (seed {seed})");
    check_exactly_once(&world).await;
}
