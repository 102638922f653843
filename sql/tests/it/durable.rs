//! What is on disk when: an insert that was acknowledged, and a part that a merge made of such.
//!
//! The engine runs under `strace`, which records what it fsyncs and renames. A part gets its name by
//! a rename: what a power loss then leaves of it are the files that were fsynced before.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use chalkstream_sql::migrations::migrate;
use chalkstream_sql::{Credentials, EmbeddedOptions, EmbeddedServer, ReaderLimits, locate_libchdb};

const FOLDER: &str = "CHALKSTREAM_SQL_TEST_DURABLE_FOLDER";

/// The child's part: three inserts and a merge in each table. Does nothing in an ordinary run.
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
            readers: ReaderLimits::default(),
        };
        let server = EmbeddedServer::start(options).await.unwrap();
        let database = server.database();
        migrate(&database).await.unwrap();
        let tables = database.query_json(
            "SELECT table, name, type FROM system.columns WHERE database = 'chalkstream' AND position = 1 \
             AND table IN (SELECT name FROM system.tables WHERE engine LIKE '%MergeTree' AND \
             database = 'chalkstream' AND name NOT LIKE 'schema_migrations%')",
        );
        for row in tables.await.unwrap() {
            let [table, column, kind] =
                ["table", "name", "type"].map(|name| row[name].as_str().unwrap().to_owned());
            for _ in 0..3 {
                let insert = format!(
                    "INSERT INTO {table} ({column}) SELECT defaultValueOfTypeName('{kind}') FROM numbers(3)"
                );
                database.execute(&insert).await.unwrap();
            }
            database.execute(&format!("OPTIMIZE TABLE {table} FINAL")).await.unwrap();
            println!("table={table}");
        }
        server.shutdown().await;
    });
}

/// What a recording says of parts.
#[derive(Default)]
struct Recording {
    /// Files and folders that were fsynced so far, by their names then.
    synced: HashSet<PathBuf>,
    /// Parts by their last name, with the files in them that had been fsynced at the rename.
    named: HashMap<PathBuf, HashSet<String>>,
    /// Calls under way, by thread.
    under_way: HashMap<String, PathBuf>,
}

impl Recording {
    fn of(text: &str) -> Self {
        let mut recording = Self::default();
        text.lines().for_each(|line| recording.add(line));
        recording
    }

    fn add(&mut self, line: &str) {
        let Some((thread, call)) = line.split_once(' ') else { return };
        let call = call.trim();
        if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            let path = call.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
            let path = PathBuf::from(path.unwrap().0);
            if call.ends_with("= 0") {
                self.synced.insert(path);
            } else if call.contains("unfinished") {
                self.under_way.insert(thread.to_owned(), path);
            }
        } else if call.starts_with("<... f") && call.contains("sync resumed") {
            let path = self.under_way.remove(thread);
            self.synced.extend(path.filter(|_| call.ends_with("= 0")));
        } else if call.starts_with("rename(") {
            let names: Vec<&str> = call.split('"').collect();
            let [_, from, _, to, ..] = names.as_slice() else { return };
            let (from, to) = (from.trim_end_matches('/'), to.trim_end_matches('/'));
            let inside = |path: &PathBuf| {
                path.strip_prefix(from).ok().map(|file| file.to_string_lossy().into_owned())
            };
            let files = self.synced.iter().filter_map(inside).collect();
            self.named.insert(PathBuf::from(to), files);
        }
    }
}

/// Names of the parts of all tables, with their folders.
fn parts_below(folder: &Path) -> Vec<PathBuf> {
    let mut parts = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if !entry.file_type().unwrap().is_dir() {
            continue;
        }
        if path.join("checksums.txt").is_file() {
            parts.push(path);
        } else {
            parts.extend(parts_below(&path));
        }
    }
    parts
}

#[test]
fn a_part_is_on_disk_before_it_has_its_name_merged_ones_too() {
    let strace = Command::new("strace").arg("--version").output();
    let missing = match (locate_libchdb(), strace) {
        (Err(error), _) => Some(error.to_string()),
        (_, Err(error)) => Some(format!("strace: {error}; install the package strace")),
        _ => None,
    };
    if let Some(reason) = missing {
        assert!(std::env::var_os("CHALKSTREAM_ALLOW_SKIP").is_some(), "{reason}");
        println!("skipped: {reason}");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("record");
    let output = Command::new("strace")
        .args(["--follow-forks", "--decode-fds=path", "--seccomp-bpf", "--string-limit=4096"])
        .args(["--trace=fsync,fdatasync,rename,renameat,renameat2", "--output"])
        .arg(&record)
        .arg(std::env::current_exe().unwrap())
        .args(["durable::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let reason = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{reason}");
    let tables = said.matches("table=").count();
    assert!(tables >= 15, "{said}");

    let recording = Recording::of(&std::fs::read_to_string(&record).unwrap());
    let store = folder.path().join("clickhouse/store");
    let (mut inserted, mut merged) = (0, 0);
    for part in parts_below(&store) {
        let name = part.file_name().unwrap().to_string_lossy().into_owned();
        // partition_first_last_level
        let numbers: Vec<&str> = name.rsplitn(4, '_').collect();
        let [_level, last, first, _partition] = numbers.as_slice() else { continue };
        let files = recording.named.get(&part);
        let files = files.unwrap_or_else(|| panic!("{} got no name", part.display()));
        for entry in std::fs::read_dir(&part).unwrap().map(Result::unwrap) {
            let file = entry.file_name().to_string_lossy().into_owned();
            assert!(
                files.contains(&file),
                "{} was named before {file} was fsynced",
                part.display()
            );
        }
        assert!(recording.synced.contains(&part), "the folder {} was not fsynced", part.display());
        *(if first == last { &mut inserted } else { &mut merged }) += 1;
    }
    println!("{inserted} inserted and {merged} merged parts in {tables} tables");
    assert!(merged >= tables, "{merged} merged parts in {tables} tables");
    // The sources of merges are still there.
    assert!(inserted >= 3 * tables, "{inserted} inserted parts in {tables} tables");
}
