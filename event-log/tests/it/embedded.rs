//! The embedded log: the suite, and crashes, damage and full disks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use chalkstream_event_log::conformance::{Ground, append_all, crash, read_all, record, texts};
use chalkstream_event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use chalkstream_event_log::{AppendError, Error, EventLog, Topic};
use chalkstream_schemas::LogOffset;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

#[derive(Debug)]
struct Folder(TempDir);

impl Folder {
    fn log(&self) -> PathBuf {
        self.0.path().join("log")
    }
}

#[async_trait]
impl Ground for Folder {
    async fn open(&self) -> Arc<dyn EventLog> {
        open(&self.log())
    }

    async fn open_with_queue(&self, bytes: usize) -> Arc<dyn EventLog> {
        let options = EmbeddedOptions { queue_bytes: bytes, ..EmbeddedOptions::new(self.log()) };
        EmbeddedLog::open(options).unwrap()
    }

    fn is_gapless(&self) -> bool {
        true
    }

    fn address(&self) -> String {
        format!("embedded={}", self.log().display())
    }

    fn folder(&self) -> PathBuf {
        self.0.path().to_owned()
    }
}

pub(crate) fn open(path: &Path) -> Arc<dyn EventLog> {
    EmbeddedLog::open(EmbeddedOptions::new(path)).unwrap()
}

async fn folder() -> Option<Folder> {
    Some(Folder(tempfile::tempdir().unwrap()))
}

chalkstream_event_log::conformance_tests!(folder);

#[tokio::test]
async fn a_new_log_is_another_log() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    assert_ne!(open(a.path()).identity(), open(b.path()).identity());
}

#[tokio::test]
async fn opening_twice_is_a_clear_error() {
    let folder = tempfile::tempdir().unwrap();
    let first = open(folder.path());
    let error = EmbeddedLog::open(EmbeddedOptions::new(folder.path())).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert!(error.to_string().contains("is open already"), "{error}");
    assert!(error.hint().unwrap().contains("data folder"));
    first.close().await.unwrap();
    open(folder.path()).close().await.unwrap();
}

#[tokio::test]
async fn a_log_keeps_the_partitions_it_was_created_with() {
    let folder = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { partitions: 3, ..EmbeddedOptions::new(folder.path()) };
    EmbeddedLog::open(options).unwrap().close().await.unwrap();
    let log = open(folder.path());
    assert_eq!((log.identity().partitions, log.partitions(Topic::Rejected)), (3, 3));
}

#[tokio::test]
async fn a_record_that_is_too_large_is_refused_alone() {
    let folder = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions { record_max_bytes: 100, ..EmbeddedOptions::new(folder.path()) };
    let log = EmbeddedLog::open(options).unwrap();
    let records = vec![record(0, "a"), record(0, "b".repeat(200)), record(0, "c")];
    let outcomes = log.append(Topic::Events, records).await;
    let [Ok(a), Err(AppendError::TooLarge { limit_bytes: 100, .. }), Ok(c)] = &outcomes[..] else {
        panic!("{outcomes:?}");
    };
    assert_eq!((a.get(), c.get()), (0, 1));
}

