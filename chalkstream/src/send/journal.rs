//! How far an earlier run came, so that the next one goes on from there.
//!
//! In a file beside the one that is sent (`<file>.chalkstream-send`), or in the user's state folder
//! where that cannot be written. Always true: it belongs to one file as it was (length, time of
//! change) and one server; a file that has changed is sent from its beginning.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::folder::write_atomically;

const FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    format: u32,
    file_bytes: u64,
    file_modified_ns: u64,
    url: String,
    /// Events at the file's beginning that have their answer.
    answered: u64,
}

/// The journal of one file and one server.
#[derive(Debug)]
pub(crate) struct Journal {
    paths: Vec<PathBuf>,
    entry: Entry,
}

impl Journal {
    /// For a file that exists.
    pub(crate) fn of(file: &Path, url: &str) -> Result<Self> {
        let about = std::fs::metadata(file)
            .with_context(|| format!("could not open {}", file.display()))?;
        let modified = about.modified().ok();
        let modified = modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let modified = modified.and_then(|since| u64::try_from(since.as_nanos()).ok());
        let entry = Entry {
            format: FORMAT,
            file_bytes: about.len(),
            file_modified_ns: modified.unwrap_or_default(),
            url: url.to_owned(),
            answered: 0,
        };
        let mut beside = file.as_os_str().to_owned();
        beside.push(".chalkstream-send");
        let mut paths = vec![PathBuf::from(beside)];
        paths.extend(state_path(file));
        Ok(Self { paths, entry })
    }

    /// Events that need not be sent again.
    pub(crate) fn answered(&self) -> u64 {
        let read = |path: &PathBuf| -> Option<Entry> {
            serde_json::from_slice(&std::fs::read(path).ok()?).ok()
        };
        let found = self.paths.iter().find_map(read);
        found
            .filter(|found| Entry { answered: 0, ..found.clone() } == self.entry)
            .map_or(0, |found| found.answered)
    }

    /// Keeps that so many events at the file's beginning have their answer.
    pub(crate) fn write(&self, answered: u64) -> Result<()> {
        let entry = Entry { answered, ..self.entry.clone() };
        let bytes = serde_json::to_vec(&entry).context("could not encode the journal")?;
        let mut failure = Ok(());
        for path in &self.paths {
            if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                // Where it cannot be made, writing says so.
                drop(std::fs::create_dir_all(folder));
            }
            match write_atomically(path, &bytes, 0o600) {
                Ok(()) => return Ok(()),
                Err(error) => failure = Err(error),
            }
        }
        failure
    }

    /// Nothing is left to resume.
    pub(crate) fn remove(&self) {
        for path in &self.paths {
            if let Err(error) = std::fs::remove_file(path)
                && error.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "journal not removed");
            }
        }
    }
}

fn state_path(file: &Path) -> Option<PathBuf> {
    let folder = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).or_else(|| {
        std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local").join("state"))
    })?;
    let whole = std::fs::canonicalize(file).ok()?;
    let name = blake3::hash(whole.as_os_str().as_encoded_bytes()).to_hex();
    Some(folder.join("chalkstream").join("send").join(format!("{name}.json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_or_another_server_begins_anew() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("events.ndjson");
        std::fs::write(&file, "{}\n").unwrap();
        let journal = Journal::of(&file, "http://a").unwrap();
        assert_eq!(journal.answered(), 0);
        journal.write(41).unwrap();
        assert_eq!(Journal::of(&file, "http://a").unwrap().answered(), 41);
        assert_eq!(Journal::of(&file, "http://b").unwrap().answered(), 0);
        std::fs::write(&file, "{}\n{}\n").unwrap();
        assert_eq!(Journal::of(&file, "http://a").unwrap().answered(), 0);
        journal.remove();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
