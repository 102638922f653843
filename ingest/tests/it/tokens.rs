//! Tokens over HTTP, with an issuer that publishes its keys at a URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chalkstream_access::{Clock as _, JwtOptions};
use chalkstream_ingest::IngestOptions;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use rcgen::{KeyPair, PKCS_ED25519};
use serde_json::{Value, json};

use crate::harness::{LIMIT, Reply, Server, server_with};

/// Publishes keys, counts who asks, and signs.
struct Issuer {
    url: String,
    published: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

struct Key {
    private: EncodingKey,
    public: Vec<u8>,
}

impl Key {
    fn new() -> Self {
        let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let private = EncodingKey::from_ed_pem(pair.serialize_pem().as_bytes()).unwrap();
        Self { private, public: pair.public_key_raw().to_vec() }
    }

    fn jwk(&self, kid: &str) -> Value {
        let x = URL_SAFE_NO_PAD.encode(&self.public);
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})
    }

    fn sign(&self, server: &Server, kid: &str, change: impl FnOnce(&mut Value)) -> String {
        let mut claims = json!({
            "iss": "https://id.example", "aud": "chalkstream", "school_id": "lincoln",
            "exp": server.clock.now().as_ms() / 1000 + 300, "scope": "events:write",
        });
        change(&mut claims);
        let header = Header { kid: Some(kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &self.private).unwrap()
    }
}

impl Issuer {
    /// Answers 503 until keys are published.
    async fn start() -> Self {
        let published = Arc::new(Mutex::new(None::<Value>));
        let asked = Arc::new(AtomicUsize::new(0));
        let (keys, count) = (Arc::clone(&published), Arc::clone(&asked));
        let answer = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let keys = keys.lock().clone();
            async move { keys.map(|keys| keys.to_string()).ok_or(http::StatusCode::SERVICE_UNAVAILABLE) }
        };
        let router = axum::Router::new().route("/jwks", axum::routing::get(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        tokio::spawn(async move {
            // As axum::serve does it, for HTTP/1.
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                let stream = hyper_util::rt::TokioIo::new(stream);
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(stream, service),
                );
            }
        });
        Self { url, published, asked }
    }

    fn publish(&self, keys: &[Value]) {
        *self.published.lock() = Some(json!({ "keys": keys }));
    }

    async fn server(&self, refresh: &str) -> Server {
        let options: JwtOptions = serde_json::from_value(json!({
            "name": "portal", "issuer": "https://id.example", "audience": ["chalkstream"],
            "algorithms": ["EdDSA"], "jwks_url": self.url, "refresh": refresh,
        }))
        .unwrap();
        server_with(IngestOptions { jwt: vec![options], ..IngestOptions::default() }).await
    }
}

async fn send(server: &Server, token: &str, body: &Value) -> Reply {
    let request = server.client.post(server.url("/v1/events")).bearer_auth(token);
    let reply = Reply::of(request.json(body).send().await.unwrap()).await;
    for part in token.split('.').filter(|part| part.len() > 5) {
        assert!(!reply.body.to_string().contains(part), "{reply:?}");
    }
    reply
}

