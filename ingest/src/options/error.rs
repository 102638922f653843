//! Why options cannot work.

use chalkstream_access::{ByteSize, JwtError, SectionError};

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
    #[error(transparent)]
    Section(#[from] SectionError),
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
