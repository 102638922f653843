//! `schools.toml`: the settings of the schools as they were last published from this folder.
//!
//! The truth for folds is the control record in the log; this book answers "is the school new?" and
//! `schools list` at once. Always true: an entry was acknowledged by every partition before it
//! stands here.

use std::path::PathBuf;

use anyhow::{Context, Result};
use chalkstream_schemas::SchoolId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::folder::write_atomically;

const FORMAT: u32 = 1;

/// A school's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct School {
    pub(crate) school_id: SchoolId,
    pub(crate) title: String,
    pub(crate) time_zone: String,
    pub(crate) control_id: String,
    pub(crate) set_at: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Book {
    format: u32,
    #[serde(default)]
    schools: Vec<School>,
}

/// The book of one data folder.
#[derive(Debug)]
pub(crate) struct SchoolBook {
    path: PathBuf,
    writing: Mutex<()>,
}

impl SchoolBook {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, writing: Mutex::new(()) }
    }

    /// Every school, by id.
    pub(crate) fn list(&self) -> Result<Vec<School>> {
        let text = match std::fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("could not read {}", self.path.display()));
            }
        };
        let book: Book =
            toml::from_str(&text).with_context(|| format!("{} is damaged", self.path.display()))?;
        anyhow::ensure!(
            book.format == FORMAT,
            "{} has format {}; this version reads format {FORMAT}",
            self.path.display(),
            book.format
        );
        Ok(book.schools)
    }

    pub(crate) fn find(&self, school: &SchoolId) -> Result<Option<School>> {
        Ok(self.list()?.into_iter().find(|known| known.school_id == *school))
    }

    /// Adds the school or replaces its entry.
    pub(crate) fn put(&self, school: School) -> Result<()> {
        let _writing = self.writing.lock();
        let mut schools = self.list()?;
        schools.retain(|known| known.school_id != school.school_id);
        schools.push(school);
        schools.sort_by(|a, b| a.school_id.cmp(&b.school_id));
        let text = toml::to_string(&Book { format: FORMAT, schools })
            .context("could not encode the schools")?;
        let text = format!("# Written by `chalkstream schools set` and `keys create`.\n{text}");
        write_atomically(&self.path, text.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn school(id: &str, zone: &str) -> School {
        School {
            school_id: SchoolId::parse(id).unwrap(),
            title: "Lincoln \"Elementary\"".to_owned(),
            time_zone: zone.to_owned(),
            control_id: "c".to_owned(),
            set_at: "2026-01-01T00:00:00.000Z".to_owned(),
        }
    }

    #[test]
    fn the_last_settings_of_a_school_hold() {
        let folder = tempfile::tempdir().unwrap();
        let book = SchoolBook::new(folder.path().join("schools.toml"));
        assert_eq!(book.list().unwrap(), []);
        book.put(school("lincoln", "UTC")).unwrap();
        book.put(school("adams", "UTC")).unwrap();
        book.put(school("lincoln", "America/Chicago")).unwrap();
        let expected = [school("adams", "UTC"), school("lincoln", "America/Chicago")];
        assert_eq!(book.list().unwrap(), expected);
        let lincoln = SchoolId::parse("lincoln").unwrap();
        assert_eq!(book.find(&lincoln).unwrap().unwrap().time_zone, "America/Chicago");
    }
}
