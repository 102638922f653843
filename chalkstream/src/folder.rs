//! The data folder: who holds it, and what lies where in it.
//!
//! Always true: whoever has a [`DataFolder`] holds the folder's lock, which the system releases
//! with the process, so nothing is stale after kill -9; `runtime.json` is complete or absent.
//! Not here: the contents of its parts, which their crates own.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::failure::Advice;

/// How long a role waits for the lock: a command such as `keys create` holds it for a moment.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(50);

/// Where things are in a data folder.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

macro_rules! parts {
    ($($name:ident = $file:literal;)*) => {$(
        pub(crate) fn $name(&self) -> PathBuf {
            self.root.join($file)
        }
    )*};
}

impl Layout {
    pub(crate) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    parts! {
        lock = "lock";
        credentials = "credentials.toml";
        runtime = "runtime.json";
        socket = "control.sock";
        keys = "keys.toml";
        schools = "schools.toml";
        log = "log";
        spool = "spool";
        index = "index";
        clickhouse = "clickhouse";
        lake = "lake";
        blobs = "blobs";
    }
}

/// What a running process tells others: real ports, once it is ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Runtime {
    pub(crate) pid: u32,
    pub(crate) role: String,
    pub(crate) version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) http_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clickhouse_url: Option<String>,
}

impl Runtime {
    /// What the process that runs on the folder last wrote, if anything.
    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        let text = std::fs::read_to_string(layout.runtime()).ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// The folder, held by this process alone until it is dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    layout: Layout,
    /// Held, not used: closing it releases the lock.
    _lock: File,
}

impl DataFolder {
    /// Takes the folder, or says who has it and keeps it. Creates it where it does not exist.
    pub(crate) async fn open(root: &Path) -> Result<Self> {
        let began = Instant::now();
        loop {
            match Self::try_open(root)? {
                Ok(folder) => return Ok(folder),
                Err(_) if began.elapsed() < PATIENCE => tokio::time::sleep(POLL).await,
                Err(holder) => {
                    return Err(Advice::new(
                        format!("the data folder {} is locked by {holder}", root.display()),
                        "stop that process (Ctrl-C), or give this one a folder of its own with --data-dir",
                    )
                    .into());
                }
            }
        }
    }

    /// Takes the folder, or names the process that has it.
    pub(crate) fn try_open(root: &Path) -> Result<Result<Self, String>> {
        let layout = Layout::new(root);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .with_context(|| format!("could not create the data folder {}", root.display()))?;
        let path = layout.lock();
        let mut lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("could not open {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let known = lock.read_to_string(&mut pid).is_ok() && !pid.trim().is_empty();
                let holder = if known {
                    format!("the running process {}", pid.trim())
                } else {
                    "another process".to_owned()
                };
                return Ok(Err(holder));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("could not lock {}", path.display()));
            }
        }
        // The text only tells others whom to ask; the lock itself is the system's.
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| format!("could not write {}", path.display()))?;
        Ok(Ok(Self { layout, _lock: lock }))
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Tells others where this process listens.
    pub(crate) fn announce(&self, runtime: &Runtime) -> Result<()> {
        let text =
            serde_json::to_string_pretty(runtime).context("could not encode runtime.json")?;
        write_atomically(&self.layout.runtime(), format!("{text}\n").as_bytes(), 0o644)
    }

    /// Takes back what [`DataFolder::announce`] said, or what a killed process left.
    pub(crate) fn retract(&self) -> Result<()> {
        for path in [self.layout.runtime(), self.layout.socket()] {
            match std::fs::remove_file(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("could not remove {}", path.display()));
                }
            }
        }
        Ok(())
    }
}

/// Readers see the old file or the new one, after a crash too.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".tmp");
    let beside = PathBuf::from(beside);
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().with_context(|| format!("could not write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_folder_that_stays_locked_names_its_holder() {
        let root = tempfile::tempdir().unwrap();
        let held = DataFolder::open(root.path()).await.unwrap();
        let began = Instant::now();
        let error = format!("{:#}", DataFolder::open(root.path()).await.unwrap_err());
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        assert!(began.elapsed() >= PATIENCE, "a command may be about to let go of it");
        drop(held);
        DataFolder::open(root.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_folder_that_is_locked_for_a_moment_is_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let held = DataFolder::open(root.path()).await.unwrap();
        let let_go = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            drop(held);
        };
        let (opened, ()) = tokio::join!(DataFolder::open(root.path()), let_go);
        opened.unwrap();
    }

    #[tokio::test]
    async fn what_was_announced_can_be_read_and_is_gone_after_the_end() {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(root.path()).await.unwrap();
        let runtime = Runtime {
            pid: 7,
            role: "standalone".to_owned(),
            version: "0".to_owned(),
            http_url: Some("http://127.0.0.1:1".to_owned()),
            clickhouse_url: None,
        };
        folder.announce(&runtime).unwrap();
        assert_eq!(Runtime::read(folder.layout()).unwrap().pid, 7);
        folder.retract().unwrap();
        folder.retract().unwrap();
        assert!(Runtime::read(folder.layout()).is_none());
    }
}
