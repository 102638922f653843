//! A port that listens: accepts connections, as many as it may have, until it is told to stop.
//!
//! In: a listener, and what is served on it. Out: a [`RunningPort`].
//! Always true: beyond `max_connections` new ones wait to be accepted; new certificates hold from the
//! next connection on; a stop waits for what is under way, and no longer than its deadline.
//! Not here: what one connection may do ([`super::connection`]), and the routes.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::rustls::ServerConfig;

use super::connection::{self, Connections, Service};
use crate::live::Built;

/// How long nothing is accepted after the system refused a connection, such as for want of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const DRAIN_POLL: Duration = Duration::from_millis(5);

/// Why a port could not be opened.
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

/// What is served on a port, and how.
#[derive(Clone, Debug)]
pub struct Port {
    /// What log lines call it.
    pub name: &'static str,
    /// Every route.
    pub router: Router,
    /// Most open connections; above it new ones wait to be accepted.
    pub max_connections: NonZeroUsize,
    /// How long a request's headers may take, and how long a connection may be idle.
    pub idle_max: Arc<Built<Duration>>,
    /// The certificates in use; none where TLS is off.
    pub tls: Arc<Built<Option<Arc<ServerConfig>>>>,
    /// Counts the open connections.
    pub connections: Connections,
}

/// A port that is listening.
#[derive(Debug)]
pub struct RunningPort {
    address: SocketAddr,
    tls: bool,
    connections: Connections,
    stop: watch::Sender<bool>,
    accepting: JoinHandle<()>,
}

/// How a shutdown ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests still under way at the deadline; their clients send them again.
    pub abandoned: usize,
    /// Connections that were open still at the deadline.
    pub connections: u64,
}

impl Port {
    /// Serves on `listener` from now on.
    pub fn serve(self, listener: TcpListener) -> std::io::Result<RunningPort> {
        let address = listener.local_addr()?;
        let (stop, stopped) = watch::channel(false);
        let name = self.name;
        let (tls, connections) = (self.tls.get().is_some(), self.connections.clone());
        if !tls && !address.ip().to_canonical().is_loopback() {
            tracing::warn!(
                %address,
                "{name} listens beyond this machine without TLS: keys, tokens and data pass in clear; turn TLS on, or listen on 127.0.0.1 behind a proxy that speaks it"
            );
        }
        let accepting = tokio::spawn(self.accept(listener, stopped));
        Ok(RunningPort { address, tls, connections, stop, accepting })
    }

    async fn accept(self, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(self.max_connections.get()));
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
                    let service = Service {
                        router: self.router.clone(),
                        connections: self.connections.clone(),
                        idle_max: *self.idle_max.get(),
                        // Looked up for each connection: new certificates hold from the next one on.
                        tls: self.tls.get().as_ref().clone(),
                    };
                    let connection = connection::serve(service, stream, stopped.clone());
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
}

impl RunningPort {
    /// The address it listens on, with its real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients find it.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// No more connections from now on; waits for those that are open and for the requests of which
    /// `working` tells, at most until `deadline`.
    pub async fn shutdown(self, deadline: Instant, working: impl Fn() -> usize) -> Drained {
        self.stop.send_replace(true);
        if tokio::time::timeout_at(deadline, self.accepting).await.is_err() {
            tracing::warn!("the listener did not end in time");
        }
        loop {
            let (abandoned, connections) = (working(), self.connections.count());
            if (abandoned == 0 && connections == 0) || Instant::now() >= deadline {
                if abandoned > 0 {
                    tracing::warn!(abandoned, "requests were still under way at the deadline");
                }
                return Drained { abandoned, connections };
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
    }
}
