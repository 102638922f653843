//! Listening: how many connections there are, and an orderly end.
//!
//! Always true: at most `max_connections` are open; a shutdown is unready first, then takes no more
//! connections, lets requests under way finish, and ends by its deadline.
//! Not here: one connection ([`connection`]), what is flushed afterwards (the binary closes the log).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::app::{App, Ingest};
use crate::options::{IngestOptions, OptionsError};
use crate::outcomes::writer::OutcomeWriter;

mod connection;

/// How often changes of the write keys are looked for.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// How long nothing is accepted after the system refused a connection, such as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the last counts of outcomes may take at least.
const LAST_COUNTS: Duration = Duration::from_secs(1);
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// Why ingest did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("could not listen on {address}")]
    Listen {
        /// As configured.
        address: String,
        /// Why not.
        source: std::io::Error,
    },
}

impl StartError {
    /// What the person at the keyboard does next.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Listen { source, .. } => match source.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another process has the port: stop it, or choose another with --listen (port 0 takes a free one)"
                }
                std::io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need a privilege: choose a higher one with --listen"
                }
                _ => {
                    "check --listen: it takes an address of this machine and a port, such as 127.0.0.1:8080"
                }
            },
        }
    }
}

/// Ingest that is listening.
#[derive(Debug)]
pub struct RunningIngest {
    app: Arc<App>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
    counting: JoinHandle<()>,
    stop_counting: watch::Sender<bool>,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests still under way at the deadline; their clients send them again.
    pub abandoned: usize,
    /// Connections that were open still at the deadline.
    pub connections: u64,
}

impl Ingest {
    /// Listens on `listen` of the options and serves there.
    pub async fn bind(&self) -> Result<RunningIngest, StartError> {
        let address = self.app.options.get().listen.clone();
        match TcpListener::bind(&address).await {
            Ok(listener) => self.start(listener),
            Err(source) => Err(StartError::Listen { address, source }),
        }
    }

    /// Serves all routes on `listener`, follows the write keys, and is ready.
    pub fn start(&self, listener: TcpListener) -> Result<RunningIngest, StartError> {
        let address = listener.local_addr().map_err(|source| StartError::Listen {
            address: self.app.options.get().listen.clone(),
            source,
        })?;
        let (stop, stopped) = watch::channel(false);
        self.app.gate.follow(KEYS_EVERY);
        let accepting =
            tokio::spawn(accept(Arc::clone(&self.app), self.router(), listener, stopped));
        let pipeline = &self.app.pipeline;
        let outcomes = Arc::clone(&pipeline.outcomes);
        let (log, clock) = (Arc::clone(&pipeline.log), Arc::clone(&pipeline.clock));
        let (stop_counting, stopped) = watch::channel(false);
        let counting = tokio::spawn(OutcomeWriter::new(outcomes, log, clock).run(stopped));
        self.app.lifecycle.ready();
        let tls = self.app.tls.get().is_some();
        let metrics = self.app.metrics_guard.get();
        tracing::info!(%address, tls, ?metrics, "ingest is listening");
        let app = Arc::clone(&self.app);
        Ok(RunningIngest { app, address, stop, accepting, counting, stop_counting })
    }
}

impl RunningIngest {
    /// The address it listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        let scheme = if self.app.tls.get().is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// As [`Ingest::reload`].
    pub fn reload(&self, options: IngestOptions) -> Result<Vec<&'static str>, OptionsError> {
        self.app.options.reload(options)
    }

    /// Unready, then no more connections, then waits for what is under way, at most
    /// `drain_timeout`, and writes the last counts. Afterwards the log may be closed.
    pub async fn shutdown(self) -> Drained {
        let deadline = Instant::now() + self.app.options.get().drain_timeout.get();
        self.app.lifecycle.drain();
        self.stop.send_replace(true);
        if tokio::time::timeout_at(deadline, self.accepting).await.is_err() {
            tracing::warn!("the listener did not end in time");
        }
        let drained = loop {
            let abandoned = self.app.lifecycle.working();
            let connections = self.app.metrics.open_connections();
            if (abandoned == 0 && connections == 0) || Instant::now() >= deadline {
                if abandoned > 0 {
                    tracing::warn!(abandoned, "requests were still under way at the deadline");
                }
                break Drained { abandoned, connections };
            }
            tokio::time::sleep(DRAIN_POLL).await;
        };
        self.stop_counting.send_replace(true);
        let deadline = deadline.max(Instant::now() + LAST_COUNTS);
        if tokio::time::timeout_at(deadline, self.counting).await.is_err() {
            tracing::warn!("the last counts of outcomes were not written in time");
        }
        drained
    }
}

async fn accept(
    app: Arc<App>,
    router: axum::Router,
    listener: TcpListener,
    mut stopped: watch::Receiver<bool>,
) {
    let room = Arc::new(Semaphore::new(app.options.get().max_connections.get()));
    loop {
        let next = async {
            let room = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, room)
        };
        let (accepted, room) = tokio::select! {
            next = next => next,
            _ = stopped.changed() => return,
        };
        match accepted {
            Ok((stream, _peer)) => {
                let (app, router) = (Arc::clone(&app), router.clone());
                // Looked up for each connection: new certificates hold from the next one on.
                let tls = app.tls.get().as_ref().clone();
                let connection = connection::serve(app, router, stream, tls, stopped.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(room);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}
