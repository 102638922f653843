//! ClickHouse's HTTP interface over the embedded engine.
//!
//! In: requests as ClickHouse's clients send them. Out: answers as a ClickHouse server gives them:
//! formats, headers, error codes, compression, sessions.
//! Always true: nothing runs before its sender is known; `reader` runs only what the guard admits;
//! a result that fails in the middle never looks whole.
//! Not here: TLS (put a proxy in front), the native TCP protocol.

mod auth;
mod decode;
mod encode;
mod exception;
mod framing;
mod native;
mod reply;
mod request;
mod run;
mod session;
mod shape;
mod upload;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody as _};
use axum::extract::{ConnectInfo, Request, State};
use axum::response::Response;
use axum::routing::{any, get};
use http::{HeaderMap, HeaderValue, Method, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use crate::engine::ReaderLimits;
use crate::engine::{Engine, Role};
use crate::migrations::Schema;
use crate::{Credentials, Database, Error, Exception};
use decode::Encoding;
use encode::Encoder;
use reply::Reply;
use request::Ask;
use session::Sessions;
use upload::{Spool, Upload};

/// Largest body of a reader, and of a form: statements alone.
const STATEMENT_BODY_MAX: usize = 1 << 20;
/// How long requests may take to end at a shutdown before they are cut.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);

/// What an embedded ClickHouse needs.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The engine's folder, `<data-dir>/clickhouse`; made if it is missing.
    pub data_dir: PathBuf,
    /// Address of the HTTP interface; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Passwords of `admin` and `reader`.
    pub credentials: Credentials,
    /// `libchdb.so`, if it is not to be looked for.
    pub library: Option<PathBuf>,
    /// What readers may use of the machine.
    pub readers: ReaderLimits,
}

/// The embedded ClickHouse with its HTTP interface. One a process at a time.
#[derive(Debug)]
pub struct EmbeddedServer {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
    database: Database,
    stop: watch::Sender<bool>,
    serving: JoinHandle<std::io::Result<()>>,
}

#[derive(Debug)]
struct Shared {
    engine: Arc<Engine>,
    credentials: Credentials,
    sessions: Sessions,
    spool: Spool,
}

impl EmbeddedServer {
    /// Loads the library, opens the folder and serves. Readers see this version's views.
    pub async fn start(options: EmbeddedOptions) -> Result<Self, Error> {
        Self::start_with_views(options, Schema::embedded().public_views()).await
    }

    /// The same, with other views for readers.
    pub async fn start_with_views(
        options: EmbeddedOptions,
        views: Vec<String>,
    ) -> Result<Self, Error> {
        let EmbeddedOptions { data_dir, listen, credentials, library, readers } = options;
        let failed = |source| Error::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let url = format!("http://{}", reachable(local_addr));
        let password = &credentials.admin_password;
        let database = Database::new(&url, "admin", password, run::DATABASE)?.exclusive();
        let opened = tokio::task::spawn_blocking(move || {
            Engine::open(&data_dir, library.as_deref(), &views, readers)
        });
        let engine = Arc::new(opened.await.map_err(|_panicked| Error::EngineClosed)??);
        let spool = Spool::open()?;
        let sessions = Sessions::default();
        let shared = Arc::new(Shared { engine, credentials, sessions, spool });
        let (stop, mut stopped) = watch::channel(false);
        let app = router(Arc::clone(&shared)).into_make_service_with_connect_info::<SocketAddr>();
        let serve = axum::serve(listener, app).with_graceful_shutdown(async move {
            // A sender that is gone is a stop too.
            if stopped.wait_for(|stop| *stop).await.is_err() {
                tracing::debug!("the embedded ClickHouse was dropped without a shutdown");
            }
        });
        let serving = tokio::spawn(async move { serve.await });
        Ok(Self { shared, local_addr, database, stop, serving })
    }

    /// The address that is served, with its real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The address as a URL that this machine can reach.
    pub fn url(&self) -> &str {
        self.database.url()
    }

    /// A handle as `admin` on the database `chalkstream`.
    pub fn database(&self) -> Database {
        self.database.clone()
    }

    /// Stops serving, ends what runs, and closes every connection.
    pub async fn shutdown(self) {
        let Self { shared, stop, mut serving, .. } = self;
        stop.send_replace(true);
        if tokio::time::timeout(SHUTDOWN_GRACE, &mut serving).await.is_err() {
            serving.abort();
        }
        shared.sessions.clear();
        shared.engine.close().await;
    }
}

/// An address to connect to, where the one served is "any".
fn reachable(served: SocketAddr) -> SocketAddr {
    if !served.ip().is_unspecified() {
        return served;
    }
    let ip = match served {
        SocketAddr::V4(_) => std::net::IpAddr::from([127, 0, 0, 1]),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, served.port())
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/ping", get(ok))
        .route("/replicas_status", get(ok))
        .route("/", any(handle))
        .fallback(missing)
        .with_state(shared)
}

