//! The answering side of `control.sock`.

use std::collections::BTreeMap;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as Segment, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chalkstream_batch_jobs::archiver::ArchiverHandle;
use chalkstream_event_log::breaker::BreakerState;
use chalkstream_event_log::intake::GuardedLog;
use chalkstream_event_log::{EventLog, Intake as _, Topic};
use chalkstream_ingest::Ingest;
use chalkstream_schemas::{LogOffset, PartitionId, SchoolId};
use chalkstream_stream_processors::Progress;
use chalkstream_stream_processors::metrics::Metrics;
use serde::Deserialize;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{ArchiveRequest, IntakeReport, LogStatus, Status, replay, tail};
use crate::failure::{Advice, Report};
use crate::registrar::{self, NewKey, NewSchool, Registrar, Rotation};
use crate::roles::Role;

/// The largest table of a model.
const MODEL_MAX_BYTES: usize = 256 << 20;

/// How far `rejected_events` is, as it moves.
pub(crate) type RejectedWritten = watch::Receiver<BTreeMap<PartitionId, LogOffset>>;

/// What the process can be asked about.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) role: &'static str,
    pub(crate) registrar: Registrar,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) processor: Option<watch::Receiver<Progress>>,
    pub(crate) metrics: Option<Metrics>,
    pub(crate) rejected: Option<RejectedWritten>,
    pub(crate) archiver: Option<Arc<ArchiverHandle>>,
    pub(crate) ingest: Option<Ingest>,
    /// When the socket is closed; streams end with it.
    pub(crate) stop: CancellationToken,
    /// What stands between ingest and Kafka.
    pub(crate) guarded: Option<Arc<GuardedLog>>,
}

impl Control {
    /// The ingest of this process, if its role has one.
    pub(super) fn ingest(&self) -> Result<&Ingest> {
        self.ingest.as_ref().ok_or_else(|| {
            Advice::new(
                format!("the running role `{}` takes no events in", self.role),
                "ask on the machine of `chalkstream ingest`, with its --data-dir",
            )
            .into()
        })
    }

    async fn status(&self) -> Result<Status> {
        let intake = self.guarded.as_ref().map(|guarded| IntakeReport::of(&guarded.status()));
        if intake.as_ref().is_some_and(|intake| intake.breaker == BreakerState::Open.as_str()) {
            // Asking Kafka would take its time-outs, partition by partition.
            return Ok(Status {
                role: self.role.to_owned(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                trouble: Some(
                    "Kafka does not answer; hint: check that it runs and answers at `log.brokers`"
                        .to_owned(),
                ),
                intake,
                ..Status::default()
            });
        }
        let identity = self.log.identity();
        let log = LogStatus {
            cluster_id: identity.cluster_id.clone(),
            partitions: identity.partitions,
            events: self.records(Topic::Events).await?,
            rejected: self.records(Topic::Rejected).await?,
        };
        let (processor_lag, trouble) = match &self.processor {
            Some(progress) => {
                let progress = progress.borrow().clone();
                let trouble = progress.first_stop().or_else(|| progress.first_wait());
                (Some(self.lag(&progress).await?), trouble)
            }
            None => (None, None),
        };
        let archive_lag = match &self.archiver {
            Some(archiver) => {
                let positions = archiver.positions();
                let archived = |id| positions.get(&id).copied().or(self.unknown());
                Some(self.behind(Topic::Events, archived).await?)
            }
            None => None,
        };
        Ok(Status {
            role: self.role.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            trouble,
            log: Some(log),
            intake,
            processor_lag,
            archive_lag,
            lake_version: self.archiver.as_ref().and_then(|handle| handle.progress().lake_version),
            rows_written: self.metrics.as_ref().map(Metrics::rows_inserted),
        })
    }

    /// Records acknowledged that the views do not show yet, of both logs and the partitions that
    /// this process has, or will get.
    async fn lag(&self, progress: &Progress) -> Result<u64> {
        let visible = |id| progress.visible_of(id).or(self.unknown());
        let mut lag = self.behind(Topic::Events, visible).await?;
        if let Some(rejected) = &self.rejected {
            let written = rejected.borrow().clone();
            let unknown = written.is_empty().then_some(LogOffset::ZERO).or(self.unknown());
            lag += self.behind(Topic::Rejected, |id| written.get(&id).copied().or(unknown)).await?;
        }
        Ok(lag)
    }

    /// Up to where a partition counts as done that this process has not been given. `standalone`
    /// will get every one, though perhaps only once Kafka misses a member that died; a role alone
    /// leaves it to others.
    fn unknown(&self) -> Option<LogOffset> {
        (self.role == Role::Standalone.name()).then_some(LogOffset::ZERO)
    }

    /// Records behind what is visible, over the partitions of which that is known.
    async fn behind(
        &self,
        topic: Topic,
        visible: impl Fn(PartitionId) -> Option<LogOffset>,
    ) -> Result<u64> {
        let mut behind = 0;
        for partition in (0..self.log.partitions(topic)).map(PartitionId::new) {
            let Some(visible) = visible(partition) else { continue };
            let end = self.log.bounds(topic, partition).await?.end;
            behind += end.get().saturating_sub(visible.get());
        }
        Ok(behind)
    }

    async fn records(&self, topic: Topic) -> Result<u64> {
        let mut records = 0;
        for partition in (0..self.log.partitions(topic)).map(PartitionId::new) {
            let bounds = self.log.bounds(topic, partition).await?;
            records += bounds.end.get().saturating_sub(bounds.first.get());
        }
        Ok(records)
    }
}

/// Listens on the socket until `stop`. Returns once it listens; the future returned serves.
pub(crate) fn serve(
    path: &Path,
    control: Control,
) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
    let listener = listen(path)?;
    let stop = control.stop.clone();
    let router = Router::new()
        .route("/status", get(status))
        .route("/keys", get(list_keys).post(create_key))
        .route("/keys/{key_id}/rotate", post(rotate_key))
        .route("/keys/{key_id}/revoke", post(revoke_key))
        .route("/schools", get(list_schools).post(set_school))
        .route("/models/bkt", post(load_bkt))
        .route("/archive", post(archive))
        .route("/tail", get(tail::tail))
        .route("/replay", post(replay::replay))
        .layer(DefaultBodyLimit::max(MODEL_MAX_BYTES))
        .with_state(Arc::new(control));
    Ok(async move {
        axum::serve(listener, router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
            .context("could not serve control.sock")
    })
}

/// A socket that nobody but the owner can reach, at no moment.
fn listen(path: &Path) -> Result<UnixListener> {
    let private = path.with_extension("new");
    let bind = || -> std::io::Result<UnixListener> {
        match std::fs::remove_dir_all(&private) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        std::fs::DirBuilder::new().mode(0o700).create(&private)?;
        let inner = private.join("s");
        let (reachable, _folder) = super::reachable(&inner)?;
        let listener = UnixListener::bind(reachable)?;
        std::fs::set_permissions(&inner, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&inner, path)?;
        std::fs::remove_dir(&private)?;
        Ok(listener)
    };
    bind().with_context(|| format!("could not listen on {}", path.display()))
}

/// A failure as the client rebuilds it.
pub(super) struct Failed(pub(super) anyhow::Error);

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        (StatusCode::UNPROCESSABLE_ENTITY, Json(Report::of(&self.0))).into_response()
    }
}

