//! `chalkstream.ingest.v1.EventIngestion`: events by gRPC, with the semantics of `POST /v1/events`.
//!
//! In: messages that hold an `EventBatch`. Out: what became of each event, or a status made from the
//! problem that the same request would have met by HTTP.
//! Always true: a call's bytes are counted at the same door as all others before they are gathered;
//! the credential is checked, and the request counted against its limits, before anything is read,
//! and again for each batch of a stream; of a stream one batch is under way at a time, and the next
//! is not read before there is room for it, which the client sees as HTTP/2 flow control.
//! Not here: what an event is, deduplication, the log: all of that is [`crate::intake`]'s.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request as HttpRequest, State};
use axum::response::Response as HttpResponse;
use bytes::Bytes;
use chalkstream_access::{Credential, Problem};
use http::HeaderMap;
use prost_types::Duration as ProtoDuration;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codec::CompressionEncoding::{Gzip, Zstd};
use tonic::codegen::Service as _;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::app::App;
use crate::decode::{self, Format};
use crate::fate::{Outcome, Tally};
use crate::intake::{self, Unanswered, Wants};
use crate::options::IngestOptions;
use crate::refusals;
use crate::routes::events::{EventResult, known_results, results, status as http_status};

pub(crate) mod health;
mod metered;
mod packed;
mod status;

#[expect(
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    reason = "generated"
)]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/server/chalkstream.ingest.v1.rs"));
}

use metered::{Metered, Room};
use proto::event_ingestion_server::{EventIngestion, EventIngestionServer, SERVICE_NAME};
use proto::{EventResult as ProtoResult, IngestBatchResponse};

/// `IngestBatchRequest`, with the batch as it came.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct RawRequest {
    /// Repeated, because a message that is given twice is the two, one after the other.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    batch: Vec<Bytes>,
    #[prost(bool, tag = "2")]
    all_results: bool,
    #[prost(bool, tag = "3")]
    validate: bool,
}

/// What is known about a call before its first message.
#[derive(Clone, Debug)]
struct Call {
    headers: HeaderMap,
    /// As it was when the call came.
    credential: Arc<Credential>,
    room: Room,
}

/// The path `/chalkstream.ingest.v1.EventIngestion/{*method}`.
pub(crate) async fn ingestion(State(app): State<Arc<App>>, request: HttpRequest) -> HttpResponse {
    let options = app.options.get();
    let (mut parts, body) = request.into_parts();
    let credential = match admit(&app, &options, &parts.headers).await {
        Ok(credential) => credential,
        Err(problem) => return status::respond(&status::of(&problem)),
    };
    let streams = parts.uri.path().ends_with("/IngestStream");
    let room = Room::new(&app, Arc::clone(&options), Arc::clone(&credential), streams);
    let body = Metered::new(body, &parts.headers, room.clone());
    let headers = parts.headers.clone();
    parts.extensions.insert(Call { headers, credential, room });
    let request = HttpRequest::from_parts(parts, body);
    let mut server = EventIngestionServer::new(Ingestion { app })
        .accept_compressed(Gzip)
        .accept_compressed(Zstd)
        .max_decoding_message_size(options.max_body.get());
    match server.call(request).await {
        Ok(response) => status::corrected(response.map(Body::new)),
        Err(never) => match never {},
    }
}

/// Whether the call may begin at all, and who calls.
async fn admit(
    app: &App,
    options: &IngestOptions,
    headers: &HeaderMap,
) -> Result<Arc<Credential>, Problem> {
    app.lifecycle.check_draining(options.retry_after.get())?;
    app.gate.writer(headers).await
}

/// The name by which health is asked for.
const fn service_name() -> &'static str {
    SERVICE_NAME
}

#[derive(Clone, Debug)]
struct Ingestion {
    app: Arc<App>,
}

impl Ingestion {
    /// Takes one batch in, as `POST /v1/events` does.
    async fn take_in(
        &self,
        call: &Call,
        credential: Arc<Credential>,
        request: RawRequest,
    ) -> Result<Taken, Unanswered> {
        let app = &self.app;
        let options = app.options.get();
        let RawRequest { mut batch, all_results, validate } = request;
        let wants = Wants { name_all: all_results, validate };
        let bytes = match (batch.pop(), batch.is_empty()) {
            (None, _) => Bytes::new(),
            (Some(only), true) => only,
            (Some(last), false) => {
                batch.push(last);
                Bytes::from(batch.concat())
            }
        };
        app.metrics.body(bytes.len());
        let reached = |problem: &Problem| app.limits.reached(problem, Some(&credential));
        let mut permit = call.room.permit(bytes.len()).inspect_err(reached)?;
        let batch = decode::split(bytes, Format::Protobuf, &options, &mut permit);
        let batch = batch.inspect_err(reached)?;
        let outcome = intake::take(app, batch, credential, wants, permit).await?;
        Ok(Taken { outcome, name_all: all_results, options })
    }