async fn becomes(server: &Server, token: &str, status: u16) -> Reply {
    let began = Instant::now();
    loop {
        let reply = send(server, token, &json!([])).await;
        if reply.status == status {
            return reply;
        }
        assert!(began.elapsed() < LIMIT, "waited for {status}: {reply:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_sends_events_as_its_claims_say() {
    let issuer = Issuer::start().await;
    let key = Key::new();
    issuer.publish(&[key.jwk("1")]);
    let server = issuer.server("1h").await;
    let token = key.sign(&server, "1", |_| {});
    let event = server.fresh();
    send(&server, &token, &event).await.check(200, [1, 0, 0, 0]);
    // A key of the same school is the same school.
    server.send(&event).await.check(200, [0, 1, 0, 0]);

    let learner = key.sign(&server, "1", |it| {
        it["scope"] = json!("events:learner");
        it["sub"] = json!("ada");
    });
    let (mine, mut other) = (server.fresh(), server.fresh());
    other["user_id"] = json!("grace");
    let reply = send(&server, &learner, &json!([mine, other])).await;
    reply.check(200, [1, 0, 1, 0]);
    assert_eq!(reply.body["results"][0]["reason"], "not_permitted");
    assert_eq!(server.rejected().await[0].key_id, "jwt:portal");

    let several = key.sign(&server, "1", |it| it["school_id"] = json!(["adams", "harbour"]));
    send(&server, &several, &json!([])).await.check_problem(
        400,
        "school-missing",
        "`adams`, `harbour`",
    );
    let scopeless = key.sign(&server, "1", |it| it["scope"] = json!("openid"));
    let reply = send(&server, &scopeless, &json!([])).await;
    reply.check_problem(403, "missing-scope", "events:write");
    assert!(!reply.body.to_string().contains("keys create"), "{reply:?}");
    server.clock.step(Duration::from_secs(361));
    let reply = send(&server, &token, &json!([])).await;
    reply.check_problem(401, "invalid-token", "expired at");
    assert!(reply.headers["www-authenticate"].to_str().unwrap().contains("invalid_token"));
    server.check_conservation().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated_is_found_and_the_old_one_forgotten() {
    let issuer = Issuer::start().await;
    let (old, new) = (Key::new(), Key::new());
    issuer.publish(&[old.jwk("old")]);
    let server = issuer.server("1s").await;
    let (first, second) = (old.sign(&server, "old", |_| {}), new.sign(&server, "new", |_| {}));
    becomes(&server, &first, 200).await;
    send(&server, &second, &json!([])).await.check_problem(401, "invalid-token", "`kid`");
    issuer.publish(&[old.jwk("old"), new.jwk("new")]);
    becomes(&server, &second, 200).await;
    send(&server, &first, &json!([])).await.check(200, [0; 4]);
    issuer.publish(&[new.jwk("new")]);
    becomes(&server, &first, 401).await;
    // While the issuer cannot be reached, what is known holds.
    *issuer.published.lock() = None;
    let failed =
        "chalkstream_ingest_token_key_refreshes_total{issuer=\"portal\",result=\"failed\"}";
    let began = Instant::now();
    while server.metric(failed).await == 0 {
        assert!(began.elapsed() < LIMIT, "no failed refresh");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    send(&server, &second, &json!([])).await.check(200, [0; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_key_has_the_keys_fetched_but_not_by_every_request() {
    let issuer = Issuer::start().await;
    let key = Key::new();
    issuer.publish(&[key.jwk("1")]);
    let server = issuer.server("1h").await;
    let token = key.sign(&server, "1", |_| {});
    becomes(&server, &token, 200).await;
    let began = Instant::now();
    let requests = (0..200).map(|number| {
        let token = key.sign(&server, &format!("unknown-{number}"), |_| {});
        let server = &server;
        async move { send(server, &token, &json!([])).await.status }
    });
    for request in requests {
        assert_eq!(request.await, 401);
    }
    let most = 2 + usize::try_from(began.elapsed().as_secs() / 10).unwrap();
    let asked = issuer.asked.load(Ordering::SeqCst);
    assert!(asked <= most, "{asked} fetches, at most {most}");
    // A key that comes later is found by the first token that names it, once that may ask again.
    let next = Key::new();
    issuer.publish(&[key.jwk("1"), next.jwk("2")]);
    becomes(&server, &next.sign(&server, "2", |_| {}), 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_cannot_be_had_are_no_fault_of_the_token() {
    let issuer = Issuer::start().await;
    let key = Key::new();
    let server = issuer.server("1h").await;
    let token = key.sign(&server, "1", |_| {});
    let reply = becomes(&server, &token, 503).await;
    reply.check_problem(503, "token-keys-unavailable", "later");
    // Write keys do not depend on it.
    server.send(&server.fresh()).await.check(200, [1, 0, 0, 0]);
    issuer.publish(&[key.jwk("1")]);
    becomes(&server, &token, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_issuer_a_token_is_told_so() {
    let server = server_with(IngestOptions::default()).await;
    let token = Key::new().sign(&server, "1", |_| {});
    send(&server, &token, &json!([])).await.check_problem(401, "invalid-token", "not taken here");
}
