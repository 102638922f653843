//! A ClickHouse for roles that run alone: our own endpoint over libchdb, in a process of its own, so
//! that many can run side by side and one can be away.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use chalkstream_sql::{Credentials, EmbeddedOptions, EmbeddedServer, ReaderLimits};

use crate::support::{Environment, runtime, settings, wait_until};

const FOLDER: &str = "CHALKSTREAM_TEST_CLICKHOUSE";

/// Not a test by itself: the process that serves until its standard input ends.
#[test]
fn child_that_serves() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let options = EmbeddedOptions {
        data_dir: folder.join("clickhouse"),
        listen: ([127, 0, 0, 1], 0).into(),
        credentials: Credentials::load_or_create(&folder.join("credentials.toml")).unwrap(),
        library: None,
        readers: ReaderLimits::default(),
    };
    let server = runtime().block_on(EmbeddedServer::start(options)).unwrap();
    let draft = folder.join("url.new");
    std::fs::write(&draft, server.url()).unwrap();
    std::fs::rename(draft, folder.join("url")).unwrap();
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    runtime().block_on(server.shutdown());
}

/// The running server; its end is the end of its process.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    pub(crate) url: String,
    /// Holds the password of `admin`.
    pub(crate) password_file: PathBuf,
}

impl Server {
    #[track_caller]
    pub(crate) fn start(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "clickhouse::child_that_serves"])
            .env(FOLDER, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let mut url = String::new();
        wait_until("ClickHouse serves", || {
            url = std::fs::read_to_string(folder.join("url")).unwrap_or_default();
            !url.is_empty()
        });
        let credentials = Credentials::load_or_create(&folder.join("credentials.toml")).unwrap();
        let password_file = folder.join("admin");
        std::fs::write(&password_file, format!("{}\n", credentials.admin_password)).unwrap();
        Self { process, url, password_file }
    }

    /// What a role is told to use it.
    pub(crate) fn settings(&self) -> Environment {
        settings(&[
            ("clickhouse.url", &self.url),
            ("clickhouse.user", "admin"),
            ("clickhouse.password_file", self.password_file.to_str().unwrap()),
        ])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}
