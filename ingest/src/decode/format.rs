//! What a body is, by its `Content-Type`.

use chalkstream_access::{Problem, ProblemKind, printable};
use http::{HeaderMap, header};

/// What a body of `/v1/events` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// One event, an array of events, or a batch object.
    Json,
    /// One event a line.
    Ndjson,
    /// A message `EventBatch`.
    Protobuf,
}

impl Format {
    /// From `Content-Type`. A beacon, whose key is in the query, may come as plain text: that is how
    /// browsers send one without asking the server first.
    pub(crate) fn of(headers: &HeaderMap, beacon: bool) -> Result<Self, Problem> {
        const SEND: &str = "send `application/json` (an event, an array of events, or {\"events\": […]}), `application/x-ndjson` (an event a line) or `application/x-protobuf` (an EventBatch)";
        match media_type(headers, SEND)?.as_str() {
            "application/json" => Ok(Self::Json),
            "text/plain" if beacon => Ok(Self::Json),
            "text/plain" => {
                let what = "`text/plain` is for browsers' beacons, whose key is in the query";
                Err(unsupported(what, SEND))
            }
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines" => Ok(Self::Ndjson),
            "application/x-protobuf"
            | "application/protobuf"
            | "application/vnd.google.protobuf" => Ok(Self::Protobuf),
            name => Err(holds_none(name, SEND)),
        }
    }

    /// Whether a body of Segment's routes is JSON, which some SDKs call plain text.
    pub(crate) fn check_segment(headers: &HeaderMap) -> Result<(), Problem> {
        const SEND: &str = "send `application/json`";
        match media_type(headers, SEND)?.as_str() {
            "application/json" | "text/plain" => Ok(()),
            name => Err(holds_none(name, SEND)),
        }
    }
}

/// The media type in lower case; a charset other than UTF-8 is refused.
fn media_type(headers: &HeaderMap, send: &str) -> Result<String, Problem> {
    let value = headers
        .get(header::CONTENT_TYPE)
        .ok_or_else(|| unsupported("there is no `Content-Type` header", send))?;
    let text =
        value.to_str().map_err(|_binary| unsupported("`Content-Type` is not plain text", send))?;
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next().unwrap_or_default().to_ascii_lowercase();
    for parameter in parts {
        let Some((key, value)) = parameter.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        if key.trim().eq_ignore_ascii_case("charset")
            && !["utf-8", "utf8", "us-ascii"].iter().any(|ok| value.eq_ignore_ascii_case(ok))
        {
            let what =
                format!("the charset `{}` is not supported, JSON is UTF-8", printable(value));
            return Err(unsupported(&what, send));
        }
    }
    Ok(name)
}

fn holds_none(name: &str, send: &str) -> Problem {
    unsupported(&format!("the content type `{}` holds no events", printable(name)), send)
}

fn unsupported(what: &str, send: &str) -> Problem {
    Problem::new(ProblemKind::UnsupportedType, format!("{what}; {send}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, text.parse().unwrap());
        headers
    }

    #[track_caller]
    fn check(text: &str, expected: Format) {
        assert_eq!(Format::of(&headers(text), false), Ok(expected), "{text}");
        assert_eq!(Format::of(&headers(text), true), Ok(expected), "{text}");
    }

    #[track_caller]
    fn check_unsupported(read: Result<Format, Problem>, part: &str) {
        let problem = read.unwrap_err();
        assert_eq!(problem.kind(), ProblemKind::UnsupportedType);
        assert!(problem.detail().contains(part), "{problem:?}");
        assert!(problem.detail().contains("application/x-ndjson"), "{problem:?}");
    }

    #[test]
    fn the_content_type_says_how_to_read() {
        check("application/json", Format::Json);
        check("Application/JSON; charset=\"UTF-8\"", Format::Json);
        check("application/json;", Format::Json);
        check("application/x-ndjson", Format::Ndjson);
        check("application/jsonl; charset=utf-8", Format::Ndjson);
        check("application/x-protobuf", Format::Protobuf);
        check("application/vnd.google.protobuf", Format::Protobuf);
        let of = |text: &str| Format::of(&headers(text), true);
        check_unsupported(of("application/json; charset=latin1"), "charset `latin1`");
        check_unsupported(of("application/x-www-form-urlencoded"), "holds no events");
        check_unsupported(Format::of(&HeaderMap::new(), true), "no `Content-Type`");
    }

    #[test]
    fn plain_text_is_for_beacons_and_for_segment() {
        let beacon = headers("text/plain;charset=UTF-8");
        assert_eq!(Format::of(&beacon, true), Ok(Format::Json));
        check_unsupported(Format::of(&beacon, false), "browsers' beacons");
        assert_eq!(Format::check_segment(&beacon), Ok(()));
        assert_eq!(Format::check_segment(&headers("application/json")), Ok(()));
        assert!(Format::check_segment(&headers("application/x-ndjson")).is_err());
    }
}
