//! `grpc.health.v1.Health`: what `/readyz` says, for clients and balancers that speak gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response as HttpResponse;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service as _;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use crate::app::App;
use crate::condition::Condition;

/// How often one who watches is told of a change, at most.
const WATCH_EVERY: Duration = Duration::from_millis(250);

/// The path `/grpc.health.v1.Health/{*method}`.
pub(crate) async fn health(State(app): State<Arc<App>>, request: HttpRequest) -> HttpResponse {
    match HealthServer::new(Readiness { app }).call(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

#[derive(Debug)]
struct Readiness {
    app: Arc<App>,
}

/// Of the whole server, or of the one service it has.
fn knows(service: &str) -> bool {
    ["", super::service_name()].contains(&service)
}

fn now(app: &App) -> ServingStatus {
    let started = app.lifecycle.check().is_ok();
    if started && app.durability.report().condition != Condition::Unready {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for Readiness {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if knows(&request.get_ref().service) {
            Ok(Response::new(answer(now(&self.app))))
        } else {
            Err(Status::not_found("no such service; leave the name empty to ask for the server"))
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (tell, told) = mpsc::channel(1);
        let app = Arc::clone(&self.app);
        let known = knows(&request.get_ref().service);
        tokio::spawn(async move {
            let mut last = None;
            loop {
                let status = if known { now(&app) } else { ServingStatus::ServiceUnknown };
                if last != Some(status) {
                    last = Some(status);
                    if tell.send(Ok(answer(status))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = tokio::time::sleep(WATCH_EVERY) => {}
                    () = tell.closed() => return,
                    () = app.lifecycle.drained() => {
                        // The last word, so that the connection can end.
                        let stopping = Ok(answer(ServingStatus::NotServing));
                        drop(tell.send(stopping).await);
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(told))))
    }
}
