//! Answers with a result: headers, and the body piece by piece.

use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use futures::stream;
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;

use super::encode::Encoder;
use super::exception;
use super::native;
use super::shape::Shape;
use crate::Exception;
use crate::libchdb::Output;

/// A result of up to this size is sent at once, with its length, its true summary, and an error in
/// it as an error's status.
const BUFFER: usize = 1 << 20;
/// The same where the client asked to wait for the end.
const BUFFER_WAIT: usize = 64 << 20;

/// Time for the end of a broken answer to leave.
const FLUSH: Duration = Duration::from_millis(200);

/// What an answer needs besides the result.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) encoder: Encoder,
    /// The format of the result, if there is one.
    pub(super) format: Option<String>,
    /// How the pieces of a stream are joined.
    pub(super) shape: Shape,
    /// The revision of Native that the client reads.
    pub(super) revision: u64,
    pub(super) version: String,
    pub(super) time_zone: String,
    pub(super) wait_end_of_query: bool,
}

impl Reply {
    /// An answer with a whole result.
    pub(super) fn whole(self, mut output: Output) -> Result<Response, Exception> {
        output.bytes = native::revise(output.bytes, self.revision())?;
        self.finished(output)
    }

    /// The revision of the result's format; 0 if it is none that has revisions.
    fn revision(&self) -> u64 {
        let native = self.format.as_deref().is_some_and(|of| of.eq_ignore_ascii_case("Native"));
        if native { self.revision } else { 0 }
    }

    fn finished(mut self, output: Output) -> Result<Response, Exception> {
        let summary = summary(&output);
        let mut body = self.encoder.push(output.bytes).map_err(not_encoded)?;
        let mut response = Response::new(Body::empty());
        self.headers(&mut response, &summary);
        body.extend(self.encoder.finish().map_err(not_encoded)?);
        *response.body_mut() = Body::from(body);
        Ok(response)
    }

    /// An answer with a result on its way.
    pub(super) async fn stream(
        self,
        mut pieces: mpsc::Receiver<Result<Output, Exception>>,
    ) -> Result<Response, Exception> {
        let limit = if self.wait_end_of_query { BUFFER_WAIT } else { BUFFER };
        let mut begun = Output::default();
        while begun.bytes.len() < limit {
            match pieces.recv().await {
                None => return self.finished(begun),
                Some(piece) => {
                    let mut piece = piece?;
                    piece.bytes = native::revise(piece.bytes, self.revision())?;
                    join(self.shape, &mut begun, piece);
                }
            }
        }
        let tag = exception_tag();
        let mut response = Response::new(Body::empty());
        self.headers(&mut response, &summary(&Output::default()));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert("x-clickhouse-exception-tag", tag);
        }
        let rest = Rest {
            revision: self.revision(),
            encoder: Some(self.encoder),
            shape: self.shape,
            version: self.version,
            tag,
            pieces,
            broken: false,
        };
        let body = stream::unfold((rest, Some(begun.bytes)), |(mut rest, begun)| async move {
            let sent = rest.next(begun).await?;
            Some((sent, (rest, None)))
        });
        *response.body_mut() = Body::from_stream(body);
        Ok(response)
    }

    fn headers(&self, response: &mut Response, summary: &str) {
        let mut add = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(HeaderName::from_static(name), value);
            }
        };
        add("x-clickhouse-server-display-name", "chalkstream");
        add("x-clickhouse-timezone", &self.time_zone);
        add("x-clickhouse-summary", summary);
        if let Some(format) = &self.format {
            add("x-clickhouse-format", format);
        }
        let content_type = self.format.as_deref().map_or("text/plain; charset=UTF-8", content_type);
        add("content-type", content_type);
        if let Some(encoding) = self.encoder.content_encoding() {
            add("content-encoding", encoding);
            add("vary", "Accept-Encoding");
        }
    }
}

fn not_encoded(error: io::Error) -> Exception {
    Exception::new(1002, "UNKNOWN_EXCEPTION", format_args!("the answer did not compress: {error}"))
}

