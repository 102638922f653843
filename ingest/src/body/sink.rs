//! Where the bytes of a body go, and why there may be no more of them.

use std::io::{self, Write};

use chalkstream_access::{Full, Limit, Permit, Problem, ProblemKind};

use crate::options::IngestOptions;

/// Why reading stopped although the input was fine.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// More than `max_body`.
    TooLarge,
    /// More than there is room for now.
    Full(Full),
}

impl Stop {
    pub(crate) fn problem(self, options: &IngestOptions) -> Problem {
        match self {
            Self::TooLarge => Problem::new(
                ProblemKind::BodyTooLarge,
                format!(
                    "the body is larger than {} (counted after decompression); send fewer events at a time",
                    options.max_body
                ),
            ),
            Self::Full(Full::Process) => Problem::new(
                ProblemKind::Busy,
                "too many bytes are on their way to the log; send the request again after Retry-After",
            )
            .retry_after(options.retry_after.get())
            .over(Limit::ProcessBytes),
            Self::Full(Full::Credential) => Problem::new(
                ProblemKind::RateLimited,
                "the key has too many bytes on their way to the log; send the request again after Retry-After, and fewer at once",
            )
            .retry_after(options.retry_after.get())
            .over(Limit::CredentialBytes),
        }
    }
}

/// Takes decompressed bytes up to the limit, and asks for room before it grows.
#[derive(Debug)]
pub(super) struct Sink {
    pub(super) bytes: Vec<u8>,
    pub(super) max_bytes: usize,
    pub(super) permit: Permit,
    pub(super) stop: Option<Stop>,
}

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let length = self.bytes.len().saturating_add(data.len());
        let stop = if length > self.max_bytes {
            Stop::TooLarge
        } else if let Err(full) = self.permit.cover(length) {
            Stop::Full(full)
        } else {
            self.bytes.extend_from_slice(data);
            return Ok(data.len());
        };
        self.stop = Some(stop);
        Err(io::Error::other("stopped at a limit"))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
