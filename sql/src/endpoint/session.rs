//! Sessions of `admin`: a connection with its settings and temporary tables, kept between requests.
//!
//! Always true: a session serves one request at a time; settings and database of a request's URL
//! hold for that request, those of SET and USE for the session. A reader's statements leave no
//! trace, so a reader's `session_id` needs nothing kept.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::OwnedMutexGuard;

use super::request;
use crate::Exception;
use crate::engine::{Engine, Profile, Role, quote_name, set};
use crate::libchdb::Connection;

/// Idle sessions hold a connection each.
const SESSIONS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Sessions {
    open: Mutex<HashMap<String, Entry>>,
}

#[derive(Debug)]
struct Entry {
    session: Arc<tokio::sync::Mutex<Session>>,
    expires: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    connection: Option<Connection>,
    /// The database of the session itself, and the one in force.
    own_database: String,
    database: String,
    /// Settings that a request's URL put over the session's own: (in force, the session's).
    overlay: BTreeMap<String, (String, String)>,
}

impl Sessions {
    /// The session, new or known, if no other request uses it.
    pub(super) fn take(
        &self,
        asked: &request::Session,
    ) -> Result<OwnedMutexGuard<Session>, Exception> {
        let now = Instant::now();
        let mut open = self.open.lock();
        // A session in use is locked: it expires after its request.
        open.retain(|_, entry| entry.expires > now || entry.session.try_lock().is_err());
        if !open.contains_key(&asked.id) {
            if asked.check {
                let message = format_args!("Session {} not found", asked.id);
                return Err(Exception::new(372, "SESSION_NOT_FOUND", message));
            }
            if open.len() >= SESSIONS_MAX {
                let message = format_args!("more than {SESSIONS_MAX} sessions at a time");
                return Err(Exception::new(202, "TOO_MANY_SIMULTANEOUS_QUERIES", message));
            }
        }
        let expires = now + Duration::from_secs(asked.timeout_seconds);
        let entry = open
            .entry(asked.id.clone())
            .or_insert_with(|| Entry { session: Arc::default(), expires });
        entry.expires = expires;
        let session = Arc::clone(&entry.session);
        drop(open);
        session.try_lock_owned().map_err(|_in_use| {
            let message = format_args!("Session {} is locked by a concurrent client", asked.id);
            Exception::new(373, "SESSION_IS_LOCKED", message)
        })
    }

    /// Closes all sessions that are not in use.
    pub(super) fn clear(&self) {
        let open = std::mem::take(&mut *self.open.lock());
        drop(open);
    }
}

/// A session's connection, ready for one request.
#[derive(Debug)]
pub(super) struct SessionLease(OwnedMutexGuard<Session>);

impl SessionLease {
    /// Opens the connection if it is new, and lays the request's settings over the session's.
    /// Blocks.
    pub(super) fn prepare(
        mut session: OwnedMutexGuard<Session>,
        engine: &Engine,
        database: Option<&str>,
        default_database: &str,
        settings: &[(String, String)],
    ) -> Result<Self, Exception> {
        if session.connection.is_none() {
            let profile = Profile::plain(Role::Admin, default_database);
            session.connection = Some(engine.connect(&profile)?);
            session.own_database = default_database.to_owned();
            session.database = default_database.to_owned();
        }
        let mut lease = Self(session);
        lease.use_database(database)?;
        lease.overlay(settings)?;
        Ok(lease)
    }

    fn use_database(&mut self, asked: Option<&str>) -> Result<(), Exception> {
        let database = asked.unwrap_or(&self.0.own_database).to_owned();
        if database != self.0.database {
            self.query(format!("USE {}", quote_name(&database)).as_bytes(), "Null", &[])?;
            self.0.database = database;
        }
        Ok(())
    }

    fn overlay(&mut self, settings: &[(String, String)]) -> Result<(), Exception> {
        let asked: BTreeMap<&str, &str> =
            settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut change = Vec::new();
        let gone: Vec<String> = self
            .0
            .overlay
            .keys()
            .filter(|name| !asked.contains_key(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            if let Some((_, own)) = self.0.overlay.remove(&name) {
                change.push((name, own));
            }
        }
        for (name, value) in settings {
            let known = self.0.overlay.get(name);
            if known.is_some_and(|(in_force, _)| in_force == value) {
                continue;
            }
            let own = match known {
                Some((_, own)) => own.clone(),
                None => self.current(name)?,
            };
            self.0.overlay.insert(name.clone(), (value.clone(), own));
            change.push((name.clone(), value.clone()));
        }
        if let Some(statement) = set(&change)
            && let Err(exception) = self.query(statement.as_bytes(), "Null", &[])
        {
            // What is in force now is not known: the session begins anew.
            self.0.connection = None;
            self.0.overlay.clear();
            return Err(exception);
        }
        Ok(())
    }

    fn current(&mut self, name: &str) -> Result<String, Exception> {
        let parameters = [("name".to_owned(), name.as_bytes().to_vec())];
        let value = self.query(b"SELECT getSetting({name:String})", "TSVRaw", &parameters)?;
        Ok(String::from_utf8_lossy(&value.bytes).trim_end_matches('\n').to_owned())
    }

    /// After USE: the database in force is the session's own.
    pub(super) fn keep_database(&mut self) -> Result<(), Exception> {
        let name = self.query(b"SELECT currentDatabase()", "TSVRaw", &[])?;
        let name = String::from_utf8_lossy(&name.bytes).trim_end_matches('\n').to_owned();
        self.0.own_database.clone_from(&name);
        self.0.database = name;
        Ok(())
    }
}

impl Deref for SessionLease {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "`prepare` opened the connection")]
    fn deref(&self) -> &Connection {
        self.0.connection.as_ref().expect("a prepared session has a connection")
    }
}

impl DerefMut for SessionLease {
    #[expect(clippy::expect_used, reason = "`prepare` opened the connection")]
    fn deref_mut(&mut self) -> &mut Connection {
        self.0.connection.as_mut().expect("a prepared session has a connection")
    }
}
