//! The lake's table in another Delta reader: the Python package `deltalake`.

use std::path::{Path, PathBuf};
use std::process::Command;

use chalkstream_batch_jobs::lake::LakeTable;

use crate::support::{SCHOOL, World, answer};

const SCRIPT: &str = "
import sys
from deltalake import DeltaTable, QueryBuilder
table = DeltaTable(sys.argv[1])
counts = QueryBuilder().register('t', table).execute(
    'SELECT count(*) AS n, count(DISTINCT id) AS ids, sum(log_offset) AS offsets FROM t'
)
rows = counts.read_all() if hasattr(counts, 'read_all') else counts
import json
print(json.dumps([int(rows.column(i)[0].as_py()) for i in range(3)]))
";

/// The Python that `deploy/dev/python-env` prepares.
fn python() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/dev/python-env");
    let made = Command::new(script).output().ok().filter(|made| made.status.success())?;
    Some(PathBuf::from(String::from_utf8(made.stdout).ok()?.trim()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_reader_counts_the_same() {
    let Some(python) = python() else {
        assert_eq!(
            std::env::var("CHALKSTREAM_ALLOW_SKIP").as_deref(),
            Ok("1"),
            "there is no Python with the package deltalake: run deploy/dev/python-env to see why"
        );
        println!("skipped: there is no Python with the package deltalake");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let world = World::open(folder.path());
    let events: Vec<_> = (0..500).map(|n| answer(&format!("u{}", n % 11), n, true)).collect();
    world.send(SCHOOL, &events).await;
    world.archive_all().await;
    world.send(SCHOOL, &(500..700).map(|n| answer("u1", n, true)).collect::<Vec<_>>()).await;
    world.archive_all().await;
    let table = world.lake.folder().unwrap().join(LakeTable::Events.name());
    let output = Command::new(python).args(["-c", SCRIPT]).arg(Path::new(&table)).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let offsets: u64 = world.expected_places().await.keys().map(|(_, offset)| offset).sum();
    let counted: Vec<u64> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counted, [700, 700, offsets]);
}
