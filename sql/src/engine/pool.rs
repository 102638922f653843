//! Idle connections, kept for an equal profile.

use parking_lot::Mutex;

use super::config::READER_ROLE;
use super::{Profile, READER_QUERY_SECONDS, Role};
use crate::libchdb::Connection;

/// More idle connections than this are closed, the longest idle first.
const IDLE_MAX: usize = 24;
/// Memory that a reader's query may use: the application runs in the same process.
const READER_QUERY_BYTES: u64 = 4 << 30;

#[derive(Debug, Default)]
pub(super) struct Pool {
    /// In order of their return. A few dozen: a search is quicker than a map of maps.
    idle: Mutex<Vec<(Profile, Connection)>>,
}

impl Pool {
    pub(super) fn take(&self, profile: &Profile) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let found = idle.iter().rposition(|(of, _)| of == profile)?;
        Some(idle.remove(found).1)
    }

    pub(super) fn put(&self, profile: Profile, connection: Connection) {
        let mut idle = self.idle.lock();
        idle.push((profile, connection));
        let evicted = (idle.len() > IDLE_MAX).then(|| idle.remove(0));
        drop(idle);
        // Closing takes a moment, so it happens without the lock.
        drop(evicted);
    }

    pub(super) fn clear(&self) {
        let idle = std::mem::take(&mut *self.idle.lock());
        drop(idle);
    }
}

/// The statements that make a new connection one of the profile's.
pub(super) fn set_up(profile: &Profile) -> Vec<String> {
    let mut statements = vec![format!("USE {}", quote_name(&profile.database))];
    statements.extend(set(&profile.settings));
    match profile.role {
        Role::Admin => {}
        Role::Reader => {
            // Limits first: behind `readonly = 1` nothing can be set any more.
            if !profile.settings.iter().any(|(name, _)| name == "max_execution_time") {
                statements.push(format!("SET max_execution_time = {READER_QUERY_SECONDS}"));
            }
            statements.push(format!("SET max_memory_usage = {READER_QUERY_BYTES}"));
            statements.push(format!("SET ROLE {READER_ROLE}"));
            statements.push("SET readonly = 1".to_owned());
        }
    }
    statements
}

/// `SET a = 'x', b = 'y'`, or nothing.
pub(crate) fn set(settings: &[(String, String)]) -> Option<String> {
    if settings.is_empty() {
        return None;
    }
    let all: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("{} = {}", quote_name(name), quote_text(value)))
        .collect();
    Some(format!("SET {}", all.join(", ")))
}

/// A name in backquotes.
pub(crate) fn quote_name(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

/// A string in single quotes.
pub(crate) fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_can_set_nothing_after_its_limits() {
        let mut profile = Profile::plain(Role::Reader, "chalk`stream");
        profile.settings = vec![("max_threads".into(), "1' x".into())];
        let statements = set_up(&profile);
        assert_eq!(statements[0], "USE `chalk\\`stream`");
        assert_eq!(statements[1], "SET `max_threads` = '1\\' x'");
        assert_eq!(statements.last().unwrap(), "SET readonly = 1");
        assert!(statements.contains(&"SET ROLE chalkstream_reader".to_owned()));
    }
}