    /// The answer to one batch of a stream.
    async fn answer(
        &self,
        call: &Call,
        message: Result<RawRequest, Status>,
    ) -> Result<IngestBatchResponse, Status> {
        let request = message.map_err(status::of_reading)?;
        let taken = self.take_next(call, request).await;
        call.room.next_message();
        let taken = taken.map_err(|unanswered| self.failed(&unanswered))?;
        Ok(taken.response())
    }

    /// Takes a batch of a stream in: a request of its own, of a credential that may have changed.
    async fn take_next(&self, call: &Call, request: RawRequest) -> Result<Taken, Unanswered> {
        let credential = self.app.gate.writer(&call.headers).await?;
        self.take_in(call, credential, request).await
    }

    /// The status of a batch that has no answer, or none yet, with what is known all the same.
    fn failed(&self, Unanswered { problem, known }: &Unanswered) -> Status {
        if known.is_empty() {
            return status::of(problem);
        }
        let tally = Tally::of(known.iter().map(|(_, event)| event));
        let Tally { accepted, duplicate, rejected, refused, limited: _ } = tally;
        let messages = refusals::messages(tally, &self.app.options.get());
        let known = IngestBatchResponse {
            accepted: accepted as u64,
            duplicate: duplicate as u64,
            rejected: rejected as u64,
            refused: refused as u64,
            results: known_results(known, &messages).map(proto_result).collect(),
            retry_after: None,
        };
        status::of_known(problem, &known)
    }
}

#[tonic::async_trait]
impl EventIngestion for Ingestion {
    async fn ingest_batch(
        &self,
        request: Request<RawRequest>,
    ) -> Result<Response<IngestBatchResponse>, Status> {
        let (call, request) = unpack(request)?;
        let credential = Arc::clone(&call.credential);
        let taken = self.take_in(&call, credential, request).await;
        let taken = taken.map_err(|unanswered| self.failed(&unanswered))?;
        let (code, _again) = http_status(taken.outcome.tally);
        if code.is_server_error() || code == http::StatusCode::TOO_MANY_REQUESTS {
            return Err(taken.refused(code));
        }
        Ok(Response::new(taken.response()))
    }

    type IngestStreamStream =
        Pin<Box<dyn Stream<Item = Result<IngestBatchResponse, Status>> + Send>>;

    async fn ingest_stream(
        &self,
        request: Request<Streaming<RawRequest>>,
    ) -> Result<Response<Self::IngestStreamStream>, Status> {
        let (call, messages) = unpack(request)?;
        let this = self.clone();
        let answers = messages.then(move |message| {
            let (this, call) = (this.clone(), call.clone());
            async move { this.answer(&call, message).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

fn unpack<T>(mut request: Request<T>) -> Result<(Call, T), Status> {
    let call = request.extensions_mut().remove::<Call>();
    let call = call.ok_or_else(|| Status::internal("the call came past its gate"))?;
    Ok((call, request.into_inner()))
}

fn proto_result(result: EventResult<'_>) -> ProtoResult {
    let EventResult { index, id, status, reason, field, message, scope } = result;
    let text = |text: Option<&str>| text.map(str::to_owned);
    ProtoResult {
        index: u32::try_from(index).unwrap_or(u32::MAX),
        id: text(id),
        status: status.to_owned(),
        reason: text(reason),
        field: text(field),
        message: text(message),
        scope: text(scope),
    }
}

/// A batch whose events have their fates.
struct Taken {
    outcome: Outcome,
    name_all: bool,
    options: Arc<IngestOptions>,
}

impl Taken {
    fn response(&self) -> IngestBatchResponse {
        let Tally { accepted, duplicate, rejected, refused, .. } = self.outcome.tally;
        let messages = refusals::messages(self.outcome.tally, &self.options);
        let results = results(&self.outcome, self.name_all, &messages).map(proto_result).collect();
        let again = (refused > 0).then(|| self.again_after());
        IngestBatchResponse {
            accepted: accepted as u64,
            duplicate: duplicate as u64,
            rejected: rejected as u64,
            refused: refused as u64,
            results,
            retry_after: again.and_then(|after| ProtoDuration::try_from(after).ok()),
        }
    }

    /// When to send again what was refused.
    fn again_after(&self) -> Duration {
        self.outcome.retry_after.unwrap_or(self.options.retry_after.get())
    }

    /// Nothing of the batch was taken: an error, so that clients' own retries know it.
    fn refused(&self, code: http::StatusCode) -> Status {
        let limited = code == http::StatusCode::TOO_MANY_REQUESTS;
        let code = if limited { Code::ResourceExhausted } else { Code::Unavailable };
        let messages = refusals::messages(self.outcome.tally, &self.options);
        // Not every event need have the same reason: the first that tells why the code is this one.
        let first = results(&self.outcome, false, &messages)
            .find(|result| result.scope.is_some() == limited);
        let why = first.as_ref().and_then(|result| result.message).unwrap_or_default();
        let reason = first.as_ref().and_then(|result| result.reason).unwrap_or_default();
        let scope = first.as_ref().and_then(|result| result.scope);
        let detail = format!("every event was refused: {why}");
        status::with_details(code, &detail, reason, scope, Some(self.again_after()))
    }
}
