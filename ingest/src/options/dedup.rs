//! What answers clients about duplicates: section `[ingest.dedup]`.
//!
//! Always true: a URL that holds a password is shown without it, wherever it is printed or written.
//! Not here: the index itself (`event-log`). The embedded log keeps its own, for its retention.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;

use chalkstream_access::Span;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::error::OptionsError;

/// Options of the index of seen events, for a log on Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DedupOptions {
    /// Where it is.
    pub kind: DedupKind,
    /// How long an event is remembered at least, if there are not too many.
    pub horizon: Span,
    /// Most events that this node's own index remembers; the oldest go first.
    pub max_entries: NonZeroU64,
    /// Redis, for `kind = "redis"`. With a password it comes from the environment or a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url: Option<RedisUrl>,
    /// A file that holds the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url_file: Option<PathBuf>,
    /// Who may sign the server's certificate (PEM), for `rediss`; else whom the system trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_ca_file: Option<PathBuf>,
    /// Set before every key.
    pub redis_prefix: String,
    /// How long a call of Redis may take; after it this node's own index is asked alone.
    pub redis_timeout: Span,
}

/// Where the index of seen events is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DedupKind {
    /// On this node alone.
    Local,
    /// On this node, and shared with others by Redis.
    Redis,
}

impl Default for DedupOptions {
    fn default() -> Self {
        Self {
            kind: DedupKind::Local,
            horizon: Span::days(30),
            max_entries: const { NonZeroU64::new(100_000_000).expect("not zero") },
            redis_url: None,
            redis_url_file: None,
            redis_ca_file: None,
            redis_prefix: "cs:".to_owned(),
            redis_timeout: Span::millis(250),
        }
    }
}

impl DedupOptions {
    pub(super) fn validate(&self) -> Result<(), OptionsError> {
        for (key, span) in
            [("dedup.horizon", self.horizon), ("dedup.redis_timeout", self.redis_timeout)]
        {
            if span.get().is_zero() {
                return Err(OptionsError::ZeroTimeout { key });
            }
        }
        if self.kind == DedupKind::Redis && self.redis_url.is_none() {
            return Err(OptionsError::NoRedisUrl);
        }
        Ok(())
    }
}

/// The address of a Redis server, perhaps with a password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RedisUrl(Url);

impl RedisUrl {
    /// The whole of it, password included.
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it holds a password.
    pub fn is_secret(&self) -> bool {
        self.0.password().is_some()
    }
}

impl TryFrom<String> for RedisUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text itself stays out of the message: it may hold a password.
        let wrong = || "is no address of Redis, such as redis://host:6379/0 or rediss://host:6380";
        let url = Url::parse(text.trim()).map_err(|error| format!("{} ({error})", wrong()))?;
        if !["redis", "rediss"].contains(&url.scheme()) || url.host_str().is_none() {
            return Err(wrong().to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        // An address with a host can have a password.
        if self.is_secret() && shown.set_password(Some("***")).is_err() {
            return f.write_str("***");
        }
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RedisUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_shown() {
        let url = RedisUrl::try_from("redis://user:s3cret@host:6379/2".to_owned()).unwrap();
        assert!(url.is_secret() && url.expose().contains("s3cret"));
        let options = DedupOptions { redis_url: Some(url.clone()), ..DedupOptions::default() };
        let shown = format!("{url} {options:?} {}", toml::to_string(&options).unwrap());
        assert!(!shown.contains("s3cret") && shown.contains("***@host:6379/2"), "{shown}");
        let error = RedisUrl::try_from("http://:s3cret@host".to_owned()).unwrap_err();
        assert!(!error.contains("s3cret") && error.contains("redis://"), "{error}");
        assert!(!RedisUrl::try_from("rediss://host:1".to_owned()).unwrap().is_secret());
    }

    #[test]
    fn redis_needs_an_address() {
        let options = DedupOptions { kind: DedupKind::Redis, ..DedupOptions::default() };
        let error = options.validate().unwrap_err().to_string();
        assert!(error.contains("ingest.dedup.redis_url"), "{error}");
    }
}
