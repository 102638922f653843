//! The routes: one file each, and one table that the router and the OpenAPI document agree on.
//!
//! Always true: an unknown path or method is problem details, too; every request is counted by
//! route and status, one whose client left included.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use chalkstream_access::{Problem, ProblemKind, answered, cors_layer, printable, request_span};
use tracing::Instrument as _;

use crate::app::App;
use crate::grpc;
use crate::metrics::{Ended, Metrics, Route};

pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod schemas;
pub(crate) mod segment;

macro_rules! method {
    (GET) => {
        get
    };
    (POST) => {
        post
    };
}

macro_rules! routes {
    ($($method:tt $path:literal => $handler:path,)*) => {
        /// Every path with its method.
        pub(crate) const ROUTES: &[(&str, &str)] = &[$((stringify!($method), $path),)*];

        fn registered() -> Router<Arc<App>> {
            Router::new()$(.route($path, method!($method)($handler)))*
        }
    };
}

routes! {
    POST "/v1/events" => events::post_events,
    POST "/v1/batch" => segment::post_batch,
    POST "/v1/track" => segment::post_track,
    GET "/v1/schemas" => schemas::list_schemas,
    GET "/v1/schemas/{type}" => schemas::get_schema,
    GET "/livez" => health::livez,
    GET "/readyz" => health::readyz,
    GET "/metrics" => metrics::metrics,
    GET "/openapi.json" => health::openapi,
}

/// What gRPC has; it is described by its own protocol and not by OpenAPI.
const GRPC: &[(&str, &str)] =
    &[("POST", Route::Grpc.as_str()), ("POST", Route::GrpcHealth.as_str())];

pub(crate) fn router(app: &Arc<App>) -> Router {
    let router = registered()
        .route(Route::Grpc.as_str(), post(grpc::ingestion))
        .route(Route::GrpcHealth.as_str(), post(grpc::health::health))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(app), observe))
        .with_state(Arc::clone(app));
    match cors_layer(&app.options.get().cors) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

async fn not_found(request: Request) -> Problem {
    let path = printable(request.uri().path());
    let paths = ROUTES.iter().map(|(_, path)| *path).collect::<Vec<_>>().join(", ");
    Problem::new(ProblemKind::NotFound, format!("there is no `{path}`; there are {paths}"))
}

async fn method_not_allowed(request: Request) -> Problem {
    let registered = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let methods = ROUTES
        .iter()
        .chain(GRPC)
        .filter(|(_, path)| registered == Some(*path))
        .map(|(method, _)| *method)
        .collect::<Vec<_>>()
        .join(", ");
    let detail = format!("use {methods}, not {}", printable(request.method().as_str()));
    Problem::new(ProblemKind::MethodNotAllowed, detail)
}

/// Counts a request when it is answered, or when it is dropped because its client left.
struct Observed {
    metrics: Arc<Metrics>,
    route: Route,
    started: Instant,
    ended: Ended,
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.metrics.request(self.route, self.ended);
        if self.route == Route::Events {
            self.metrics.request_seconds.observe(self.started.elapsed());
        }
    }
}

async fn observe(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let registered = request.extensions().get::<MatchedPath>();
    let mut observed = Observed {
        metrics: Arc::clone(&app.metrics),
        route: registered.map_or(Route::Other, |path| Route::of(path.as_str())),
        started: Instant::now(),
        ended: Ended::Disconnected,
    };
    let span = request_span(&request, observed.route.as_str());
    let response = next.run(request).instrument(span.clone()).await;
    // The status of a gRPC call is not that of its HTTP response.
    let of_call = response.extensions().get::<Ended>().copied();
    observed.ended = of_call.unwrap_or_else(|| Ended::of(response.status()));
    answered(&span, response.status());
    let Observed { route, ended, started, .. } = &observed;
    let (route, status) = (route.as_str(), ended.as_str());
    let ms = started.elapsed().as_millis();
    span.in_scope(|| tracing::debug!(route, status, ms, "a request was answered"));
    response
}
