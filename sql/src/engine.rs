//! The embedded ClickHouse: one folder, many connections, none of it on the async threads.
//!
//! In: statements with a [`Profile`] (who, which database, which settings). Out: whole results, or
//! streams of pieces with back-pressure. Blocking calls run on tokio's blocking threads; writers
//! and readers have separate lanes, so that slow analysts never hold up the application's inserts,
//! and readers share a budget ([`Budget`]).
//! Always true: a connection that ran for a profile is only used again for an equal profile, and
//! only after statements that cannot change it; every connection is closed before
//! [`Engine::close`] returns.
//! Not here: HTTP (the endpoint), permission (the guard).

mod budget;
mod config;
mod pool;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};

use crate::libchdb::{self, Api, Connection, Output, Parameters};
use crate::{Error, Exception};
use budget::Budget;
pub use budget::ReaderLimits;
pub(crate) use budget::{Place, Share};
pub(crate) use config::{SYSTEM_TABLES, is_view_name};
use pool::Pool;
pub(crate) use pool::{quote_name, set};

/// Who runs a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Everything the application needs.
    Admin,
    /// The views, read-only.
    Reader,
}

/// What a connection is set up for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Profile {
    pub(crate) role: Role,
    pub(crate) database: String,
    /// Settings in order of their names.
    pub(crate) settings: Vec<(String, String)>,
    /// A reader's part of what readers have.
    pub(crate) share: Share,
}

impl Profile {
    /// A profile without settings of its own.
    pub(crate) fn plain(role: Role, database: &str) -> Self {
        Self { role, database: database.to_owned(), settings: Vec::new(), share: Share::LEAST }
    }
}

/// Statements that writers run at a time.
const ADMIN_LANE: u32 = 16;
/// Pieces of a stream that wait for a slow client.
const STREAM_DEPTH: usize = 2;
/// A client that takes nothing for so long loses its query.
const CLIENT_STALL: Duration = Duration::from_secs(60);
/// How long the queries that run at the end may take, before and after they are told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// The running engine.
#[derive(Debug)]
pub(crate) struct Engine {
    api: Arc<Api>,
    arguments: Vec<String>,
    pool: Pool,
    admins: Arc<Semaphore>,
    readers: Budget,
    /// Held open so that the engine lives until [`Engine::close`].
    keeper: Mutex<Option<Connection>>,
    closing: AtomicBool,
    version: String,
    time_zone: String,
}

/// The folder that this process's engine runs on. An engine that was closed leaves its place.
static RUNNING: Mutex<Option<PathBuf>> = Mutex::new(None);

