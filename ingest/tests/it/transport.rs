//! Beneath HTTP: both versions on one port, TLS, and clients that hold a connection without a request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chalkstream_access::{Span, TlsOptions};
use chalkstream_ingest::IngestOptions;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::harness::{LIMIT, Server, server, server_with};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const GOAWAY: u8 = 7;

type Request = hyper::Request<Full<Bytes>>;

fn post(server: &Server, events: &Value) -> Request {
    hyper::Request::post("http://localhost/v1/events")
        .header("authorization", format!("Bearer {}", server.key))
        .header("content-type", "application/json")
        .body(Full::from(events.to_string()))
        .unwrap()
}

async fn answer(response: hyper::Response<hyper::body::Incoming>) -> (u16, Value) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

pub(crate) async fn http2_client(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> http2::SendRequest<Full<Bytes>> {
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn short_idle() -> IngestOptions {
    IngestOptions { header_timeout: Span::millis(300), ..IngestOptions::default() }
}

/// Reads until the server closes; the bytes that it sent before.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut seen = Vec::new();
    // A connection that is reset has been closed, too.
    let read = async { stream.read_to_end(&mut seen).await.ok() };
    tokio::time::timeout(LIMIT, read).await.expect("the connection stays open");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_are_served_on_one_port() {
    let server = server().await;
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut client = http2_client(stream).await;
    // Many requests at once on one connection.
    let mut sent = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let request = post(&server, &json!([server.fresh()]));
        let sending = client.send_request(request);
        sent.spawn(async move { answer(sending.await.unwrap()).await });
    }
    while let Some(answered) = sent.join_next().await {
        let (status, body) = answered.unwrap();
        assert_eq!((status, &body["accepted"]), (200, &json!(1)), "{body}");
    }
    assert_eq!(server.metric("chalkstream_ingest_connections").await, 2);
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_request_is_ended_whatever_it_began_with() {
    let server = server_with(short_idle()).await;
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // Headers that say that more follows, which never comes.
    let headers = [0, 0, 3, 1, 0, 0, 0, 0, 1, 0x82, 0x86, 0x84];
    let begun = [PREFACE, &settings].concat();
    let half_headers = [PREFACE, &settings, &headers].concat();
    let openings: [&[u8]; 6] =
        [b"", b"PRI * HT", b"POST /v1/events HT", PREFACE, &begun, &half_headers];
    for opening in openings {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(opening).await.unwrap();
        until_closed(&mut stream).await;
    }
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut client = http2_client(stream).await;
    let response = client.send_request(post(&server, &json!([]))).await.unwrap();
    assert_eq!(answer(response).await.0, 200);
    // It answers the server's pings, and is ended all the same.
    let started = Instant::now();
    while !client.is_closed() {
        assert!(started.elapsed() < LIMIT, "an idle connection stays open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_long_does_not_make_its_connection_idle() {
    let server = server_with(short_idle()).await;
    server.log.close_gate();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut client = http2_client(stream).await;
    let sent = tokio::spawn(client.send_request(post(&server, &json!([server.fresh()]))));
    server.log.arrived(1).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    server.log.open_gate();
    assert_eq!(answer(sent.await.unwrap().unwrap()).await.0, 200);
    server.check_conservation().await;
}

/// The error code of a GOAWAY among the frames, if there is one.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    while let [a, b, c, kind, _flags, _, _, _, _, rest @ ..] = frames {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let payload = rest.get(..length)?;
        if *kind == GOAWAY {
            return payload.get(4..8)?.try_into().ok().map(u32::from_be_bytes);
        }
        frames = rest.get(length..)?;
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_streams_that_are_reset_at_once_ends_the_connection() {
    let server = server().await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    let mut flood = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    for stream_id in (1_u32..2_000).step_by(2) {
        let id = stream_id.to_be_bytes();
        // HEADERS (GET / of http://a), then RST_STREAM (CANCEL).
        flood.extend([0, 0, 6, 1, 5]);
        flood.extend(id);
        flood.extend([0x82, 0x86, 0x84, 0x41, 1, b'a']);
        flood.extend([0, 0, 4, 3, 0]);
        flood.extend(id);
        flood.extend([0, 0, 0, 8]);
    }
    // The server may close before it has read all of it.
    drop(stream.write_all(&flood).await);
    let seen = until_closed(&mut stream).await;
    let enhance_your_calm = 0xb;
    assert_eq!(goaway(&seen), Some(enhance_your_calm), "{seen:?}");
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_measure_are_refused_on_their_own() {
    let server = server().await;
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut client = http2_client(stream).await;
    let mut large = post(&server, &json!([]));
    large.headers_mut().insert("x-large", "x".repeat(40 << 10).parse().unwrap());
    let refused = client.send_request(large).await;
    let refused = refused.map(|response| response.status().as_u16());
    assert!(matches!(refused, Ok(431) | Err(_)), "{refused:?}");
    let fine = client.send_request(post(&server, &json!([server.fresh()]))).await.unwrap();
    assert_eq!(answer(fine).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_the_requests_of_a_connection_finish_and_then_ends_it() {
    let mut server = server().await;
    server.log.close_gate();
    let stream = TcpStream::connect(server.address()).await.unwrap();
    let mut client = http2_client(stream).await;
    let sent = tokio::spawn(client.send_request(post(&server, &json!([server.fresh()]))));
    server.log.arrived(1).await;
    let log = Arc::clone(&server.log);
    let lifecycle = server.ingest.lifecycle().clone();
    let opens = async {
        while lifecycle.not_ready().is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        log.open_gate();
    };
    let (drained, ()) = tokio::join!(server.shutdown(), opens);
    assert_eq!((drained.abandoned, drained.connections), (0, 0));
    assert_eq!(answer(sent.await.unwrap().unwrap()).await.0, 200);
    server.check_conservation().await;
}

/// A certificate with its key, in files.
struct Identity {
    folder: tempfile::TempDir,
    pem: String,
    key: String,
}

impl Identity {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (pem, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let identity = Self { folder: tempfile::tempdir().unwrap(), pem, key };
        identity.write("cert.pem", &identity.pem);
        identity.write("key.pem", &identity.key);
        identity
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn options(&self) -> IngestOptions {
        let path = |name: &str| Some(self.folder.path().join(name));
        let tls = TlsOptions { cert: path("cert.pem"), key: path("key.pem"), client_ca: None };
        IngestOptions { tls, ..IngestOptions::default() }
    }
}

/// A handshake that trusts `issuer` alone, perhaps with a certificate of the client's own.
async fn handshake(
    server: &Server,
    issuer: &str,
    protocol: &[u8],
    own: Option<&Identity>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(issuer)).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let key = PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate(&own.pem)], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// The status of a request by HTTP/1.1, or what went wrong.
async fn get(stream: TlsStream<TcpStream>) -> Result<u16, hyper::Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get("/livez").header("host", "localhost");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    sender.send_request(request).await.map(|response| response.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_serves_both_versions_as_the_client_chooses() {
    let identity = Identity::new();
    let server = server_with(identity.options()).await;
    let stream = handshake(&server, &identity.pem, b"h2", None).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut client = http2_client(stream).await;
    let response = client.send_request(post(&server, &json!([server.fresh()]))).await.unwrap();
    assert_eq!(answer(response).await.0, 200);
    let stream = handshake(&server, &identity.pem, b"http/1.1", None).await.unwrap();
    assert_eq!(get(stream).await.unwrap(), 200);
    // Plain HTTP on the port gets no answer, and harms nobody.
    let mut plain = TcpStream::connect(server.address()).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let seen = until_closed(&mut plain).await;
    assert!(!seen.starts_with(b"HTTP/"), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_is_never_finished_is_cut_off() {
    let identity = Identity::new();
    let options = IngestOptions { header_timeout: Span::millis(300), ..identity.options() };
    let server = server_with(options).await;
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    until_closed(&mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_holds_from_the_next_connection_on() {
    let (old, new) = (Identity::new(), Identity::new());
    let server = server_with(old.options()).await;
    let open = handshake(&server, &old.pem, b"http/1.1", None).await.unwrap();
    // A key that does not fit changes nothing.
    old.write("cert.pem", &new.pem);
    let error = server.ingest.reload(old.options()).unwrap_err().to_string();
    assert!(error.contains("does not belong to"), "{error}");
    handshake(&server, &old.pem, b"http/1.1", None).await.unwrap();
    old.write("key.pem", &new.key);
    assert_eq!(server.ingest.reload(old.options()), Ok(vec!["listen"]));
    handshake(&server, &new.pem, b"http/1.1", None).await.unwrap();
    handshake(&server, &old.pem, b"http/1.1", None).await.unwrap_err();
    // Who was connected stays so.
    assert_eq!(get(open).await.unwrap(), 200);
    let error = server.ingest.reload(IngestOptions::default()).unwrap_err().to_string();
    assert!(error.contains("by a restart"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_issuer_of_clients_only_they_are_served() {
    let (identity, client) = (Identity::new(), Identity::new());
    identity.write("clients.pem", &client.pem);
    let mut options = identity.options();
    options.tls.client_ca = Some(identity.folder.path().join("clients.pem"));
    let server = server_with(options).await;
    let stream = handshake(&server, &identity.pem, b"http/1.1", Some(&client)).await.unwrap();
    assert_eq!(get(stream).await.unwrap(), 200);
    // With TLS 1.3 the client learns it at its first read.
    if let Ok(stream) = handshake(&server, &identity.pem, b"http/1.1", None).await {
        assert!(get(stream).await.is_err(), "served without a certificate");
    }
}
