//! What can be configured about ingest: section `[ingest]` of `chalkstream.toml`.
//!
//! Always true: every limit has a default that is safe on a laptop; an unknown key is an error;
//! sizes and durations carry their unit in the text (`"64KiB"`, `"400d"`).
//! Not here: where the configuration comes from (the binary), and keys ([`crate::keys`]).

mod dedup;

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use self::dedup::{DedupKind, DedupOptions, RedisUrl};
use crate::cors::CorsOptions;
use crate::keys::KeysOptions;
use crate::limits::LimitsOptions;
use crate::routes::metrics::MetricsOptions;
use crate::tls::TlsOptions;
use crate::token::{JwtError, JwtOptions};

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

            /// Takes the fixed keys from `old`, and names those that would have changed.
            pub(crate) fn keep_fixed(&mut self, old: &Self) -> Vec<&'static str> {
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
    dedup,
}

/// Options that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// One event could never be admitted.
    #[error("ingest.max_event ({max_event}) is larger than ingest.max_body ({max_body})")]
    EventAboveBody {
        /// The event limit.
        max_event: ByteSize,
        /// The body limit.
        max_body: ByteSize,
    },
    /// A body of the largest size could never be admitted.
    #[error(
        "ingest.max_in_flight ({max_in_flight}) is smaller than one body of ingest.max_body ({max_body})"
    )]
    InFlightBelowBody {
        /// The limit on all requests.
        max_in_flight: ByteSize,
        /// The limit on one body.
        max_body: ByteSize,
    },
    /// What a section asks for cannot be done.
    #[error("{section}: {what}")]
    Section {
        /// The section at fault.
        section: &'static str,
        /// What is wrong with it, as a sentence.
        what: String,
    },
    /// A time-out of zero answers every request with an error.
    #[error("ingest.{key} must be longer than zero")]
    ZeroTimeout {
        /// The key at fault.
        key: &'static str,
    },
    /// No browser sends such an origin.
    #[error("ingest.cors.origins: {message}")]
    Origin {
        /// Which, and how to write it.
        message: String,
    },
    /// An issuer of tokens that cannot work as it is configured.
    #[error(transparent)]
    Jwt(#[from] JwtError),
    /// Nobody can have more than all.
    #[error("ingest.limits.credential_in_flight_percent ({percent}) is more than 100")]
    AboveHundredPercent {
        /// As configured.
        percent: u8,
    },
    /// Redis without its address.
    #[error("ingest.dedup.kind is \"redis\", but ingest.dedup.redis_url is not set")]
    NoRedisUrl,
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
        crate::token::check(&self.jwt)?;
        let percent = self.limits.credential_in_flight_percent;
        if percent > 100 {
            return Err(OptionsError::AboveHundredPercent { percent });
        }
        self.tls.validate()?;
        self.dedup.validate()
    }
}

/// A number of bytes, written as `"10MiB"`, `"64KiB"`, `"512B"` or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(usize);

const SIZE_UNITS: [(&str, usize); 4] =
    [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// So many bytes.
    pub const fn bytes(bytes: usize) -> Self {
        Self(bytes)
    }

    /// So many times 1,024 bytes.
    pub const fn kib(kib: usize) -> Self {
        Self(kib << 10)
    }

    /// So many times 1,048,576 bytes.
    pub const fn mib(mib: usize) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    pub const fn get(self) -> usize {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) = SIZE_UNITS
            .into_iter()
            .find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size))
            .unwrap_or(("B", 1));
        write!(f, "{}{unit}", self.0 / size)
    }
}

impl std::str::FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let size = match unit {
            "" => Some(1),
            unit => SIZE_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size),
        };
        number
            .parse::<usize>()
            .ok()
            .zip(size)
            .and_then(|(number, size)| number.checked_mul(size))
            .map(Self)
            .ok_or_else(|| {
                format!("`{text}` is no size; write it like \"10MiB\", \"64KiB\" or \"512B\"")
            })
    }
}

/// A length of time, written as `"400d"`, `"10m"`, `"30s"` or `"250ms"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(Duration);

const SPAN_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// So many days of 24 hours.
    pub const fn days(days: u64) -> Self {
        Self(Duration::from_secs(days * 86_400))
    }

    /// So many seconds.
    pub const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// So many milliseconds.
    pub const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let (unit, size) = SPAN_UNITS
            .into_iter()
            .find(|(_, size)| ms > 0 && ms.is_multiple_of(u128::from(*size)))
            .unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / u128::from(size))
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let size = SPAN_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, size)| *size);
        number
            .parse::<u64>()
            .ok()
            .zip(size)
            .and_then(|(number, size)| number.checked_mul(size))
            .map(|ms| Self(Duration::from_millis(ms)))
            .ok_or_else(|| {
                format!(
                    "`{text}` is no duration; write it like \"400d\", \"10m\", \"30s\" or \"250ms\""
                )
            })
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    (number, unit.trim_start())
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size such as \"10MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
                usize::try_from(bytes).map(ByteSize).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
                usize::try_from(bytes).map(ByteSize).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_read_back_what_they_print() {
        for text in ["10MiB", "64KiB", "512B", "1GiB", "1025B", "0B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
        for text in ["400d", "10m", "30s", "250ms", "36h", "0ms"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("1500".parse::<ByteSize>().unwrap().get(), 1500);
        for text in ["", "10", "10 parsecs", "-1s", "99999999999999999999d"] {
            assert!(text.parse::<Span>().unwrap_err().contains("400d"), "{text}");
        }
        for text in ["", "10MB", "-1", "99999999999GiB", "é"] {
            assert!(text.parse::<ByteSize>().unwrap_err().contains("10MiB"), "{text}");
        }
    }

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
