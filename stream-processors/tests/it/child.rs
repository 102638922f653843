//! What a child process does: the only place with a ClickHouse.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chalkstream_event_log::EventLog;
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::embedded::EmbeddedLog;
use chalkstream_sql::{Credentials, Database, EmbeddedOptions, EmbeddedServer, ReaderLimits};
use chalkstream_stream_processors::{
    FirstSeen, FirstSeenOptions, PartitionProgress, PartitionStatus, Processor, ProcessorHandle,
    ProcessorOptions, ProcessorTuning, Progress, RejectedHandle, RejectedOptions, RejectedWriter,
};

use crate::proxy::Proxy;
use crate::support::open_log;

pub(crate) const ACTION: &str = "CHALKSTREAM_TEST_ACTION";
pub(crate) const ROOT: &str = "CHALKSTREAM_TEST_ROOT";
/// A statement to run before folding.
pub(crate) const STATEMENT: &str = "CHALKSTREAM_TEST_STATEMENT";
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs as a child only; as an ordinary test there is nothing to do.
#[test]
fn entry() {
    let (Ok(action), Ok(root)) = (std::env::var(ACTION), std::env::var(ROOT)) else { return };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&action, PathBuf::from(root)));
}

async fn run(action: &str, root: PathBuf) {
    let server = start_server(&root).await;
    let database = server.database();
    chalkstream_sql::migrations::migrate(&database).await.unwrap();
    if let Ok(statement) = std::env::var(STATEMENT) {
        database.execute(&statement).await.unwrap();
    }
    match action {
        "fold" => fold(&root, &database).await,
        "stop" => expect_stop(&root, &database).await,
        "outage" => outage(&root, &server).await,
        "late blob" => late_blob(&root, &database).await,
        "sql" => {}
        other => panic!("no action {other}"),
    }
    server.shutdown().await;
}

async fn start_server(root: &Path) -> EmbeddedServer {
    EmbeddedServer::start(EmbeddedOptions {
        data_dir: root.join("clickhouse"),
        listen: ([127, 0, 0, 1], 0).into(),
        credentials: Credentials::load_or_create(&root.join("credentials.toml")).unwrap(),
        library: None,
        readers: ReaderLimits::default(),
    })
    .await
    .unwrap()
}

struct Running {
    log: Arc<EmbeddedLog>,
    processor: ProcessorHandle,
    rejected: RejectedHandle,
}

async fn start(root: &Path, database: &Database) -> Running {
    let log = open_log(root);
    let index =
        FirstSeen::open(&FirstSeenOptions::new(root.join("index")), log.identity()).unwrap();
    let blobs = BlobStore::open(root.join("blobs")).unwrap();
    let mut options = ProcessorOptions::new(
        Arc::clone(&log) as Arc<dyn EventLog>,
        database.clone(),
        index,
        blobs,
    );
    options.tuning = ProcessorTuning {
        flush_interval: Duration::from_millis(10),
        flush_bytes: 100_000,
        checkpoint_interval: Duration::from_millis(30),
        settle_deadline: Duration::from_secs(30),
    };
    let processor = Processor::start(options).await.unwrap();
    let options = RejectedOptions::new(
        Arc::clone(&log) as Arc<dyn EventLog>,
        database.clone(),
        processor.metrics().clone(),
    );
    let rejected = RejectedWriter::start(options).await.unwrap();
    Running { log, processor, rejected }
}

impl Running {
    async fn caught_up(&self) {
        let both = async {
            self.processor.wait_until_caught_up().await.unwrap();
            self.rejected.wait_until_caught_up().await.unwrap();
        };
        if tokio::time::timeout(DEADLINE, both).await.is_err() {
            panic!("not everything became visible: {:?}", self.processor.progress());
        }
        assert_eq!(self.processor.lag().await.unwrap(), 0);
        self.processor.health().unwrap();
    }

    async fn shut_down(self) {
        let Self { log, processor, rejected } = self;
        let ends = processor.log_ends().await.unwrap();
        let progress = processor.watch();
        processor.shutdown().await.unwrap();
        let progress = progress.borrow().clone();
        for (partition, end) in ends {
            let at = &progress.partitions[&partition];
            assert_eq!((at.folded, at.visible, at.checkpoint), (end, end, end), "{partition}");
        }
        rejected.shutdown().await.unwrap();
        log.close().await.unwrap();
    }
}

async fn fold(root: &Path, database: &Database) {
    let running = start(root, database).await;
    running.caught_up().await;
    let metrics = running.processor.metrics().clone();
    running.shut_down().await;
    println!(
        "folded={} duplicates={} conflicts={} undecodable={} controls={}",
        metrics.events_folded.get(),
        metrics.duplicates.get(),
        metrics.conflicts.get(),
        metrics.undecodable.get(),
        metrics.control_records.get()
    );
    std::fs::write(root.join("dump.txt"), dump(database).await).unwrap();
}

