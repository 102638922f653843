//! Idle connections, kept for an equal profile.

use parking_lot::Mutex;

use super::config::READER_ROLE;
use super::{Profile, ReaderLimits, Role};
use crate::libchdb::Connection;

/// More idle connections than this are closed, the longest idle first.
const IDLE_MAX: usize = 24;

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
pub(super) fn set_up(profile: &Profile, limits: &ReaderLimits) -> Vec<String> {
    let mut statements = vec![format!("USE {}", quote_name(&profile.database))];
    match profile.role {
        Role::Admin => statements.extend(set(&profile.settings)),
        Role::Reader => {
            // Settings first: behind `readonly = 1` nothing can be set any more.
            statements.extend(set(&limits.tighten(profile.share, &profile.settings)));
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
        profile.settings = vec![("extremes".into(), "1' x".into())];
        let statements = set_up(&profile, &ReaderLimits::default());
        assert_eq!(statements[0], "USE `chalk\\`stream`");
        assert!(statements[1].starts_with("SET `extremes` = '1\\' x', "), "{statements:?}");
        assert!(statements[1].contains("`max_memory_usage` = '"), "{statements:?}");
        assert_eq!(statements.last().unwrap(), "SET readonly = 1");
        assert!(statements.contains(&"SET ROLE chalkstream_reader".to_owned()));
    }
}