pub(super) type Answer<T> = Result<Json<T>, Failed>;

async fn status(State(control): State<Arc<Control>>) -> Answer<Status> {
    Ok(Json(control.status().await?))
}

async fn create_key(
    State(control): State<Arc<Control>>,
    Json(request): Json<NewKey>,
) -> Answer<crate::registrar::CreatedKey> {
    Ok(Json(control.registrar.create_key(request).await?))
}

async fn list_keys(State(control): State<Arc<Control>>) -> Answer<Vec<crate::registrar::KeyRow>> {
    Ok(Json(registrar::list_keys(&control.registrar.keys)))
}

async fn revoke_key(
    State(control): State<Arc<Control>>,
    Segment(key_id): Segment<String>,
) -> Answer<crate::registrar::KeyRow> {
    Ok(Json(registrar::revoke_key(&control.registrar.keys, &key_id).await?))
}

async fn rotate_key(
    State(control): State<Arc<Control>>,
    Segment(key_id): Segment<String>,
    Json(request): Json<Rotation>,
) -> Answer<crate::registrar::CreatedKey> {
    Ok(Json(registrar::rotate_key(&control.registrar.keys, &key_id, request).await?))
}

async fn set_school(
    State(control): State<Arc<Control>>,
    Json(request): Json<NewSchool>,
) -> Answer<crate::schools::School> {
    Ok(Json(control.registrar.set_school(request).await?))
}

async fn list_schools(State(control): State<Arc<Control>>) -> Answer<Vec<crate::schools::School>> {
    Ok(Json(control.registrar.list_schools()?))
}

#[derive(Deserialize)]
struct ModelQuery {
    school: Option<SchoolId>,
}

async fn load_bkt(
    State(control): State<Arc<Control>>,
    Query(query): Query<ModelQuery>,
    table: Bytes,
) -> Answer<crate::registrar::LoadedModel> {
    Ok(Json(control.registrar.load_bkt(query.school, table.to_vec()).await?))
}

async fn archive(
    State(control): State<Arc<Control>>,
    Json(request): Json<ArchiveRequest>,
) -> Answer<Status> {
    let Some(archiver) = &control.archiver else {
        return Err(Failed(
            Advice::new(
                format!("the running role `{}` archives nothing", control.role),
                "ask on the machine of `chalkstream archive`, or use --no-wait",
            )
            .into(),
        ));
    };
    let ends = archiver.log_ends().await.map_err(anyhow::Error::from)?;
    let deadline = Duration::from_secs(request.deadline_seconds);
    archiver.wait_for(&ends, deadline).await.map_err(anyhow::Error::from)?;
    Ok(Json(control.status().await?))
}