impl Engine {
    /// Opens the folder, which `views` of the database `chalkstream` readers may see. Blocks.
    pub(crate) fn open(
        folder: &Path,
        library: Option<&Path>,
        views: &[String],
        readers: ReaderLimits,
    ) -> Result<Self, Error> {
        let api = libchdb::load(library)?;
        let file =
            |doing, path: &Path, source| Error::File { doing, path: path.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(|error| file("create", folder, error))?;
        let folder = folder.canonicalize().map_err(|error| file("open", folder, error))?;
        let mut running = RUNNING.lock();
        if let Some(running) = running.as_ref() {
            return Err(Error::EngineBusy { running: running.clone() });
        }
        let config = config::write(&folder, views).map_err(|(path, e)| file("write", &path, e))?;
        let arguments = vec![
            "clickhouse".to_owned(),
            format!("--path={}", folder.display()),
            format!("--config-file={}", config.display()),
        ];
        let failed = || Error::EngineOpen { path: folder.clone() };
        let mut keeper = api.connect(&arguments, true).ok_or_else(failed)?;
        let facts = keeper.query(b"SELECT version(), timezone()", "TabSeparated", &[]);
        let facts = facts.map_err(|source| Error::Exception {
            statement: "SELECT version(), timezone()".to_owned(),
            source,
        })?;
        let facts = String::from_utf8_lossy(&facts.bytes).trim_end().to_owned();
        let (version, time_zone) = facts.split_once('\t').unwrap_or((facts.as_str(), "UTC"));
        *running = Some(folder.clone());
        drop(running);
        Ok(Self {
            api,
            arguments,
            pool: Pool::default(),
            admins: Arc::new(Semaphore::new(ADMIN_LANE as usize)),
            readers: Budget::new(readers),
            keeper: Mutex::new(Some(keeper)),
            closing: AtomicBool::new(false),
            version: version.to_owned(),
            time_zone: time_zone.to_owned(),
        })
    }

    /// ClickHouse's version, such as `26.5.1.1`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// The zone of `DateTime` columns that name none.
    pub(crate) fn time_zone(&self) -> &str {
        &self.time_zone
    }

    /// A place among those of a role that run. Writers wait for it, readers only so long.
    pub(crate) async fn enter(&self, role: Role) -> Result<Place, Exception> {
        match role {
            Role::Admin => {
                let lane = Arc::clone(&self.admins).acquire_owned().await;
                Ok(Place::without_share(lane.map_err(|_closed| shutting_down())?))
            }
            Role::Reader => self.readers.enter().await?.ok_or_else(shutting_down),
        }
    }

    /// A connection set up for `profile`. Blocks about a millisecond unless the pool has one.
    pub(crate) fn connect(&self, profile: &Profile) -> Result<Connection, Exception> {
        if self.closing.load(Ordering::Acquire) {
            return Err(shutting_down());
        }
        if let Some(connection) = self.pool.take(profile) {
            return Ok(connection);
        }
        let mut connection = self.api.connect(&self.arguments, false).ok_or_else(|| {
            Exception::new(1002, "UNKNOWN_EXCEPTION", "ClickHouse opened no connection")
        })?;
        for statement in pool::set_up(profile, &self.readers.limits) {
            connection.query(statement.as_bytes(), "Null", &[])?;
        }
        if profile.role == Role::Reader {
            connection.limit_results(self.readers.limits.whole_result_bytes(profile.share));
        }
        Ok(connection)
    }

    /// A connection for `profile` that returns to the pool by itself. Blocks like `connect`.
    pub(crate) fn lease(
        self: &Arc<Self>,
        profile: Profile,
        reuse: Reuse,
    ) -> Result<Leased, Exception> {
        let connection = self.connect(&profile)?;
        Ok(Leased { engine: Arc::clone(self), kept: Some((profile, connection)), reuse })
    }

    /// Runs blocking work in a place of its own.
    pub(crate) async fn offload<T: Send + 'static>(
        &self,
        role: Role,
        work: impl FnOnce() -> Result<T, Exception> + Send + 'static,
    ) -> Result<T, Exception> {
        let place = Arc::new(self.enter(role).await?);
        self.offload_in(place, work).await
    }

