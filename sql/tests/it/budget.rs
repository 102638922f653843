//! Eight heavy readers at once: what they take of memory, threads and time, and who suffers.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_sql::migrations::migrate_to;
use chalkstream_sql::{
    Credentials, Database, EmbeddedOptions, EmbeddedServer, ReaderLimits, locate_libchdb,
};

use super::server::{schema, with};

const FOLDER: &str = "CHALKSTREAM_SQL_TEST_BUDGET_FOLDER";
const LIMITS: ReaderLimits = ReaderLimits {
    memory_bytes: 512 << 20,
    disk_bytes: 256 << 20,
    timeout: Duration::from_secs(15),
};

/// The child's part: serves until it is killed. Does nothing in an ordinary run.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = EmbeddedOptions {
            data_dir: folder.join("clickhouse"),
            listen: "127.0.0.1:0".parse().unwrap(),
            credentials: Credentials::load_or_create(&folder.join("credentials.toml")).unwrap(),
            library: None,
            readers: LIMITS,
        };
        let views = schema().public_views();
        let server = EmbeddedServer::start_with_views(options, views).await.unwrap();
        migrate_to(&server.database(), &schema()).await.unwrap();
        println!("url={}", server.url());
        std::future::pending::<()>().await;
    });
}

/// A server in a process of its own, so that what it takes can be seen. Killed when dropped.
struct Guest {
    process: Child,
    url: String,
    database: Database,
    _folder: tempfile::TempDir,
}

impl Guest {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["budget::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let found = lines
            .map(Result::unwrap)
            .find_map(|line| line.split_once("url=").map(|(_, url)| url.trim().to_owned()));
        let url = found.expect("the server says its address");
        let credentials = folder.path().join("credentials.toml");
        let password = Credentials::load_or_create(&credentials).unwrap().admin_password;
        let database = Database::new(&url, "admin", &password, "chalkstream").unwrap();
        Self { process, url, database, _folder: folder }
    }

    /// A number of `/proc/…/status`: KiB, or threads.
    fn status(&self, name: &str) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.unwrap().split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What a reader is answered: the code of the exception, if it is one, and after how long.
    async fn ask(&self, sql: &str) -> (Option<String>, Duration) {
        let begun = Instant::now();
        let request = reqwest::Client::new().post(with(&self.url, &[])).body(sql.to_owned());
        let response = request.send().await.unwrap();
        let code = response.headers().get("x-clickhouse-exception-code").cloned();
        let text = response.text().await.unwrap_or_default();
        let code = code.map(|code| code.to_str().unwrap().to_owned());
        println!("{sql}: {code:?} after {:?}: {:.200}", begun.elapsed(), text.trim());
        (code, begun.elapsed())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Inserts rows as the application does, until told to stop. Nothing may fail.
async fn load(guest: &Guest, stop: &AtomicBool) -> (u64, Duration) {
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let mut rows = Vec::new();
        for id in count * 1000..(count + 1) * 1000 {
            rows.extend(id.to_le_bytes());
            rows.extend(b"\x03row");
        }
        let begun = Instant::now();
        guest.database.insert("samples_raw", &["id", "text"], Bytes::from(rows)).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        count += 1;
    }
    (count, slowest)
}

#[test]
fn eight_heavy_readers_starve_nobody() {
    if let Err(error) = locate_libchdb() {
        assert!(std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(), "{error}");
        println!("skipped: {error}");
        return;
    }
    let guest = Guest::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let stop = AtomicBool::new(false);
    let (memory, threads) = (AtomicU64::new(0), AtomicU64::new(0));
    let (quiet_memory, quiet_threads) = runtime.block_on(async {
        // Pools and caches are warm before anything counts.
        let warm = AtomicBool::new(false);
        let end = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            warm.store(true, Ordering::Relaxed);
        };
        let (_, (count, slowest)) = tokio::join!(end, load(&guest, &warm));
        println!("quiet: {count} inserts, the slowest {slowest:?}");
        (guest.status("VmRSS"), guest.status("Threads"))
    });
    let (answers, (inserts, slowest)) = runtime.block_on(async {
        let watch = async {
            while !stop.load(Ordering::Relaxed) {
                memory.fetch_max(guest.status("VmRSS"), Ordering::Relaxed);
                threads.fetch_max(guest.status("Threads"), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let readers = async {
            // 20 GB to sort, and what never ends.
            let sort = "SELECT number, repeat('x', 40) AS s FROM numbers(400000000) \
                        ORDER BY sipHash64(number) FORMAT Null";
            let mut heavy = vec![guest.ask(sort)];
            heavy.extend((0..7).map(|_| guest.ask("SELECT count() FROM system.numbers")));
            let ninth = async {
                tokio::time::sleep(Duration::from_secs(2)).await;
                let mut answers = Vec::new();
                for _ in 0..2 {
                    answers.push(guest.ask("SELECT count() FROM samples").await);
                }
                answers
            };
            let (heavy, ninth) = tokio::join!(futures::future::join_all(heavy), ninth);
            stop.store(true, Ordering::Relaxed);
            (heavy, ninth)
        };
        let (answers, load, ()) = tokio::join!(readers, load(&guest, &stop), watch);
        (answers, load)
    });
    let (heavy, ninth) = answers;
    let grown_mib = memory.into_inner().saturating_sub(quiet_memory) >> 10;
    let more_threads = threads.into_inner().saturating_sub(quiet_threads);
    println!(
        "{inserts} inserts, the slowest {slowest:?}; {grown_mib} MiB and {more_threads} threads more"
    );
    // Out of time, of memory, or of temporary disk.
    for (code, after) in &heavy {
        let code = code.as_deref();
        assert!(matches!(code, Some("159" | "241" | "243")), "{code:?} after {after:?}");
        assert!(*after < LIMITS.timeout + Duration::from_secs(5), "{after:?}");
    }
    assert!(heavy.iter().any(|(code, _)| code.as_deref() == Some("159")), "{heavy:?}");
    for (code, after) in &ninth {
        assert!(matches!(code.as_deref(), None | Some("202")), "{code:?}");
        assert!(*after < Duration::from_secs(10), "the ninth waited for {after:?}");
    }
    assert!(grown_mib < LIMITS.memory_bytes >> 20, "{grown_mib} MiB more");
    // Two for each sixteenth of the cores, one that waits for the query, and pools.
    let cores = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(more_threads <= 2 * cores.max(4) + 8 + 16, "{more_threads} threads more");
    assert!(inserts > 10, "{inserts} inserts");
}
