//! Ingest on its port: from ready to an orderly end.
//!
//! Always true: a shutdown is unready first, then takes no more connections, lets requests under way
//! finish, and ends by its deadline.
//! Not here: connections (`access`), what is flushed afterwards (the binary closes the log).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chalkstream_access::{Drained, Port, RunningPort, StartError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::app::App;
use crate::assembly::Ingest;
use crate::options::{IngestOptions, OptionsError};
use crate::outcomes::writer::OutcomeWriter;

/// How often changes of the write keys are looked for.
const KEYS_EVERY: Duration = Duration::from_secs(1);
/// How long the last counts of outcomes may take at least.
const LAST_COUNTS: Duration = Duration::from_secs(1);

/// Ingest that is listening.
#[derive(Debug)]
pub struct RunningIngest {
    app: Arc<App>,
    port: RunningPort,
    counting: JoinHandle<()>,
    stop_counting: watch::Sender<bool>,
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
        let app = Arc::clone(&self.app);
        let options = app.options.get();
        app.gate.follow(KEYS_EVERY);
        let port = Port {
            name: "ingest",
            router: self.router(),
            max_connections: options.max_connections,
            idle_max: Arc::clone(&app.idle_max),
            tls: Arc::clone(&app.tls),
            connections: app.metrics.connections.clone(),
        };
        let port = port
            .serve(listener)
            .map_err(|source| StartError::Listen { address: options.listen.clone(), source })?;
        let pipeline = &self.app.pipeline;
        let outcomes = Arc::clone(&pipeline.outcomes);
        let (log, clock) = (Arc::clone(&pipeline.log), Arc::clone(&pipeline.clock));
        let (stop_counting, stopped) = watch::channel(false);
        let counting = tokio::spawn(OutcomeWriter::new(outcomes, log, clock).run(stopped));
        self.app.lifecycle.ready();
        let (address, tls) = (port.address(), app.tls.get().is_some());
        let metrics = app.metrics_guard.get();
        tracing::info!(%address, tls, ?metrics, "ingest is listening");
        Ok(RunningIngest { app, port, counting, stop_counting })
    }
}

impl RunningIngest {
    /// The address it listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        self.port.url()
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
        let working = || self.app.lifecycle.working();
        let drained = self.port.shutdown(deadline, working).await;
        self.stop_counting.send_replace(true);
        let deadline = deadline.max(Instant::now() + LAST_COUNTS);
        if tokio::time::timeout_at(deadline, self.counting).await.is_err() {
            tracing::warn!("the last counts of outcomes were not written in time");
        }
        drained
    }
}
