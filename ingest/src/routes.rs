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

use crate::app::App;
use crate::cors;
use crate::metrics::{Ended, Metrics, Route};
use crate::problem::{Problem, ProblemKind};

pub(crate) mod events;
pub(crate) mod health;
pub(crate) mod schemas;
pub(crate) mod segment;

/// Every path with its method, as registered below.
pub(crate) const ROUTES: &[(&str, &str)] = &[
    ("POST", "/v1/events"),
    ("POST", "/v1/batch"),
    ("POST", "/v1/track"),
    ("GET", "/v1/schemas"),
    ("GET", "/v1/schemas/{type}"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
];

pub(crate) fn router(app: &Arc<App>) -> Router {
    let router = Router::new()
        .route("/v1/events", post(events::post_events))
        .route("/v1/batch", post(segment::post_batch))
        .route("/v1/track", post(segment::post_track))
        .route("/v1/schemas", get(schemas::list_schemas))
        .route("/v1/schemas/{type}", get(schemas::get_schema))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(health::openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(middleware::from_fn_with_state(Arc::clone(app), observe))
        .with_state(Arc::clone(app));
    match cors::layer(&app.options.cors) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

async fn not_found(request: Request) -> Problem {
    let path = crate::body::printable(request.uri().path());
    let paths = ROUTES.iter().map(|(_, path)| *path).collect::<Vec<_>>().join(", ");
    Problem::new(ProblemKind::NotFound, format!("there is no `{path}`; there are {paths}"))
}

async fn method_not_allowed(request: Request) -> Problem {
    let registered = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let methods = ROUTES
        .iter()
        .filter(|(_, path)| registered == Some(*path))
        .map(|(method, _)| *method)
        .collect::<Vec<_>>()
        .join(", ");
    let detail =
        format!("use {methods}, not {}", crate::body::printable(request.method().as_str()));
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
    let response = next.run(request).await;
    observed.ended = Ended::of(response.status());
    response
}
