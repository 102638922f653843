//! How a body is compressed, as its headers say.

use chalkstream_access::{Problem, ProblemKind, printable};
use http::{HeaderMap, header};

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
    Brotli,
    Deflate,
}

impl Encoding {
    /// From `Content-Encoding`.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let unsupported = |what: &str| {
            let detail = format!(
                "the content encoding {what} is not supported; send gzip, zstd, br, deflate, or the body as it is"
            );
            Problem::new(ProblemKind::UnsupportedEncoding, detail)
        };
        let mut found = Self::Identity;
        for value in headers.get_all(header::CONTENT_ENCODING) {
            let text = value.to_str().map_err(|_binary| unsupported("(not plain text)"))?;
            for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
                let encoding = match name.to_ascii_lowercase().as_str() {
                    "identity" => continue,
                    "gzip" | "x-gzip" => Self::Gzip,
                    "zstd" => Self::Zstd,
                    "br" => Self::Brotli,
                    "deflate" => Self::Deflate,
                    _ => return Err(unsupported(&format!("`{}`", printable(name)))),
                };
                if found != Self::Identity {
                    return Err(unsupported("of several layers"));
                }
                found = encoding;
            }
        }
        Ok(found)
    }
}
