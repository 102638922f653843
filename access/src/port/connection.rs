//! One connection: TLS where it is on, HTTP/1.1 or HTTP/2, and the limits on both.
//!
//! Always true: HTTP/2 is chosen by ALPN under TLS, and by its preface without; a connection on which
//! no request is under way for the idle time is ended, whatever its client sends meanwhile; so
//! is one whose TLS handshake or whose headers take longer. An HTTP/2 client that does not answer
//! pings, that resets streams in a flood, or that sends headers without end is cut off.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// Requests that one HTTP/2 connection may have under way; more wait at the client.
const STREAMS_MAX: u32 = 128;
/// Headers of one HTTP/2 request.
const HEADER_LIST_MAX_BYTES: u32 = 16 << 10;
/// What an HTTP/2 client may send on one stream, and on all, before it is read.
const STREAM_WINDOW_BYTES: u32 = 512 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// Streams reset by the client before they were looked at, and streams reset for the client's
/// errors: beyond these the connection ends (CVE-2023-44487 and its like).
const RESET_STREAMS_MAX: usize = 32;
const ERROR_STREAMS_MAX: usize = 256;
/// How often an HTTP/2 client must show that it is there, and how fast.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an idle client has to see that the connection ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// The connections of a port. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<AtomicU64>);

impl Connections {
    /// How many are open.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a connection until the answer drops.
    fn open(&self) -> Open {
        self.0.fetch_add(1, Ordering::Relaxed);
        Open(self.clone())
    }
}

/// An open connection.
struct Open(Connections);

impl Drop for Open {
    fn drop(&mut self) {
        let Connections(count) = &self.0;
        count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a connection is served with.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) router: axum::Router,
    pub(super) connections: Connections,
    /// How long headers may take, and how long nothing may be under way.
    pub(super) idle_max: Duration,
    pub(super) tls: Option<Arc<ServerConfig>>,
}

/// Serves it to its end; `stopped` ends it once its requests are answered.
pub(super) async fn serve(service: Service, stream: TcpStream, mut stopped: watch::Receiver<bool>) {
    let Service { router, connections, idle_max, tls } = service;
    let open = connections.open();
    if *stopped.borrow_and_update() {
        return;
    }
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection stays without TCP_NODELAY");
    }
    let mut builder = builder(idle_max);
    match tls {
        None => speak(builder, idle_max, router, stream, stopped).await,
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            let handshake = tokio::select! {
                handshake = tokio::time::timeout(idle_max, handshake) => handshake,
                _ = stopped.changed() => return,
            };
            match handshake {
                Ok(Ok(stream)) => {
                    let (_, session) = stream.get_ref();
                    builder = match session.alpn_protocol() {
                        Some(b"h2") => builder.http2_only(),
                        _ => builder.http1_only(),
                    };
                    speak(builder, idle_max, router, stream, stopped).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                Err(_elapsed) => tracing::debug!("a TLS handshake took too long"),
            }
        }
    }
    drop(open);
}

fn builder(idle_max: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(idle_max);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_MAX_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(ERROR_STREAMS_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

async fn speak(
    builder: Builder<TokioExecutor>,
    idle_max: Duration,
    router: axum::Router,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    mut stopped: watch::Receiver<bool>,
) {
    let activity = Arc::new(Activity::new());
    let routes = TowerToHyperService::new(router);
    let service = service_fn({
        let activity = Arc::clone(&activity);
        move |request: hyper::Request<Incoming>| {
            let busy = Busy::new(&activity);
            let answer = routes.call(request);
            async move { answer.await.map(|response| response.map(|body| Held { body, busy })) }
        }
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        _ = stopped.changed() => {
            connection.as_mut().graceful_shutdown();
            Some(connection.await)
        }
        () = activity.idle_for(idle_max) => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => Some(ended),
                () = activity.idle_for(idle_max + GOODBYE) => None,
            }
        }
    };
    match ended {
        Some(Ok(())) => {}
        // Clients leave and time out every day.
        Some(Err(error)) => tracing::debug!(%error, "a connection ended early"),
        None => tracing::debug!("an idle connection was cut off"),
    }
}

/// Whether requests of a connection are under way, and since when none is.
#[derive(Debug)]
struct Activity {
    began: Instant,
    busy: AtomicUsize,
    idle_since_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        let (busy, idle_since_ms) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { began: Instant::now(), busy, idle_since_ms }
    }

    /// Ends once nothing was under way for so long.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let left = if self.busy.load(Ordering::Acquire) > 0 {
                limit
            } else {
                let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Acquire));
                (since + limit).saturating_sub(self.began.elapsed())
            };
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }
}

/// A request under way, until its answer has been sent.
#[derive(Debug)]
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.idle_since_ms.store(now, Ordering::Release);
        self.0.busy.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The body of an answer; its request is under way until it drops.
struct Held {
    body: Body,
    #[expect(dead_code, reason = "held, not used: dropping it tells that the answer is sent")]
    busy: Busy,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
