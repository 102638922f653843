//! The engine as a guest of a process: signals, standard output, a clean end and a new start.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use chalkstream_sql::migrations::migrate_to;
use chalkstream_sql::{
    Credentials, EmbeddedOptions, EmbeddedServer, Error, ReaderLimits, locate_libchdb,
};

use tokio::signal::unix::{SignalKind, signal};

use super::server::{fixture, schema};

const FOLDER: &str = "CHALKSTREAM_SQL_TEST_FOLDER";

/// The child's part: does nothing in an ordinary run.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = EmbeddedOptions {
            data_dir: folder.join("clickhouse"),
            listen: "127.0.0.1:0".parse().unwrap(),
            credentials: Credentials::load_or_create(&folder.join("credentials.toml")).unwrap(),
            library: None,
            readers: ReaderLimits::default(),
        };
        let server = EmbeddedServer::start(options).await.unwrap();
        // Both before the line that the parent waits for.
        let mut terminate = signal(SignalKind::terminate()).unwrap();
        let mut interrupt = signal(SignalKind::interrupt()).unwrap();
        let database = server.database();
        migrate_to(&database, &schema()).await.unwrap();
        database.execute("INSERT INTO samples_raw (id, text) VALUES (1, 'kept')").await.unwrap();
        let count = database.query_json("SELECT count() AS c FROM samples").await.unwrap();
        println!("rows={}", count[0]["c"]);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        server.shutdown().await;
        println!("stopped");
    });
}

fn start(folder: &std::path::Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["process::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the rows, sends the signal, and gives all of standard output.
fn run_until(signal: libc::c_int, folder: &std::path::Path) -> String {
    let mut child = start(folder);
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while !text.contains("rows=") {
        if stdout.read_line(&mut text).unwrap() == 0 {
            let mut reason = String::new();
            child.stderr.take().unwrap().read_to_string(&mut reason).unwrap();
            panic!("the child ended early: {text}\n{reason}");
        }
    }
    let id = libc::pid_t::try_from(child.id()).unwrap();
    send(id, signal);
    let end = Instant::now() + Duration::from_secs(30);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > end {
            child.kill().unwrap();
            panic!("signal {signal} did not end the process within 30 s");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    stdout.read_to_string(&mut text).unwrap();
    assert!(status.success(), "the process ended with {status}: {text}");
    text
}

#[expect(unsafe_code, reason = "std has no way to send another signal than SIGKILL")]
fn send(id: libc::pid_t, signal: libc::c_int) {
    // SAFETY: the process is our own child and has not been waited for.
    assert_eq!(unsafe { libc::kill(id, signal) }, 0);
}

#[test]
fn signals_reach_the_process_and_it_starts_again_on_its_folder() {
    if let Err(error) = locate_libchdb() {
        assert!(std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(), "{error}");
        println!("skipped: {error}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (round, signal) in [(1, libc::SIGTERM), (2, libc::SIGINT), (3, libc::SIGTERM)] {
        let text = run_until(signal, folder.path());
        assert!(text.contains(&format!("rows={round}\n")) && text.contains("stopped\n"), "{text}");
        // Besides what the test harness says, only our own two lines.
        let foreign: Vec<&str> = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with("running 1 test"))
            .filter(|line| !line.starts_with("test result: ") && !line.starts_with("test process"))
            .filter(|line| !line.starts_with("rows=") && *line != "stopped" && *line != "ok")
            .collect();
        assert!(foreign.is_empty(), "libchdb wrote on standard output: {foreign:?}");
    }
}

#[test]
fn a_second_engine_in_one_process_is_refused() {
    let Some(server) = fixture() else { return };
    let folder = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        data_dir: folder.path().join("clickhouse"),
        listen: "127.0.0.1:0".parse().unwrap(),
        credentials: server.credentials.clone(),
        library: None,
        readers: ReaderLimits::default(),
    };
    let error = server.run(EmbeddedServer::start(options)).unwrap_err();
    assert!(matches!(error, Error::EngineBusy { .. }), "{error}");
    let options = EmbeddedOptions {
        data_dir: folder.path().join("clickhouse"),
        listen: server.url.trim_start_matches("http://").parse().unwrap(),
        credentials: server.credentials.clone(),
        library: None,
        readers: ReaderLimits::default(),
    };
    let error = server.run(EmbeddedServer::start(options)).unwrap_err();
    assert!(matches!(error, Error::Listen { .. }) && error.hint().is_some(), "{error}");
}
