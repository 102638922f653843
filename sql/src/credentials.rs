//! The passwords of ClickHouse's two users, in `credentials.toml`.
//!
//! Made on the first start, mode 0600, never overwritten. Other sections of the file are kept.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rand::Rng as _;
use serde::Deserialize;

use crate::Error;

/// Passwords of `admin` and `reader`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
pub struct Credentials {
    /// Of the user that the application writes with.
    pub admin_password: String,
    /// Of the user that analysts read with from other machines.
    pub reader_password: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("admin_password", &"***")
            .field("reader_password", &"***")
            .finish()
    }
}

#[derive(Deserialize)]
struct File {
    clickhouse: Option<Credentials>,
}

const ALPHABET: &[u8] = b"ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789";
/// 32 characters of 56: 185 bits.
const PASSWORD_LENGTH: usize = 32;

impl Credentials {
    /// New random passwords.
    pub fn generate() -> Self {
        let mut random = rand::rng();
        let mut password = || -> String {
            (0..PASSWORD_LENGTH)
                .filter_map(|_| ALPHABET.get(random.random_range(0..ALPHABET.len())))
                .map(|byte| char::from(*byte))
                .collect()
        };
        Self { admin_password: password(), reader_password: password() }
    }

    /// Reads the section `[clickhouse]` of `path`, or makes and adds it.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        let file = |doing, source| Error::File { doing, path: path.to_owned(), source };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(file("read", error)),
        };
        let parsed: File = toml::from_str(&text).map_err(|error| Error::Credentials {
            path: path.to_owned(),
            // The message of the parser alone: its excerpt would print a password.
            reason: error.message().to_owned(),
        })?;
        if let Some(credentials) = parsed.clickhouse {
            if credentials.admin_password.is_empty() || credentials.reader_password.is_empty() {
                return Err(Error::Credentials {
                    path: path.to_owned(),
                    reason: "a password in [clickhouse] is empty".to_owned(),
                });
            }
            return Ok(credentials);
        }
        let credentials = Self::generate();
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let text = format!(
            "{text}{gap}[clickhouse]\nadmin_password = \"{}\"\nreader_password = \"{}\"\n",
            credentials.admin_password, credentials.reader_password
        );
        write_private(path, text.as_bytes()).map_err(|error| file("write", error))?;
        Ok(credentials)
    }
}

/// Replaces the file by a whole new one that only its owner may read.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    match fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn passwords_are_made_once_and_kept_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.toml");
        fs::write(&path, "[other]\nkey = 1").unwrap();
        let first = Credentials::load_or_create(&path).unwrap();
        let second = Credentials::load_or_create(&path).unwrap();
        assert_eq!(first, second);
        assert_ne!(first.admin_password, first.reader_password);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&path).unwrap().starts_with("[other]\nkey = 1\n"));
        assert!(!format!("{first:?}").contains(&first.admin_password));
    }

    #[test]
    fn a_damaged_file_is_named_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("credentials.toml");
        fs::write(&path, "[clickhouse]\nadmin_password = \"hunter2\"\nreader_password = 7\n")
            .unwrap();
        let error = Credentials::load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("credentials.toml") && !error.contains("hunter2"), "{error}");
    }
}
