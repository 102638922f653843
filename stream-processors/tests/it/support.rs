//! Folders, children and dumps.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;

use chalkstream_event_log::EventLog as _;
use chalkstream_event_log::embedded::{EmbeddedLog, EmbeddedOptions};
use tempfile::TempDir;

pub(crate) const PARTITIONS: u32 = 5;

/// Whether libchdb is here. A missing one fails the test, unless that was said to be fine.
pub(crate) fn ready() -> bool {
    let Err(error) = chalkstream_sql::locate_libchdb() else { return true };
    let sentence = format!("{error}; {}", error.hint().unwrap_or_default());
    assert!(std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(), "{sentence}");
    println!("skipped: {sentence}");
    false
}

/// A data folder of one installation.
#[derive(Debug)]
pub(crate) struct Installation {
    folder: TempDir,
}

impl Installation {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Opens the log, lets `fill` work on it, and closes it.
    pub(crate) async fn with_log<F>(&self, fill: impl FnOnce(Arc<EmbeddedLog>) -> F)
    where
        F: Future<Output = ()>,
    {
        let log = open_log(self.root());
        fill(Arc::clone(&log)).await;
        log.close().await.unwrap();
    }

    /// Runs a child and returns how it ended and what it printed.
    pub(crate) fn run(&self, action: &str, variables: &[(&str, &str)]) -> (ExitStatus, String) {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "child::entry", "--nocapture", "--test-threads=1"])
            .env(crate::child::ACTION, action)
            .env(crate::child::ROOT, self.root())
            .env_remove(chalkstream_stream_processors::crash::VARIABLE);
        for (name, value) in variables {
            command.env(name, value);
        }
        let output = command.output().unwrap();
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        (output.status, text)
    }

    /// Runs a child that must succeed.
    #[track_caller]
    pub(crate) fn must(&self, action: &str, variables: &[(&str, &str)]) -> String {
        let (status, text) = self.run(action, variables);
        assert!(status.success(), "{action} {variables:?} ended with {status}:\n{text}");
        text
    }

    /// Runs a child that may be killed by the crash point; says whether it was.
    #[track_caller]
    pub(crate) fn crash(&self, point: &str) -> bool {
        let variable = chalkstream_stream_processors::crash::VARIABLE;
        let (status, text) = self.run("fold", &[(variable, point)]);
        let aborted = status.signal() == Some(6);
        assert!(aborted || status.success(), "{point} ended with {status}:\n{text}");
        aborted
    }

    /// What every table and view holds, as the last child that folded left it.
    pub(crate) fn dump(&self) -> String {
        std::fs::read_to_string(self.path("dump.txt")).unwrap()
    }
}

pub(crate) fn open_log(root: &Path) -> Arc<EmbeddedLog> {
    EmbeddedLog::open(EmbeddedOptions {
        partitions: PARTITIONS,
        events_retention: None,
        rejected_retention: None,
        ..EmbeddedOptions::new(root.join("log"))
    })
    .unwrap()
}

/// Shows the first line in which two dumps differ.
#[track_caller]
pub(crate) fn assert_same(found: &str, expected: &str, what: &str) {
    if found == expected {
        return;
    }
    let mut table = "";
    for (found, expected) in found.lines().zip(expected.lines()) {
        if let Some(name) = expected.strip_prefix("== ") {
            table = name;
        }
        assert_eq!(found, expected, "{what}: the first difference is in {table}");
    }
    panic!("{what}: {} lines, expected {}", found.lines().count(), expected.lines().count());
}

/// The rows of one table in a dump.
pub(crate) fn rows_of<'a>(dump: &'a str, table: &str) -> Vec<&'a str> {
    let mut lines = dump.lines().skip_while(|line| *line != format!("== {table}"));
    assert!(lines.next().is_some(), "{table} is not in the dump");
    lines.take_while(|line| !line.starts_with("== ")).collect()
}
