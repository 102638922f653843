//! What can be configured about ingest: section `[ingest]` of `chalkstream.toml`.
//!
//! Always true: every limit has a default that is safe on a laptop; an unknown key is an error;
//! sizes and durations carry their unit in the text (`"64KiB"`, `"400d"`).
//! Not here: where the configuration comes from (the binary), and keys.

mod dedup;
mod error;

use std::num::NonZeroUsize;

use chalkstream_access::{
    ByteSize, CorsOptions, JwtOptions, KeysOptions, LimitsOptions, MetricsOptions, Options, Span,
    TlsOptions, check_issuers,
};
use serde::{Deserialize, Serialize};

pub use self::dedup::{DedupKind, DedupOptions, RedisUrl};
pub use self::error::OptionsError;

/// Options of ingest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestOptions {
    /// Address to listen on; port 0 takes a free one.
    pub listen: String,
    /// Most events in one request; above it the answer is 413.
    pub max_events: NonZeroUsize,
    /// Largest body after decompression; above it the answer is 413.
    pub max_body: ByteSize,
    /// Largest body as it is sent, compressed or not; above it the answer is 413.
    pub max_compressed_body: ByteSize,
    /// Largest event; above it the event is rejected as `event_too_large`.
    pub max_event: ByteSize,
    /// Oldest event taken from a key without `events:backfill`; older is `too_old`.
    pub max_age: Span,
    /// The longest life of a token, from its `iat`, or until its `exp` where it has none; zero is any.
    pub max_token_age: Span,
    /// How far ahead of the server's clock an event may be; further is `in_future`.
    pub max_future: Span,
    /// Decompressed bytes of all requests in flight; above it the answer is 503. Parsed and encoded
    /// events take about three times as much memory beside them.
    pub max_in_flight: ByteSize,
    /// Most open connections; above it new ones wait to be accepted.
    pub max_connections: NonZeroUsize,
    /// How long a client may take to send a request's headers, and may leave a connection idle.
    pub header_timeout: Span,
    /// How long a client may take to send a body; after it the answer is 408.
    pub body_timeout: Span,
    /// How long the log may take to acknowledge; after it the answer is 503.
    pub request_timeout: Span,
    /// What `Retry-After` tells clients, in whole seconds.
    pub retry_after: Span,
    /// How long a shutdown waits for requests in flight.
    pub drain_timeout: Span,
    /// Where write keys are kept.
    pub keys: KeysOptions,
    /// Which web pages may send.
    pub cors: CorsOptions,
    /// Whose tokens are taken.
    pub jwt: Vec<JwtOptions>,
    /// How much may come in from one credential, learner or school.
    pub limits: LimitsOptions,
    /// TLS of the port.
    pub tls: TlsOptions,
    /// Who may read `/metrics`.
    pub metrics: MetricsOptions,
    /// What answers clients about duplicates.
    pub dedup: DedupOptions,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8080".to_owned(),
            max_events: const { NonZeroUsize::new(5_000).expect("not zero") },
            max_body: ByteSize::mib(10),
            max_compressed_body: ByteSize::mib(10),
            max_event: ByteSize::kib(64),
            max_age: Span::days(400),
            max_token_age: Span::days(1),
            max_future: Span::secs(600),
            max_in_flight: ByteSize::mib(256),
            max_connections: const { NonZeroUsize::new(10_000).expect("not zero") },
            header_timeout: Span::secs(60),
            body_timeout: Span::secs(30),
            request_timeout: Span::secs(30),
            retry_after: Span::secs(1),
            drain_timeout: Span::secs(20),
            keys: KeysOptions::default(),
            cors: CorsOptions::default(),
            jwt: Vec::new(),
            limits: LimitsOptions::default(),
            tls: TlsOptions::default(),
            metrics: MetricsOptions::default(),
            dedup: DedupOptions::default(),
        }
    }
}

macro_rules! fixed {
    ($($key:ident,)*) => {
        impl IngestOptions {
            /// Keys that are read once, at the start: a reload does not change them.
            pub const FIXED: &[&str] = &[$(stringify!($key),)*];

            /// With the fixed keys of the options that are in use.
            pub fn with_fixed_of(mut self, old: &Self) -> Self {
                self.keep_fixed(old);
                self
            }

        }

        impl Options for IngestOptions {
            type Error = OptionsError;

            fn validate(&self) -> Result<(), OptionsError> {
                Self::validate(self)
            }

            fn keep_fixed(&mut self, old: &Self) -> Vec<&'static str> {
                let mut kept = Vec::new();
                $(if self.$key != old.$key {
                    self.$key.clone_from(&old.$key);
                    kept.push(stringify!($key));
                })*
                kept
            }
        }
    };
}

fixed! {
    listen,
    max_connections,
    max_in_flight,
    keys,
    cors,
    jwt,
    max_token_age,
    dedup,
}

impl IngestOptions {
    /// Checks what no single key can show.
    pub fn validate(&self) -> Result<(), OptionsError> {
        let Self { max_event, max_body, max_in_flight, .. } = *self;
        if max_event > max_body {
            return Err(OptionsError::EventAboveBody { max_event, max_body });
        }
        if max_in_flight < max_body {
            return Err(OptionsError::InFlightBelowBody { max_in_flight, max_body });
        }
        for (key, span) in [
            ("header_timeout", self.header_timeout),
            ("body_timeout", self.body_timeout),
            ("request_timeout", self.request_timeout),
        ] {
            if span.get().is_zero() {
                return Err(OptionsError::ZeroTimeout { key });
            }
        }
        self.cors.check().map_err(|message| OptionsError::Origin { message })?;
        check_issuers(&self.jwt)?;
        let percent = self.limits.credential_in_flight_percent;
        if percent > 100 {
            return Err(OptionsError::AboveHundredPercent { percent });
        }
        self.tls.validate("ingest.tls")?;
        self.dedup.validate()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_survives_toml_and_unknown_keys_do_not() {
        let default = IngestOptions::default();
        default.validate().unwrap();
        let text = toml::to_string(&default).unwrap();
        assert_eq!(toml::from_str::<IngestOptions>(&text).unwrap(), default);
        assert_eq!(toml::from_str::<IngestOptions>("").unwrap(), default);
        let error = toml::from_str::<IngestOptions>("max_evnts = 3").unwrap_err();
        assert!(error.to_string().contains("max_evnts"), "{error}");
        assert!(toml::from_str::<IngestOptions>("max_events = 0").is_err());
    }

    #[test]
    fn limits_that_contradict_each_other_are_named() {
        let check = |options: IngestOptions, part: &str| {
            let error = options.validate().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        let default = IngestOptions::default;
        check(IngestOptions { max_event: ByteSize::mib(11), ..default() }, "max_event");
        check(IngestOptions { max_in_flight: ByteSize::mib(9), ..default() }, "max_in_flight");
        check(IngestOptions { body_timeout: Span::secs(0), ..default() }, "body_timeout");
        let limits =
            LimitsOptions { credential_in_flight_percent: 101, ..LimitsOptions::default() };
        check(IngestOptions { limits, ..default() }, "credential_in_flight_percent");
    }
}
