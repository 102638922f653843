//! Events by gRPC: the same fates as by HTTP, and the limits of calls and streams.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_access::{ByteSize, LimitsOptions, Scope, Span};
use chalkstream_ingest::IngestOptions;
use chalkstream_schemas::proto::events::v1::{
    AnswerSubmitted, EventBatch, LearningEvent, learning_event::Payload,
};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use prost_types::{Any, Timestamp};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::compress::{Compress, gzip, zstd};
use crate::harness::{LIMIT, Server, server, server_with, unacknowledged};
use crate::transport::http2_client;

#[expect(unreachable_pub, clippy::allow_attributes_without_reason, reason = "generated")]
mod proto {
    include!(concat!(env!("OUT_DIR"), "/client/chalkstream.ingest.v1.rs"));
}

use proto::event_ingestion_client::EventIngestionClient;
use proto::{IngestBatchRequest, IngestBatchResponse};

type Client = EventIngestionClient<Channel>;

async fn channel(server: &Server) -> Channel {
    Endpoint::from_shared(server.url("")).unwrap().connect().await.unwrap()
}

async fn client(server: &Server) -> Client {
    EventIngestionClient::new(channel(server).await)
}

/// The message with a credential.
fn signed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// The same event as [`Server::event`].
fn event(server: &Server, id: &str) -> LearningEvent {
    let now = server.clock_ms();
    LearningEvent {
        id: Some(id.to_owned()),
        r#type: Some("answer_submitted".to_owned()),
        user_id: Some("ada".to_owned()),
        occurred_at: Some(Timestamp {
            seconds: now.div_euclid(1_000),
            nanos: i32::try_from(now.rem_euclid(1_000)).unwrap() * 1_000_000,
        }),
        payload: Some(Payload::AnswerSubmitted(AnswerSubmitted {
            item_id: Some("q1".to_owned()),
            correct: Some(true),
            ..AnswerSubmitted::default()
        })),
        ..LearningEvent::default()
    }
}

fn fresh(server: &Server) -> LearningEvent {
    event(server, &uuid::Uuid::new_v4().to_string())
}

fn batch(events: Vec<LearningEvent>) -> IngestBatchRequest {
    let batch = Some(EventBatch { events, ..EventBatch::default() });
    IngestBatchRequest { batch, ..IngestBatchRequest::default() }
}

fn tally(answer: &IngestBatchResponse) -> [u64; 4] {
    [answer.accepted, answer.duplicate, answer.rejected, answer.refused]
}