async fn expect_stop(root: &Path, database: &Database) {
    let running = start(root, database).await;
    let mut progress = running.processor.watch();
    let stopped = progress.wait_for(|progress| progress.first_stop().is_some());
    let reason = tokio::time::timeout(DEADLINE, stopped)
        .await
        .expect("a partition should have stopped")
        .unwrap()
        .first_stop()
        .unwrap();
    assert_eq!(running.processor.health().unwrap_err(), reason);
    running.processor.wait_until_caught_up().await.unwrap_err();
    running.processor.shutdown().await.unwrap();
    running.rejected.shutdown().await.unwrap();
    std::fs::write(root.join("stop.txt"), reason).unwrap();
}

/// The blob that a control record names arrives while every partition waits for it.
async fn late_blob(root: &Path, database: &Database) {
    let running = start(root, database).await;
    let mut progress = running.processor.watch();
    let waits = |at: &PartitionProgress| {
        matches!(at.status, PartitionStatus::Waiting(_)) && at.visible == at.folded
    };
    let all_wait = |progress: &Progress| {
        progress.partitions.len() == crate::support::PARTITIONS as usize
            && progress.partitions.values().all(waits)
    };
    if tokio::time::timeout(DEADLINE, progress.wait_for(all_wait)).await.is_err() {
        panic!("not every partition waits: {:?}", running.processor.progress());
    }
    running.processor.health().unwrap();
    let why = running.processor.progress().first_wait().unwrap();
    assert!(why.contains("there is no blob") && why.contains("hint: "), "{why}");
    // What stands before the record is visible, and nothing behind it.
    let attempts = database.query_json("SELECT count() AS rows FROM attempts").await.unwrap();
    assert_eq!(attempts[0]["rows"], crate::pipeline::ANSWERS_BEFORE_THE_BLOB);
    let blobs = BlobStore::open(root.join("blobs")).unwrap();
    blobs.put(crate::events::bkt_table(0.9).into()).await.unwrap();
    running.caught_up().await;
    assert_eq!(running.processor.progress().first_wait(), None);
    running.shut_down().await;
    std::fs::write(root.join("dump.txt"), dump(database).await).unwrap();
}

/// ClickHouse goes away twice while events keep coming.
async fn outage(root: &Path, server: &EmbeddedServer) {
    let proxy = Proxy::start(server.local_addr()).await;
    let credentials = Credentials::load_or_create(&root.join("credentials.toml")).unwrap();
    let url = format!("http://{}", proxy.address);
    let database =
        Database::new(&url, "admin", &credentials.admin_password, "chalkstream").unwrap();
    proxy.set_down(true);
    let running = start(root, &database).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(running.processor.lag().await.unwrap() > 0);
    proxy.set_down(false);
    running.caught_up().await;
    for third in 1..3 {
        crate::events::append_third(&*running.log, third).await;
        tokio::time::sleep(Duration::from_millis(15)).await;
        proxy.set_down(true);
        tokio::time::sleep(Duration::from_millis(400)).await;
        running.processor.health().unwrap();
        proxy.set_down(false);
    }
    running.caught_up().await;
    assert!(running.processor.metrics().insert_retries.get() > 0);
    running.shut_down().await;
    std::fs::write(root.join("dump.txt"), dump(&server.database()).await).unwrap();
}

/// Everything that tables and views hold, in a fixed order. Positions in the rejected log are left
/// out: they name the log, and a conflict that is folded again stands in that log again.
async fn dump(database: &Database) -> String {
    let tables = database
        .query_json(
            "SELECT name, engine, name IN (SELECT table FROM system.columns WHERE \
             database = 'chalkstream' AND name = 'version') AS versioned \
             FROM system.tables WHERE database = 'chalkstream' \
             AND name NOT LIKE 'schema_migrations%' AND name != 'rejected_positions_raw' \
             ORDER BY name",
        )
        .await
        .unwrap();
    let mut dump = String::new();
    let mut counts = BTreeMap::new();
    for table in tables {
        let name = table["name"].as_str().unwrap().to_owned();
        let last = if table["engine"] == "View" { "" } else { "FINAL" };
        // The checkpoint names the log, which differs between two installations.
        let only = if name == "fold_state" { "WHERE kind != 'checkpoint'" } else { "" };
        // A version says when a row was written last, which depends on where the flushes fell.
        let columns = if table["versioned"] == 1 { "* EXCEPT version" } else { "*" };
        let query = format!("SELECT {columns} FROM {name} {last} {only} ORDER BY ALL");
        let rows = database.query_bytes(&query, "JSONStringsEachRow").await.unwrap();
        let rows = String::from_utf8_lossy(&rows);
        counts.insert(name.clone(), rows.lines().count());
        write!(dump, "== {name}\n{rows}").unwrap();
    }
    println!("rows: {counts:?}");
    dump
}
