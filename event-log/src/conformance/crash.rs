//! kill -9 of a process that appends: the child is the test binary itself.
//!
//! The child opens the log that the environment names and appends from many tasks; each batch that
//! is acknowledged goes to a file, which outlives the child. The parent kills it at some moment,
//! several times on the same log, and compares.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use chalkstream_schemas::LogOffset;
use parking_lot::Mutex;
use rand::Rng;

use super::{Ground, PATIENCE, read_all, record, texts};
use crate::{DEFAULT_PARTITIONS, EventLog, Topic};

/// The variables by which a child is told what to do.
pub const CHILD_LOG: &str = "CHALKSTREAM_TEST_CHILD_LOG";
const CHILD_ACKNOWLEDGED: &str = "CHALKSTREAM_TEST_CHILD_ACKNOWLEDGED";
const CHILD_NAME: &str = "CHALKSTREAM_TEST_CHILD_NAME";

/// The test of the binary that a child runs; it calls [`child`].
pub const CHILD_TEST: &str = "child_that_appends";

/// What was acknowledged: partition, offset, text.
pub type Acknowledged = BTreeSet<(u32, u64, String)>;

/// Appends until it is killed; for the test [`CHILD_TEST`] in the child.
pub async fn child(log: Arc<dyn EventLog>) {
    let file = std::env::var(CHILD_ACKNOWLEDGED).unwrap();
    let name = std::env::var(CHILD_NAME).unwrap();
    let file = fs::File::options().create(true).append(true).open(file).unwrap();
    let file = Arc::new(Mutex::new(file));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let (log, file, name) = (Arc::clone(&log), Arc::clone(&file), name.clone());
        tasks.spawn(async move {
            for round in 0_u64.. {
                let size = rand::rng().random_range(1..60);
                let records: Vec<_> = (0..size)
                    .map(|n| {
                        let partition = rand::rng().random_range(0..DEFAULT_PARTITIONS);
                        (partition, format!("{name}/{task}/{round}/{n}"))
                    })
                    .collect();
                let sent = records.iter().map(|(partition, text)| record(*partition, text));
                let outcomes = log.append(Topic::Events, sent.collect()).await;
                let mut lines = String::new();
                for ((partition, text), outcome) in records.iter().zip(outcomes) {
                    let offset = outcome.unwrap();
                    writeln!(lines, "{partition} {offset} {text}").unwrap();
                }
                // One write: the kernel keeps it whatever becomes of this process.
                file.lock().write_all(lines.as_bytes()).unwrap();
            }
        });
    }
    tasks.join_next().await.unwrap().unwrap();
}

/// Starts a child on the log, kills it a moment after its first acknowledgement, and returns what
/// all children so far saw acknowledged.
pub fn kill_a_child(address: &str, folder: &Path, round: u32) -> Acknowledged {
    let file = folder.join("acknowledged-by-children");
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    let before = lines().len();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", CHILD_TEST, "--nocapture"])
        .env(CHILD_LOG, address)
        .env(CHILD_ACKNOWLEDGED, &file)
        .env(CHILD_NAME, format!("child {round}").replace(' ', "-"))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while lines().len() == before {
        assert!(Instant::now() < deadline, "waited for the first acknowledgement of a child");
        assert_eq!(child.try_wait().unwrap(), None, "the child ended by itself");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(rand::rng().random_range(1..250)));
    child.kill().unwrap();
    child.wait().unwrap();
    parse(&lines())
}

/// Reads the file of acknowledgements; a last line that was cut short was not acknowledged.
fn parse(lines: &str) -> Acknowledged {
    let whole = lines.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().unwrap();
            (word().parse().unwrap(), word().parse().unwrap(), word().to_owned())
        })
        .collect()
}

/// Checks that each acknowledged record stands at its offset, and no record stands twice.
pub async fn check(log: &dyn EventLog, acknowledged: &Acknowledged) {
    let mut found = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for partition in 0..DEFAULT_PARTITIONS {
        let records = read_all(log, Topic::Events, partition, LogOffset::ZERO, 1 << 20).await;
        for (record, text) in records.iter().zip(texts(&records)) {
            assert!(seen.insert(text.clone()), "{text} stands twice");
            found.insert((partition, record.offset.get()), text);
        }
    }
    for (partition, offset, text) in acknowledged {
        let there = found.get(&(*partition, *offset));
        assert_eq!(there, Some(text), "partition {partition}, offset {offset}");
    }
}

/// Every record that a killed process saw acknowledged is there, exactly once.
pub async fn acknowledged_records_survive_kill_9(ground: &dyn Ground) {
    let (address, folder) = (ground.address(), ground.folder());
    for round in 0..4 {
        let acknowledged = kill_a_child(&address, &folder, round);
        assert!(!acknowledged.is_empty());
        let log = ground.open().await;
        check(&*log, &acknowledged).await;
        log.close().await.unwrap();
    }
}