#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// Code and words are as expected; `RetryInfo` is there where the client should try again.
#[track_caller]
fn check_status(status: &Status, code: Code, reason: &str, words: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "{status:?}");
    let details = Details::decode(status.details()).unwrap().details;
    let has = |name: &str| details.iter().any(|any| any.type_url.ends_with(name));
    let info = details.iter().find(|any| any.type_url.ends_with("ErrorInfo")).unwrap();
    assert!(String::from_utf8_lossy(&info.value).contains(reason), "{status:?}");
    let again = [Code::Unavailable, Code::ResourceExhausted, Code::Internal].contains(&code);
    assert_eq!(has("RetryInfo"), again, "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_has_the_same_fates_as_by_http() {
    let server = server().await;
    let mut client = client(&server).await;
    let twice = fresh(&server);
    let wrong = LearningEvent { payload: None, ..fresh(&server) };
    let sent = batch(vec![fresh(&server), twice.clone(), twice.clone(), wrong.clone()]);
    let answer = client.ingest_batch(signed(&server.key, sent)).await.unwrap().into_inner();
    assert_eq!(tally(&answer), [2, 1, 1, 0], "{answer:?}");
    let [duplicate, rejected] = answer.results.as_slice() else { panic!("{answer:?}") };
    assert_eq!((duplicate.index, duplicate.status.as_str()), (2, "duplicate"));
    assert_eq!((rejected.index, rejected.status.as_str()), (3, "rejected"));
    assert_eq!(rejected.reason.as_deref(), Some("missing_field"));
    assert_eq!(rejected.id, wrong.id);
    assert!(rejected.field.is_some() && rejected.message.is_some());
    assert_eq!(answer.retry_after, None);

    // What came by one way is a duplicate by the other.
    let shared = event(&server, "shared-id");
    server.send(&server.event("shared-id")).await.check(200, [1, 0, 0, 0]);
    let all = IngestBatchRequest { all_results: true, ..batch(vec![shared, fresh(&server)]) };
    let answer = client.ingest_batch(signed(&server.key, all)).await.unwrap().into_inner();
    assert_eq!(tally(&answer), [1, 1, 0, 0], "{answer:?}");
    assert_eq!(answer.results.len(), 2);

    // Nothing but faults is an answer, too: nothing is to be sent again.
    let answer = client.ingest_batch(signed(&server.key, batch(vec![wrong]))).await.unwrap();
    assert_eq!(tally(answer.get_ref()), [0, 0, 1, 0]);
    let answer = client.ingest_batch(signed(&server.key, batch(vec![]))).await.unwrap();
    assert_eq!(tally(answer.get_ref()), [0, 0, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_may_be_compressed() {
    let server = server().await;
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = client(&server).await.send_compressed(encoding);
        let sent = batch((0..50).map(|_| fresh(&server)).collect());
        let answer = client.ingest_batch(signed(&server.key, sent)).await.unwrap();
        assert_eq!(tally(answer.get_ref()), [50, 0, 0, 0]);
    }
    server.check_conservation().await;
}

/// tonic alone would read the first member and answer as if it were all.
#[tokio::test(flavor = "multi_thread")]
async fn every_member_of_a_compressed_message_is_read() {
    let server = server().await;
    let call = async |encoding: &str, message: Vec<u8>| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let request =
            hyper::Request::post(server.url("/chalkstream.ingest.v1.EventIngestion/IngestBatch"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("grpc-encoding", encoding)
                .header("authorization", format!("Bearer {}", server.key))
                .body(Full::from([&[1][..], &length, &message].concat()))
                .unwrap();
        let stream = TcpStream::connect(server.address()).await.unwrap();
        let response = http2_client(stream).await.send_request(request).await.unwrap();
        let status = response.headers().get("grpc-status").cloned();
        (status, response.into_body().collect().await.unwrap().to_bytes())
    };
    for (encoding, compress) in [("gzip", gzip as Compress), ("zstd", zstd)] {
        // Two messages, one after the other, are one with the events of both.
        let members: Vec<Vec<u8>> =
            (0..2).map(|_| compress(&batch(vec![fresh(&server)]).encode_to_vec())).collect();
        let (status, answer) = call(encoding, members.concat()).await;
        assert_eq!(status, None, "{encoding}");
        let answer = IngestBatchResponse::decode(answer.slice(5..)).unwrap();
        assert_eq!(tally(&answer), [2, 0, 0, 0], "{encoding}");
        for rest in [&b"\0"[..], b"rest", &members[0][..members[0].len() - 1]] {
            let (status, answer) = call(encoding, [&members[1][..], rest].concat()).await;
            let invalid = (Code::InvalidArgument as i32).to_string();
            assert_eq!(status.unwrap().to_str().unwrap(), invalid, "{encoding}: {answer:?}");
        }
    }
    assert_eq!(server.books().received, 4);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_credential_nothing_is_read() {
    let server = server().await;
    let mut client = client(&server).await;
    let sent = || batch(vec![fresh(&server)]);
    let refused = client.ingest_batch(Request::new(sent())).await.unwrap_err();
    check_status(&refused, Code::Unauthenticated, "MISSING_CREDENTIAL", "no `Authorization`");
    let refused = client.ingest_batch(signed("csk_nonsense", sent())).await.unwrap_err();
    check_status(&refused, Code::Unauthenticated, "UNKNOWN_KEY", "not known");
    let stream = tokio_stream::iter([sent()]);
    let refused = client.ingest_stream(signed("csk_nonsense", stream)).await.unwrap_err();
    check_status(&refused, Code::Unauthenticated, "UNKNOWN_KEY", "not known");
    assert_eq!(server.books().received, 0);
    let asked = "chalkstream_ingest_requests_total{route=\"/chalkstream.ingest.v1.EventIngestion/{*method}\",status=\"401\"}";
    assert_eq!(server.metric(asked).await, 3);
    // The key loses its right.
    let text = std::fs::read_to_string(server.keys.path().unwrap()).unwrap();
    std::fs::write(server.keys.path().unwrap(), text.replace("\"events:write\"", "")).unwrap();
    let started = Instant::now();
    let refused = loop {
        match client.ingest_batch(signed(&server.key, batch(vec![]))).await {
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(refused) => break refused,
        }
        assert!(started.elapsed() < LIMIT, "the key still has its right");
    };
    check_status(&refused, Code::PermissionDenied, "MISSING_SCOPE", "events:write");
    assert_eq!(server.books().received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_a_limit_says_whose_it_is_and_when_it_passes() {
    let limits = LimitsOptions {
        learner_events_per_minute: 3,
        learner_burst: Span::secs(60),
        ..LimitsOptions::default()
    };
    let server = server_with(IngestOptions { limits, ..IngestOptions::default() }).await;
    let mut client = client(&server).await;
    let events = (0..5).map(|_| fresh(&server)).collect::<Vec<_>>();
    let answer = client.ingest_batch(signed(&server.key, batch(events.clone()))).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(tally(&answer), [3, 0, 0, 2]);
    for result in &answer.results {
        let (reason, scope) = (result.reason.as_deref(), result.scope.as_deref());
        assert_eq!((reason, scope), (Some("rate_limited"), Some("learner")));
    }
    // Two events at three a minute.
    let seconds = answer.retry_after.unwrap().seconds;
    assert!((30..=40).contains(&seconds), "{seconds}");
    let again = batch(events.into_iter().skip(3).collect());
    let refused = client.ingest_batch(signed(&server.key, again)).await.unwrap_err();
    check_status(&refused, Code::ResourceExhausted, "RATE_LIMITED", "every event was refused");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_counts_against_the_limit_of_its_credential() {
    let limits = LimitsOptions {
        credential_requests_per_second: 1,
        credential_burst: Span::secs(2),
        ..LimitsOptions::default()
    };
    let server = server_with(IngestOptions { limits, ..IngestOptions::default() }).await;
    let mut client = client(&server).await;
    // A call counts once: two fit.
    let mut results = Vec::new();
    for _ in 0..20 {
        results.push(client.ingest_batch(signed(&server.key, batch(vec![]))).await);
    }
    assert!(results.iter().take(2).all(Result::is_ok), "{results:?}");
    let refused = results.into_iter().find_map(Result::err).expect("one request a second");
    check_status(&refused, Code::ResourceExhausted, "RATE_LIMITED", "requests");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_taken_is_the_callers_fault() {
    let options = IngestOptions {
        max_events: std::num::NonZeroUsize::new(3).unwrap(),
        max_body: ByteSize::kib(64),
        max_event: ByteSize::kib(32),
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let mut client = client(&server).await;
    let many = batch((0..4).map(|_| fresh(&server)).collect());
    let refused = client.ingest_batch(signed(&server.key, many)).await.unwrap_err();
    check_status(&refused, Code::InvalidArgument, "TOO_MANY_EVENTS", "at most 3");
    let large = LearningEvent { extra: Some("x".repeat(70 << 10)), ..fresh(&server) };
    let refused = client.ingest_batch(signed(&server.key, batch(vec![large.clone()]))).await;
    let too_large = (Code::InvalidArgument, "BODY_TOO_LARGE", "fewer events");
    check_status(&refused.unwrap_err(), too_large.0, too_large.1, too_large.2);
    // 16 MiB of spaces in a few kilobytes.
    let bomb = LearningEvent { extra: Some(" ".repeat(16 << 20)), ..fresh(&server) };
    for encoding in [CompressionEncoding::Gzip, CompressionEncoding::Zstd] {
        let mut client = client.clone().send_compressed(encoding);
        let refused = client.ingest_batch(signed(&server.key, batch(vec![bomb.clone()]))).await;
        check_status(&refused.unwrap_err(), too_large.0, too_large.1, too_large.2);
    }
    let answer = client.ingest_batch(signed(&server.key, batch(vec![fresh(&server)]))).await;
    assert_eq!(tally(answer.unwrap().get_ref()), [1, 0, 0, 0]);
    server.check_conservation().await;
}

/// A request whose batch is bytes of the test's choice.
#[derive(Clone, PartialEq, prost::Message)]
struct Raw {
    #[prost(bytes = "bytes", tag = "1")]
    batch: Bytes,
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_safe_already_is_a_detail_of_a_call_that_cannot_wait() {
    let options = IngestOptions { request_timeout: Span::millis(300), ..IngestOptions::default() };
    let server = server_with(options).await;
    let mut client = client(&server).await;
    let safe = fresh(&server);
    let first = batch(vec![safe.clone()]);
    client.ingest_batch(signed(&server.key, first)).await.unwrap();
    server.log.close_gate();
    let sent = batch(vec![fresh(&server), safe.clone()]);
    let status = client.ingest_batch(signed(&server.key, sent)).await.unwrap_err();
    check_status(&status, Code::Unavailable, "UNACKNOWLEDGED", "send all of them again");
    let details = Details::decode(status.details()).unwrap().details;
    let known = details.iter().find(|any| any.type_url.ends_with("IngestBatchResponse")).unwrap();
    let known = IngestBatchResponse::decode(known.value.as_slice()).unwrap();
    assert_eq!(tally(&known), [0, 1, 0, 0]);
    let [result] = known.results.as_slice() else { panic!("{known:?}") };
    assert_eq!((result.index, &result.id, result.status.as_str()), (1, &safe.id, "duplicate"));
    server.log.open_gate();
    server.books_become("the late outcome", |books| books.in_flight == 0).await;
    server.check_conservation().await;
}

/// A call with these bytes as its batch.
async fn call(server: &Server, method: &str, batch: &[u8]) -> Result<IngestBatchResponse, Status> {
    let mut grpc = tonic::client::Grpc::new(channel(server).await);
    grpc.ready().await.unwrap();
    let request = signed(&server.key, Raw { batch: Bytes::copy_from_slice(batch) });
    let path = format!("/chalkstream.ingest.v1.EventIngestion/{method}").parse().unwrap();
    let codec = tonic_prost::ProstCodec::<Raw, IngestBatchResponse>::new();
    grpc.unary(request, path, codec).await.map(tonic::Response::into_inner)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_batch_and_methods_that_are_not_there_are_said_so() {
    let server = server().await;
    let broken = call(&server, "IngestBatch", b"\x12\xff\xff").await.unwrap_err();
    check_status(&broken, Code::InvalidArgument, "BROKEN_BODY", "EventBatch");
    let unknown = call(&server, "IngestNothing", b"").await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unimplemented);
    assert_eq!(server.books().received, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_decoded_is_rejected_alone() {
    let server = server().await;
    let good = |server: &Server| {
        EventBatch { events: vec![fresh(server)], ..EventBatch::default() }.encode_to_vec()
    };
    let batch = [good(&server), b"\x12\x02\x0a\xff".to_vec(), good(&server)].concat();
    let answer = call(&server, "IngestBatch", &batch).await.unwrap();
    assert_eq!(tally(&answer), [2, 0, 1, 0], "{answer:?}");
    let rejected = &answer.results[0];
    assert_eq!((rejected.index, rejected.reason.as_deref()), (1, Some("malformed_json")));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_take_is_an_error_to_try_again() {
    let server = server().await;
    let mut client = client(&server).await;
    let sent = batch(vec![fresh(&server), fresh(&server)]);
    server.log.fail(|_, _| Some(unacknowledged()));
    let refused = client.ingest_batch(signed(&server.key, sent.clone())).await.unwrap_err();
    check_status(&refused, Code::Unavailable, "UNAVAILABLE", "every event was refused");
    // One of two: an answer that says when to send it again.
    server.log.fail(|_, index| (index == 0).then(unacknowledged));
    let answer = client.ingest_batch(signed(&server.key, sent.clone())).await.unwrap();
    assert_eq!(tally(answer.get_ref()), [1, 0, 0, 1]);
    assert_eq!(answer.get_ref().retry_after.unwrap().seconds, 1);
    server.log.heal();
    let answer = client.ingest_batch(signed(&server.key, sent)).await.unwrap();
    assert_eq!(tally(answer.get_ref()), [1, 1, 0, 0]);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_bytes_in_flight_calls_are_told_to_wait() {
    let options = IngestOptions {
        max_body: ByteSize::kib(128),
        max_in_flight: ByteSize::kib(128),
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let large = |server: &Server| LearningEvent {
        data_extra: Some(json!({ "note": "x".repeat(30 << 10) }).to_string()),
        ..fresh(server)
    };
    server.log.close_gate();
    let (mut first, mut second) = (client(&server).await, client(&server).await);
    let request = signed(&server.key, batch(vec![large(&server), large(&server)]));
    let held = tokio::spawn(async move { first.ingest_batch(request).await });
    server.log.arrived(1).await;
    let request = signed(&server.key, batch(vec![large(&server), large(&server)]));
    let refused = second.ingest_batch(request).await.unwrap_err();
    check_status(&refused, Code::Unavailable, "BUSY", "");
    server.log.open_gate();
    assert_eq!(tally(held.await.unwrap().unwrap().get_ref()), [2, 0, 0, 0]);
    server.check_conservation().await;
}

/// A stream that has been opened, to be fed batch by batch.
struct Stream {
    send: mpsc::Sender<IngestBatchRequest>,
    answers: Streaming<IngestBatchResponse>,
}

async fn open(server: &Server, key: &str) -> Stream {
    let (send, batches) = mpsc::channel(64);
    let request = signed(key, ReceiverStream::new(batches));
    let answers = client(server).await.ingest_stream(request).await.unwrap().into_inner();
    Stream { send, answers }
}

impl Stream {
    async fn send(&self, events: Vec<LearningEvent>) {
        self.send.send(batch(events)).await.unwrap();
    }

    async fn next(&mut self) -> Result<Option<IngestBatchResponse>, Status> {
        let answer = tokio::time::timeout(LIMIT, self.answers.message());
        answer.await.expect("no answer on the stream")
    }

    async fn tally(&mut self) -> [u64; 4] {
        tally(&self.next().await.unwrap().expect("the stream ended"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_batch_of_a_stream_is_answered_in_its_turn() {
    let server = server().await;
    let mut stream = open(&server, &server.key).await;
    let first = fresh(&server);
    stream.send(vec![first.clone(), fresh(&server)]).await;
    stream.send(vec![first.clone()]).await;
    stream.send(vec![]).await;
    assert_eq!(stream.tally().await, [2, 0, 0, 0]);
    assert_eq!(stream.tally().await, [0, 1, 0, 0]);
    assert_eq!(stream.tally().await, [0, 0, 0, 0]);
    // An answer waits for the log, and a failure of the log ends nothing.
    server.log.fail(|_, _| Some(unacknowledged()));
    stream.send(vec![fresh(&server)]).await;
    let refused = stream.next().await.unwrap().unwrap();
    assert_eq!((tally(&refused), refused.retry_after.unwrap().seconds), ([0, 0, 0, 1], 1));
    server.log.heal();
    stream.send(vec![fresh(&server)]).await;
    assert_eq!(stream.tally().await, [1, 0, 0, 0]);
    let Stream { send, mut answers } = stream;
    drop(send);
    assert_eq!(answers.message().await.unwrap(), None);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_wait_for_room_where_calls_would_be_refused() {
    let options = IngestOptions {
        max_body: ByteSize::kib(64),
        max_event: ByteSize::kib(64),
        max_in_flight: ByteSize::kib(160),
        // All streams have one key, which may hold everything here.
        limits: LimitsOptions { credential_in_flight_percent: 0, ..LimitsOptions::default() },
        ..IngestOptions::default()
    };
    let server = server_with(options).await;
    let large = |server: &Server| {
        let note = json!({ "note": "x".repeat(20 << 10) }).to_string();
        vec![LearningEvent { data_extra: Some(note), ..fresh(server) }]
    };
    server.log.close_gate();
    let mut streams = Vec::new();
    for _ in 0..6 {
        let stream = open(&server, &server.key).await;
        for _ in 0..5 {
            stream.send(large(&server)).await;
        }
        streams.push(stream);
    }
    server.log.arrived(2).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = server.metric("chalkstream_ingest_in_flight_bytes").await;
    assert!(held <= 160 << 10, "{held}");
    server.log.open_gate();
    for mut stream in streams {
        for _ in 0..5 {
            assert_eq!(stream.tally().await, [1, 0, 0, 0]);
        }
    }
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_credential_or_when_it_idles() {
    let options = IngestOptions { header_timeout: Span::millis(400), ..IngestOptions::default() };
    let server = server_with(options).await;
    let key = server.key_with(&[Scope::EventsWrite]);
    let mut stream = open(&server, &key).await;
    stream.send(vec![fresh(&server)]).await;
    assert_eq!(stream.tally().await, [1, 0, 0, 0]);
    server.revoke(&key);
    stream.send(vec![fresh(&server)]).await;
    let ended = stream.next().await.unwrap_err();
    check_status(&ended, Code::Unauthenticated, "REVOKED_KEY", "revoked");
    let mut idle = open(&server, &server.key).await;
    let ended = idle.next().await.unwrap_err();
    check_status(&ended, Code::Unavailable, "NOT_READY", "no message came within 400ms");
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_follows_readiness_and_a_stop_ends_streams_after_their_answers() {
    let mut server = server().await;
    let mut health = HealthClient::new(channel(&server).await);
    let of = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for service in ["", "chalkstream.ingest.v1.EventIngestion"] {
        let answer = health.check(of(service)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving);
    }
    assert_eq!(health.check(of("nonsense")).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(of("")).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    server.ingest.lifecycle().unready("of the test");
    let next = watched.message().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    let answer = health.check(of("")).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);

    let mut stream = open(&server, &server.key).await;
    let mut idle = open(&server, &server.key).await;
    server.log.close_gate();
    stream.send(vec![fresh(&server)]).await;
    server.log.arrived(1).await;
    let (log, lifecycle) = (Arc::clone(&server.log), server.ingest.lifecycle().clone());
    let started = Instant::now();
    let ends = async {
        let ended = idle.next().await.unwrap_err();
        check_status(&ended, Code::Unavailable, "NOT_READY", "stopping");
        assert!(lifecycle.not_ready().is_some());
        log.open_gate();
        assert_eq!(stream.tally().await, [1, 0, 0, 0]);
        let ended = stream.next().await.unwrap_err();
        check_status(&ended, Code::Unavailable, "NOT_READY", "stopping");
        drop((stream, idle));
    };
    let (drained, ()) = tokio::join!(server.shutdown(), ends);
    assert_eq!((drained.abandoned, drained.connections), (0, 0));
    assert!(started.elapsed() < LIMIT);
    server.check_conservation().await;
}
