//! One request and what its answer means.
//!
//! Always true: an answer that does not name a fate for the batch is never taken for one.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use crate::failure::Advice;

use super::batch::Batch;

/// Requests that the server does not answer are given up and sent again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Where to send, and as whom.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    http: reqwest::Client,
    url: url::Url,
    key: crate::config::Secret,
}

/// The server's answer to a batch.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Answer {
    pub(super) accepted: u64,
    pub(super) duplicate: u64,
    pub(super) rejected: u64,
    pub(super) refused: u64,
    #[serde(default)]
    pub(super) results: Vec<EventResult>,
}

/// The fate of one event that was not accepted.
#[derive(Debug, Deserialize)]
pub(super) struct EventResult {
    pub(super) index: usize,
    pub(super) status: String,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) field: Option<String>,
    #[serde(default)]
    pub(super) message: Option<String>,
}

/// RFC 9457, as far as people need it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ProblemDocument {
    title: String,
    detail: String,
}

/// What to do after a request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Every event has its fate; what was refused may be sent again after the time given.
    Answered(Answer, Option<Duration>),
    /// Nothing is known: send all of it again, after the time given if there is one.
    Retry { why: String, after: Option<Duration> },
    /// The body is too large for this server.
    TooLarge,
    /// No later try can succeed.
    Fatal(anyhow::Error),
}

impl Target {
    /// `ca` is a file of certificates to trust beside the system's.
    pub(crate) fn new(url: &str, key: String, ca: Option<&Path>) -> anyhow::Result<Self> {
        let parsed = url::Url::parse(url).ok().filter(|url| url.has_host());
        let Some(base) = parsed.filter(|url| matches!(url.scheme(), "http" | "https")) else {
            return Err(Advice::usage(
                format!("`{url}` is no HTTP address"),
                "write it like http://127.0.0.1:8080",
            )
            .into());
        };
        let mut endpoint = base;
        let path = format!("{}/v1/events", endpoint.path().trim_end_matches('/'));
        endpoint.set_path(&path);
        let http = reqwest::Client::builder()
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("chalkstream-send/", env!("CARGO_PKG_VERSION")))
            .tls_certs_merge(ca.map_or_else(|| Ok(Vec::new()), certificates)?)
            .build()?;
        Ok(Self { http, url: endpoint, key: crate::config::Secret::new(key) })
    }

    pub(crate) fn url(&self) -> &str {
        self.url.as_str()
    }

    pub(super) async fn post(&self, batch: &Batch) -> Outcome {
        let (media_type, body) = batch.body();
        let request = self
            .http
            .post(self.url.clone())
            .bearer_auth(self.key.expose())
            .header(reqwest::header::CONTENT_TYPE, media_type)
            .body(body);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_builder() => return Outcome::Fatal(error.into()),
            Err(error) => {
                let cause = format!("{:#}", anyhow::Error::new(error.without_url()));
                if cause.contains("invalid peer certificate") {
                    let what = format!("the certificate of {} is not trusted: {cause}", self.url);
                    let hint = "give the certificate of its issuer with --ca or CHALKSTREAM_CA";
                    return Outcome::Fatal(Advice::new(what, hint).into());
                }
                let why = format!("{} does not answer: {cause}", self.url);
                return Outcome::Retry { why, after: None };
            }
        };
        let status = response.status();
        let after = retry_after(response.headers());
        let body = match response.bytes().await {
            Ok(body) => body,
            Err(error) => {
                let why = format!("the answer broke off: {}", error.without_url());
                return Outcome::Retry { why, after };
            }
        };
        self.judge(status.as_u16(), after, &body, batch.lines.len())
    }

    fn judge(&self, status: u16, after: Option<Duration>, body: &[u8], sent: usize) -> Outcome {
        match status {
            200 | 422 => match serde_json::from_slice::<Answer>(body) {
                Ok(answer) if answer.is_complete(sent) => Outcome::Answered(answer, after),
                Ok(_) | Err(_) => Outcome::Fatal(
                    Advice::new(
                        format!("{} answered {status} without the fate of every event", self.url),
                        "is this the address of a Chalkstream server?",
                    )
                    .into(),
                ),
            },
            413 => Outcome::TooLarge,
            408 | 429 | 500..=599 => {
                let problem = problem(body);
                Outcome::Retry { why: format!("{} answered {status}{problem}", self.url), after }
            }
            _ => {
                let hint = match status {
                    401 => {
                        "make a key with `chalkstream keys create --school SCHOOL`, and give it with --key or CHALKSTREAM_KEY"
                    }
                    403 => {
                        "the key lacks a scope; make one with `chalkstream keys create --school SCHOOL --scope …`"
                    }
                    404 | 405 => {
                        "is this the address of a Chalkstream server? It is printed at its start and stands in runtime.json"
                    }
                    _ => {
                        "the server takes NDJSON, or JSON: an event, an array, or {\"events\": […]}"
                    }
                };
                let what = format!("{} answered {status}{}", self.url, problem(body));
                Outcome::Fatal(Advice::new(what, hint).into())
            }
        }
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<reqwest::Certificate>> {
    let pem = std::fs::read(path).with_context(|| format!("could not read {}", path.display()))?;
    let found = reqwest::Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() {
        let what = format!("{} holds no certificate in PEM", path.display());
        let hint = "--ca takes the certificate of who issued the server's, or the server's own";
        return Err(Advice::usage(what, hint).into());
    }
    Ok(found)
}

impl Answer {
    fn is_complete(&self, sent: usize) -> bool {
        let fates = self.accepted + self.duplicate + self.rejected + self.refused;
        fates == sent as u64 && self.results.iter().all(|result| result.index < sent)
    }
}

fn problem(body: &[u8]) -> String {
    let ProblemDocument { title, detail } = serde_json::from_slice(body).unwrap_or_default();
    match (title.is_empty(), detail.is_empty()) {
        (true, true) => String::new(),
        (false, true) => format!(": {title}"),
        (true, false) => format!(": {detail}"),
        (false, false) => format!(": {title}: {detail}"),
    }
}

/// Seconds, or the time until a date.
fn retry_after(headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(status: u16, body: &str) -> Outcome {
        let target = Target::new("http://127.0.0.1:1/", "k".to_owned(), None).unwrap();
        assert_eq!(target.url(), "http://127.0.0.1:1/v1/events");
        target.judge(status, None, body.as_bytes(), 2)
    }

    #[test]
    fn an_answer_counts_only_if_it_covers_the_batch() {
        let full = r#"{"accepted":1,"duplicate":0,"rejected":1,"refused":0,"results":[]}"#;
        let short = r#"{"accepted":1,"duplicate":0,"rejected":0,"refused":0,"results":[]}"#;
        assert!(matches!(judge(200, full), Outcome::Answered(..)));
        assert!(matches!(judge(422, full), Outcome::Answered(..)));
        for wrong in [short, "{}", "<html>", ""] {
            assert!(matches!(judge(200, wrong), Outcome::Fatal(_)), "{wrong}");
        }
    }

    #[test]
    fn only_what_can_pass_is_tried_again() {
        for status in [408, 429, 500, 502, 503, 504] {
            assert!(matches!(judge(status, ""), Outcome::Retry { .. }), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 415] {
            assert!(matches!(judge(status, ""), Outcome::Fatal(_)), "{status}");
        }
        assert!(matches!(judge(413, ""), Outcome::TooLarge));
    }

    #[test]
    fn addresses_that_cannot_work_are_refused() {
        for url in ["", "localhost:8080", "ftp://host/", "http://"] {
            assert!(Target::new(url, String::new(), None).is_err(), "{url}");
        }
    }
}
