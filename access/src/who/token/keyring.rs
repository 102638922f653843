//! The keys of one issuer: read from a file or fetched from a URL, and kept up to date.
//!
//! Always true: keys that were once known stay until a later reading succeeds; however many tokens
//! name keys that are not known, keys are fetched for them at most every ten seconds; a key of the
//! wrong kind or use is left out. A URL gives public keys alone.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::TokenError;
use super::options::{JwtError, JwtOptions, Source};

/// How long a fetch of keys may take.
const FETCH_WITHIN: Duration = Duration::from_secs(5);
/// How soon after a fetch an unknown key may cause another one.
const UNKNOWN_EVERY: Duration = Duration::from_secs(10);
/// How soon after a fetch that failed the next one is tried.
const RETRY_EVERY: Duration = Duration::from_secs(10);
const SET_MAX_BYTES: usize = 1 << 20;
/// As long as the hash: RFC 7518 forbids less.
const SECRET_MIN_BYTES: usize = 32;

/// A key, and the one algorithm that it is for.
#[derive(Clone, Debug)]
pub(super) struct VerifyKey {
    kid: Option<String>,
    algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// How often keys were read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refreshed {
    /// With success.
    pub succeeded: u64,
    /// In vain.
    pub failed: u64,
}

#[derive(Debug)]
pub(super) struct Keyring {
    name: String,
    source: Source,
    algorithms: Vec<Algorithm>,
    every: Duration,
    client: Option<reqwest::Client>,
    keys: ArcSwap<Vec<VerifyKey>>,
    /// The latest attempt, and whether it succeeded; the lock lets one attempt run at a time.
    latest: Mutex<Option<(Instant, bool)>>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Keyring {
    /// What is in a file must be right from the start; a URL may answer later.
    pub(super) fn new(options: &JwtOptions) -> Result<Self, JwtError> {
        let source = options.source()?;
        let algorithms = options.algorithms.iter().map(|algorithm| algorithm.get()).collect();
        let client = match &source {
            Source::JwksUrl(_) => Some(client().map_err(|error| options.wrong(error.to_string()))?),
            Source::JwksFile(_)
            | Source::PublicKeyFile(_)
            | Source::SecretFile(_)
            | Source::SecretEnv(_) => None,
        };
        let keyring = Self {
            name: options.name.clone(),
            source,
            algorithms,
            every: options.refresh.get(),
            client,
            keys: ArcSwap::default(),
            latest: Mutex::const_new(None),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        };
        if keyring.client.is_none() {
            let keys = keyring.read().map_err(|why| options.wrong(why))?;
            keyring.keys.store(Arc::new(keys));
        }
        Ok(keyring)
    }

    pub(super) fn refreshed(&self) -> Refreshed {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Refreshed { succeeded: count(&self.succeeded), failed: count(&self.failed) }
    }

    /// The keys that may have signed a token with this header.
    pub(super) async fn find(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<VerifyKey>, TokenError> {
        let found = self.known(kid, algorithm);
        if !found.is_empty() {
            return Ok(found);
        }
        let known_all = self.refresh(UNKNOWN_EVERY).await;
        let found = self.known(kid, algorithm);
        match (found.is_empty(), known_all) {
            (false, _) => Ok(found),
            (true, true) => Err(TokenError::UnknownKey),
            (true, false) => Err(TokenError::KeysUnavailable),
        }
    }

    fn known(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<VerifyKey> {
        let fits = |key: &&VerifyKey| {
            // A key without a name, or a token that names none, fits whatever the other says.
            let named = kid.zip(key.kid.as_deref()).is_none_or(|(asked, known)| asked == known);
            key.algorithm == algorithm && named
        };
        self.keys.load().iter().filter(fits).cloned().collect()
    }

    /// Reads the keys again, unless that was done a moment ago; says whether the latest attempt
    /// succeeded. Whoever comes meanwhile waits for the same attempt.
    async fn refresh(&self, not_within: Duration) -> bool {
        let mut latest = self.latest.lock().await;
        if let Some((at, succeeded)) = *latest
            && at.elapsed() < not_within
        {
            return succeeded;
        }
        let read = match (&self.source, &self.client) {
            (Source::JwksUrl(url), Some(client)) => self.fetch(client, url).await,
            _ => self.read(),
        };
        let succeeded = read.is_ok();
        let failing = latest.is_some_and(|(_, succeeded)| !succeeded);
        match read {
            Ok(keys) => {
                if failing {
                    tracing::info!(issuer = self.name, "the keys of an issuer of tokens are back");
                }
                self.succeeded.fetch_add(1, Ordering::Relaxed);
                self.keys.store(Arc::new(keys));
            }
            Err(why) => {
                // Once, not every time; the keys known so far stay valid.
                if !failing {
                    tracing::error!(
                        issuer = self.name,
                        why,
                        "the keys of an issuer of tokens could not be read again"
                    );
                }
                self.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
        *latest = Some((Instant::now(), succeeded));
        succeeded
    }

    fn read(&self) -> Result<Vec<VerifyKey>, String> {
        let file = |path: &Path| {
            std::fs::read(path)
                .map_err(|error| format!("could not read {}: {error}", path.display()))
        };
        match &self.source {
            Source::JwksUrl(_) => Err("a URL is fetched, not read".to_owned()),
            Source::JwksFile(path) => {
                let in_file = |why| format!("{}: {why}", path.display());
                jwk_set(&file(path)?, &self.algorithms).map_err(in_file)
            }
            Source::PublicKeyFile(path) => {
                let in_file = |why| format!("{}: {why}", path.display());
                pem(&file(path)?, &self.algorithms).map_err(in_file)
            }
            Source::SecretFile(path) => {
                let bytes = file(path)?;
                let end = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
                secret(end.strip_suffix(b"\r").unwrap_or(end), &path.display().to_string())
            }
            Source::SecretEnv(name) => {
                let value = std::env::var_os(name).ok_or_else(|| {
                    format!("the environment has no variable {name}, which should hold the secret")
                })?;
                secret(std::os::unix::ffi::OsStrExt::as_bytes(value.as_os_str()), name)
            }
        }
    }

    async fn fetch(
        &self,
        client: &reqwest::Client,
        url: &url::Url,
    ) -> Result<Vec<VerifyKey>, String> {
        let failed = |error: reqwest::Error| {
            let error = error.without_url();
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            format!("could not fetch them: {error}{}", cause.unwrap_or_default())
        };
        let mut answer = client.get(url.clone()).send().await.map_err(failed)?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(format!("the URL answered {}", answer.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > SET_MAX_BYTES {
                return Err(format!("the JWK set is larger than {SET_MAX_BYTES} bytes"));
            }
        }
        let public = |algorithm: &Algorithm| *algorithm != Algorithm::HS256;
        let algorithms = self.algorithms.iter().copied().filter(public).collect::<Vec<_>>();
        jwk_set(&body, &algorithms)
    }
}

/// Reads the keys again from time to time, until nobody holds them any more.
pub(super) fn follow(keyring: &Arc<Keyring>) {
    let keyring = Arc::downgrade(keyring);
    tokio::spawn(async move {
        loop {
            let Some(held) = keyring.upgrade() else { return };
            let pause = if held.refresh(Duration::ZERO).await { held.every } else { RETRY_EVERY };
            let pause = pause.min(held.every);
            drop(held);
            tokio::time::sleep(pause).await;
        }
    });
}

fn client() -> Result<reqwest::Client, reqwest::Error> {
    // Another address may not be as trustworthy as the one that was configured.
    let here = reqwest::redirect::Policy::none();
    reqwest::Client::builder().timeout(FETCH_WITHIN).redirect(here).build()
}

fn secret(bytes: &[u8], origin: &str) -> Result<Vec<VerifyKey>, String> {
    if bytes.len() < SECRET_MIN_BYTES {
        return Err(format!(
            "the secret in {origin} has {} bytes; HS256 needs {SECRET_MIN_BYTES} at least",
            bytes.len()
        ));
    }
    let key = DecodingKey::from_secret(bytes);
    Ok(vec![VerifyKey { kid: None, algorithm: Algorithm::HS256, key }])
}

/// The public keys of a PEM file; during a rotation it holds the old one and the new one.
fn pem(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerifyKey>, String> {
    const BEGIN: &str = "-----BEGIN ";
    let text = std::str::from_utf8(bytes).map_err(|_binary| "it is not PEM")?;
    let mut keys = Vec::new();
    for block in text.split(BEGIN).skip(1) {
        let label = block.split("-----").next().unwrap_or_default();
        if !label.ends_with("PUBLIC KEY") {
            return Err(format!("it holds a `{label}`; name a file with public keys"));
        }
        let block = format!("{BEGIN}{block}");
        let key = algorithms.iter().find_map(|algorithm| {
            let parsed = match algorithm {
                Algorithm::RS256 => DecodingKey::from_rsa_pem(block.as_bytes()),
                Algorithm::ES256 => DecodingKey::from_ec_pem(block.as_bytes()),
                Algorithm::EdDSA => DecodingKey::from_ed_pem(block.as_bytes()),
                _ => return None,
            };
            Some(VerifyKey { kid: None, algorithm: *algorithm, key: parsed.ok()? })
        });
        keys.push(key.ok_or("it holds a key that is for none of the `algorithms`")?);
    }
    if keys.is_empty() { Err("it holds no public key in PEM".to_owned()) } else { Ok(keys) }
}

/// The keys of a JWK set that are for signatures with one of the algorithms; others are for others.
fn jwk_set(bytes: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerifyKey>, String> {
    let set: Value = serde_json::from_slice(bytes).map_err(|error| {
        // Where, not what: a set in a file may hold a secret.
        format!("it is no JSON, see line {}, column {}", error.line(), error.column())
    })?;
    let keys =
        set.get("keys").and_then(Value::as_array).ok_or("it is no JWK set: no array `keys`")?;
    let keys = keys.iter().filter_map(|key| jwk(key, algorithms)).collect::<Vec<_>>();
    if keys.is_empty() {
        return Err("it holds no key for any of the `algorithms`".to_owned());
    }
    Ok(keys)
}

fn jwk(key: &Value, algorithms: &[Algorithm]) -> Option<VerifyKey> {
    let key = serde_json::from_value::<Jwk>(key.clone()).ok()?;
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            Algorithm::ES256
        }
        AlgorithmParameters::OctetKeyPair(curve) if curve.curve == EllipticCurve::Ed25519 => {
            Algorithm::EdDSA
        }
        AlgorithmParameters::OctetKey(_) => Algorithm::HS256,
        _ => return None,
    };
    let named = key.common.key_algorithm.map(|algorithm| algorithm.to_string());
    if named.is_some_and(|named| named != format!("{algorithm:?}")) {
        return None;
    }
    if key.common.public_key_use.as_ref().is_some_and(|purpose| *purpose != PublicKeyUse::Signature)
    {
        return None;
    }
    if !algorithms.contains(&algorithm) {
        return None;
    }
    let decoding = DecodingKey::from_jwk(&key).ok()?;
    if algorithm == Algorithm::HS256
        && decoding.try_get_as_bytes().is_ok_and(|secret| secret.len() < SECRET_MIN_BYTES)
    {
        return None;
    }
    Some(VerifyKey { kid: key.common.key_id, algorithm, key: decoding })
}