/// Damage to the newest journal: all that was acknowledged is there, or opening says what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_journal_is_recovered_or_refused_but_never_shortened() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let acknowledged =
        crash::kill_a_child(&format!("embedded={}", whole.display()), folder.path(), 0);
    let seed = rand::rng().random();
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut opened, mut refused) = (0, 0);
    for round in 0..24 {
        let copy = folder.path().join(format!("copy-{round}"));
        copy_folder(&whole, &copy);
        let journal = newest_journal(&copy);
        let bytes = fs::read(&journal).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        let at = random.random_range(0..used);
        let file = fs::File::options().write(true).open(&journal).unwrap();
        let damage = if round % 3 == 0 {
            file.set_len(at).unwrap();
            format!("cut at {at} of {used}")
        } else {
            let flipped = bytes[usize::try_from(at).unwrap()] ^ (1 << random.random_range(0..8));
            file.write_all_at(&[flipped], at).unwrap();
            format!("a flipped bit at {at} of {used}")
        };
        let context = format!("seed {seed}, round {round}: {damage}");
        match EmbeddedLog::open(EmbeddedOptions::new(&copy)) {
            Ok(log) => {
                crash::check(&*log, &acknowledged).await;
                log.close().await.unwrap();
                opened += 1;
            }
            Err(error) => {
                let clear = matches!(
                    error,
                    Error::Damaged { .. } | Error::LostRecords { .. } | Error::Store { .. }
                );
                assert!(clear, "{context}: {error:?}");
                assert!(
                    error.to_string().contains("copy-"),
                    "{context}: names the folder: {error}"
                );
                assert!(error.hint().is_some(), "{context}: {error} has no hint");
                let again = EmbeddedLog::open(EmbeddedOptions::new(&copy));
                assert!(again.is_err(), "{context}: refused once, it stays refused");
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "seed {seed}: no damage was noticed, {opened} opened");
}

/// What the crash itself leaves half-written is no damage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_tail_that_nobody_was_told_of_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let acknowledged =
        crash::kill_a_child(&format!("embedded={}", path.display()), folder.path(), 0);
    let journal = newest_journal(&path);
    let bytes = fs::read(&journal).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
    // The beginning of a batch that never got its end.
    let mut torn = vec![1, 3, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, 0, 0];
    torn.extend([2, 0, 0]);
    let file = fs::File::options().write(true).open(&journal).unwrap();
    // The end of the last batch may itself be zeros of its number; leave room for them.
    file.write_all_at(&torn, used).unwrap();
    let log = open(&path);
    crash::check(&*log, &acknowledged).await;
    append_all(&*log, Topic::Events, vec![record(0, "and on it goes")]).await;
    log.close().await.unwrap();
    assert!(!path.join("recovery").try_exists().unwrap(), "a good recovery leaves nothing behind");
}

/// A full disk stops the log with a sentence; with room again everything acknowledged is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_a_sentence_and_loses_nothing() {
    let Ok(path) = std::env::var("CHALKSTREAM_TEST_FULL_DISK") else {
        let folder = tempfile::tempdir().unwrap();
        // A small disk of its own, in a namespace that ends with the child.
        let script = format!(
            "mount -t tmpfs -o size=96m none '{0}' && exec '{1}' --exact \
             embedded::a_full_disk_is_a_sentence_and_loses_nothing --nocapture",
            folder.path().display(),
            std::env::current_exe().unwrap().display()
        );
        let child = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .env("CHALKSTREAM_TEST_FULL_DISK", folder.path())
            .output();
        let output = child.expect("the tool `unshare` (util-linux) is needed for a small disk");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let skip = std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some();
        if skip && (said.contains("unshare failed") || said.contains("mount:")) {
            println!("skipped: no disk of its own can be mounted here: {said}");
            return;
        }
        assert!(output.status.success(), "{}\n{said}", String::from_utf8_lossy(&output.stdout));
        return;
    };
    let path = Path::new(&path).join("log");
    let log = open(&path);
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let noises: String = (0..400_000).map(|_| random.random_range('!'..='~')).collect();
    let mut acknowledged = Vec::new();
    let reason = loop {
        let from = random.random_range(0..200_000);
        let noise = noises.get(from..from + 200_000).unwrap().to_owned();
        let outcomes = log.append(Topic::Events, vec![record(0, noise.clone())]).await;
        match outcomes.into_iter().next().unwrap() {
            Ok(_) => acknowledged.push(noise),
            Err(error) => break error,
        }
        assert!(acknowledged.len() < 2_000, "the disk never gets full");
    };
    assert!(reason.may_be_written(), "{reason}");
    let after = log.append(Topic::Events, vec![record(0, "more")]).await;
    assert!(matches!(&after[..], [Err(AppendError::Stopped { .. })]), "{after:?}");
    assert!(!acknowledged.is_empty());
    let closed = log.close().await.unwrap_err();
    assert!(closed.to_string().contains("has stopped"), "{closed}");
    assert!(closed.hint().unwrap().contains("make room"));
    drop(log);

    // As a person would: make room, start again.
    let mount = path.parent().unwrap();
    let more = Command::new("mount").args(["-o", "remount,size=512m"]).arg(mount).status().unwrap();
    assert!(more.success());
    let log = open(&path);
    let found = texts(&read_all(&*log, Topic::Events, 0, LogOffset::ZERO, 1 << 20).await);
    assert_eq!(found.get(..acknowledged.len()), Some(&acknowledged[..]));
    append_all(&*log, Topic::Events, vec![record(0, "there is room")]).await;
    log.close().await.unwrap();
}

fn newest_journal(log: &Path) -> PathBuf {
    let journals = fs::read_dir(log.join("store")).unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let number: u64 = path.file_name()?.to_str()?.strip_suffix(".jnl")?.parse().ok()?;
        Some((number, path))
    });
    journals.max().unwrap().1
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