async fn ok() -> &'static str {
    "Ok.\n"
}

async fn missing(request: Request) -> Response {
    let path = request.uri().path();
    let text = format!(
        "There is no handle {path}\n\nUse / or /ping for health checks.\nSend queries from your program with POST method or GET /?query=...\n\n"
    );
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = http::StatusCode::NOT_FOUND;
    response
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    if *request.method() == Method::GET && request.uri().query().is_none_or(str::is_empty) {
        return Response::new(Body::from("Ok.\n"));
    }
    let mut query_id = uuid::Uuid::new_v4().to_string();
    let answer = Box::pin(serve(&shared, peer, request, &mut query_id)).await;
    let mut response = answer.unwrap_or_else(|exception| {
        tracing::debug!(code = exception.code, query_id, "query refused");
        exception::answer(&exception, shared.engine.version())
    });
    if let Ok(id) = HeaderValue::from_str(&query_id) {
        response.headers_mut().insert("x-clickhouse-query-id", id);
    }
    response
}

async fn serve(
    shared: &Arc<Shared>,
    peer: SocketAddr,
    request: Request,
    query_id: &mut String,
) -> Result<Response, Exception> {
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    let mut ask = Ask::read(parts.uri.query().unwrap_or_default(), headers)?;
    if let Some(id) = ask.query_id.take() {
        *query_id = id;
    }
    let from_here = auth::is_from_here(peer, headers);
    let role = auth::decide(&ask.claim, &shared.credentials, from_here)?;
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let encoding = content_encoding(headers)?;
    let body = if let Some(boundary) = text(header::CONTENT_TYPE).and_then(boundary_of) {
        let form = Limited::new(body, STATEMENT_BODY_MAX).collect().await.map_err(too_large)?;
        for (name, value) in request::read_form(&form.to_bytes(), &boundary)? {
            ask.add(&name, value)?;
        }
        None
    } else {
        receive(shared, role, body, encoding, ask.decompress).await?
    };
    let accept = text(header::ACCEPT_ENCODING).filter(|_| ask.http_compression);
    let (method, level) = &ask.network_compression;
    let method = framing::Method::parse(method.as_deref(), level.as_deref())?;
    let encoder = Encoder::choose(ask.compress.then_some(method), accept, ask.zlib_level)
        .map_err(|error| Exception::new(1002, "UNKNOWN_EXCEPTION", error))?;
    let reply = Reply {
        encoder,
        format: None,
        shape: shape::Shape::Document,
        revision: ask.revision,
        version: shared.engine.version().to_owned(),
        time_zone: shared.engine.time_zone().to_owned(),
        wait_end_of_query: ask.wait_end_of_query,
    };
    run::run(shared, run::Job { role, method: parts.method, ask, body, reply }).await
}

fn too_large(error: Box<dyn std::error::Error + Send + Sync>) -> Exception {
    let message = format_args!("a statement is at most {STATEMENT_BODY_MAX} bytes: {error}");
    Exception::new(307, "TOO_MANY_BYTES", message)
}

/// The one encoding of a body, in whichever of the header's lines it stands.
fn content_encoding(headers: &HeaderMap) -> Result<Encoding, Exception> {
    let lines = headers.get_all(header::CONTENT_ENCODING).iter();
    let all: Vec<_> = lines.map(|line| String::from_utf8_lossy(line.as_bytes())).collect();
    Encoding::parse(&all.join(", "))
}

fn boundary_of(content_type: &str) -> Option<String> {
    let mut parts = content_type.split(';').map(str::trim);
    let is_form = parts.next()?.eq_ignore_ascii_case("multipart/form-data");
    let boundary = parts.find_map(|part| part.strip_prefix("boundary="))?;
    is_form.then(|| boundary.trim_matches('"').to_owned())
}

/// Spools the body, if there is one, and undoes its encodings.
async fn receive(
    shared: &Arc<Shared>,
    role: Role,
    body: Body,
    encoding: Encoding,
    framed: bool,
) -> Result<Option<Upload>, Exception> {
    if body.is_end_stream() {
        return Ok(None);
    }
    let body = match role {
        Role::Admin => body,
        Role::Reader => {
            let whole =
                Limited::new(body, STATEMENT_BODY_MAX).collect().await.map_err(too_large)?;
            Body::from(whole.to_bytes())
        }
    };
    let upload = shared.spool.receive(body).await?;
    if upload.size() == 0 {
        return Ok(None);
    }
    if encoding == Encoding::Identity && !framed {
        return Ok(Some(upload));
    }
    let spool = shared.spool.clone();
    let limit = match role {
        Role::Admin => upload::BODY_MAX,
        Role::Reader => STATEMENT_BODY_MAX as u64,
    };
    let unpack = move || spool.unpack(upload, encoding, framed, limit);
    shared.engine.offload(role, unpack).await.map(Some)
}