/// Adds a piece; the first one's header is the result's.
fn join(shape: Shape, sum: &mut Output, piece: Output) {
    if sum.bytes.is_empty() {
        sum.bytes = piece.bytes;
    } else {
        sum.bytes.extend_from_slice(rows_of(shape, &piece.bytes));
    }
    sum.result_rows += piece.result_rows;
    sum.read_rows += piece.read_rows;
    sum.read_bytes += piece.read_bytes;
}

/// A later piece without its header.
fn rows_of(shape: Shape, piece: &[u8]) -> &[u8] {
    match shape {
        Shape::Rows | Shape::Document => piece,
        Shape::Headed(header) => {
            header.length(piece).and_then(|length| piece.get(length..)).unwrap_or_default()
        }
    }
}

/// What is left to send of a streamed answer.
struct Rest {
    revision: u64,
    encoder: Option<Encoder>,
    shape: Shape,
    version: String,
    tag: String,
    pieces: mpsc::Receiver<Result<Output, Exception>>,
    broken: bool,
}

impl Rest {
    /// The next bytes to send; `None` when all is said. An error in the middle is written where the
    /// client looks for it, and then the connection breaks: the answer must not look whole.
    async fn next(&mut self, begun: Option<Vec<u8>>) -> Option<io::Result<Bytes>> {
        if self.broken {
            self.encoder = None;
            // A body that breaks takes with it what waits to be sent: let the exception's text go.
            tokio::time::sleep(FLUSH).await;
            return Some(Err(io::Error::other("the query failed in the middle of its result")));
        }
        let piece = match begun {
            Some(begun) => Some(Ok(begun)),
            None => {
                let piece = self.pieces.recv().await;
                piece.map(|piece| {
                    let rows = rows_of(self.shape, &piece?.bytes).to_vec();
                    native::revise(rows, self.revision)
                })
            }
        };
        let encoder = self.encoder.as_mut()?;
        let bytes = match piece {
            Some(Ok(bytes)) => encoder.push(bytes),
            Some(Err(exception)) => {
                self.broken = true;
                encoder.push(exception::trailer(&exception, &self.version, &self.tag))
            }
            None => self.encoder.take()?.finish(),
        };
        Some(bytes.map(Bytes::from))
    }
}

/// Sixteen random letters that no result contains.
fn exception_tag() -> String {
    let letter = |byte: &u8| char::from(b'a' + byte % 26);
    uuid::Uuid::new_v4().as_bytes().iter().map(letter).collect()
}

/// The JSON of `X-ClickHouse-Summary`.
fn summary(output: &Output) -> String {
    format!(
        "{{\"read_rows\":\"{}\",\"read_bytes\":\"{}\",\"written_rows\":\"{}\",\
         \"written_bytes\":\"{}\",\"total_rows_to_read\":\"0\",\"result_rows\":\"{}\",\
         \"result_bytes\":\"{}\",\"elapsed_ns\":\"0\"}}",
        output.read_rows,
        output.read_bytes,
        output.written_rows,
        output.written_bytes,
        output.result_rows.max(output.written_rows),
        output.bytes.len()
    )
}

fn content_type(format: &str) -> &'static str {
    let starts = |prefix: &str| {
        format.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    if starts("JSON") && format.to_ascii_lowercase().ends_with("eachrow") {
        "application/x-ndjson; charset=UTF-8"
    } else if starts("JSON") {
        "application/json; charset=UTF-8"
    } else if starts("CSVWithNames") {
        "text/csv; charset=UTF-8; header=present"
    } else if starts("CSV") {
        "text/csv; charset=UTF-8; header=absent"
    } else if starts("TabSeparated") || starts("TSV") {
        "text/tab-separated-values; charset=UTF-8"
    } else if starts("XML") {
        "application/xml; charset=UTF-8"
    } else if starts("Pretty") || starts("Vertical") || starts("Values") || starts("Markdown") {
        "text/plain; charset=UTF-8"
    } else {
        "application/octet-stream"
    }
}