    /// Runs blocking work in a place. The work holds it, so that it still counts when the client
    /// that waited for it is gone.
    pub(crate) async fn offload_in<T: Send + 'static>(
        &self,
        place: Arc<Place>,
        work: impl FnOnce() -> Result<T, Exception> + Send + 'static,
    ) -> Result<T, Exception> {
        let done = tokio::task::spawn_blocking(move || {
            let done = work();
            drop(place);
            done
        });
        done.await.unwrap_or_else(|_panicked| Err(thread_died()))
    }

    /// A SELECT, piece by piece, on the connection that `acquire` gives. It ends when the receiver
    /// is dropped.
    pub(crate) fn stream_on<C: DerefMut<Target = Connection>>(
        self: &Arc<Self>,
        place: Arc<Place>,
        acquire: impl FnOnce() -> Result<C, Exception> + Send + 'static,
        sql: Vec<u8>,
        format: String,
        parameters: Vec<(String, Vec<u8>)>,
    ) -> mpsc::Receiver<Result<Output, Exception>> {
        let (sender, receiver) = mpsc::channel(STREAM_DEPTH);
        let engine = Arc::clone(self);
        let runtime = Handle::current();
        tokio::spawn(async move {
            let worker = Arc::clone(&engine);
            let pieces = sender.clone();
            let work = move || {
                let mut connection = acquire()?;
                worker.pump(&runtime, &mut connection, &sql, &format, &parameters, &pieces)
            };
            if let Err(exception) = engine.offload_in(place, work).await {
                send_or_forget(&sender, Err(exception)).await;
            }
        });
        receiver
    }

    /// Moves a result into the channel until its end, an error, or a client that takes no more.
    fn pump(
        &self,
        runtime: &Handle,
        connection: &mut Connection,
        sql: &[u8],
        format: &str,
        parameters: &Parameters,
        pieces: &mpsc::Sender<Result<Output, Exception>>,
    ) -> Result<(), Exception> {
        let mut stream = connection.stream(sql, format, parameters)?;
        while let Some(piece) = stream.next()? {
            if self.closing.load(Ordering::Acquire) {
                return Err(shutting_down());
            }
            if runtime.block_on(pieces.send_timeout(Ok(piece), CLIENT_STALL)).is_err() {
                tracing::debug!("a client took no more of its result");
                return Ok(());
            }
        }
        Ok(())
    }

    /// Ends streams, waits for what runs, and closes every connection. Nothing runs afterwards.
    pub(crate) async fn close(&self) {
        self.closing.store(true, Ordering::Release);
        if tokio::time::timeout(GRACE, self.drain()).await.is_err() {
            self.kill_queries();
            if tokio::time::timeout(GRACE, self.drain()).await.is_err() {
                tracing::error!("queries still run; ClickHouse ends with the process");
                return;
            }
        }
        self.admins.close();
        self.readers.lanes.close();
        self.pool.clear();
        let keeper = self.keeper.lock().take();
        if let Some(keeper) = keeper {
            drop(keeper);
            *RUNNING.lock() = None;
        }
    }

    /// Tells every query to end, but the one that tells it.
    fn kill_queries(&self) {
        let kill = b"KILL QUERY WHERE query_id != queryID() ASYNC";
        let mut keeper = self.keeper.lock();
        let killed = keeper.as_mut().map(|keeper| keeper.query(kill, "Null", &[]));
        drop(keeper);
        if let Some(Err(exception)) = killed {
            tracing::warn!(%exception, "could not end the queries that still run");
        }
    }

    /// Waits until nothing runs in either lane. New work waits behind, and then finds it closed.
    async fn drain(&self) {
        for (lane, all) in [(&self.admins, ADMIN_LANE), (&self.readers.lanes, budget::LANES)] {
            if let Ok(permits) = lane.acquire_many(all).await {
                drop(permits);
            }
        }
    }
}

/// A connection on loan from the pool.
#[derive(Debug)]
pub(crate) struct Leased {
    engine: Arc<Engine>,
    kept: Option<(Profile, Connection)>,
    reuse: Reuse,
}

impl Deref for Leased {
    type Target = Connection;

    #[expect(clippy::expect_used, reason = "`kept` is taken by `drop` alone")]
    fn deref(&self) -> &Connection {
        &self.kept.as_ref().expect("a lease holds its connection until it is dropped").1
    }
}

impl DerefMut for Leased {
    #[expect(clippy::expect_used, reason = "`kept` is taken by `drop` alone")]
    fn deref_mut(&mut self) -> &mut Connection {
        &mut self.kept.as_mut().expect("a lease holds its connection until it is dropped").1
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        // After an error too the connection is whole: the engine ends the query.
        if let Some((profile, connection)) = self.kept.take() {
            match self.reuse {
                Reuse::Yes if !self.engine.closing.load(Ordering::Acquire) => {
                    self.engine.pool.put(profile, connection);
                }
                Reuse::Yes | Reuse::No => drop(connection),
            }
        }
    }
}

/// Whether a connection may serve again after a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    Yes,
    /// The statement may have changed settings, the current database, or temporary tables.
    No,
}

fn thread_died() -> Exception {
    Exception::new(1002, "UNKNOWN_EXCEPTION", "the query's thread died")
}

fn shutting_down() -> Exception {
    Exception::new(734, "SERVER_IS_SHUTTING_DOWN", "the embedded ClickHouse is shutting down")
}

async fn send_or_forget<T>(sender: &mpsc::Sender<T>, value: T) {
    if sender.send(value).await.is_err() {
        tracing::debug!("the client went away before its answer");
    }
}
