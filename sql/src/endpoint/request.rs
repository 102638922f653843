//! A request's parameters, from its URL or from a form.
//!
//! Names that ClickHouse's HTTP interface knows become fields, `param_x` becomes the value of
//! `{x:Type}`, and everything else is a setting.

use http::HeaderMap;
use percent_encoding::percent_decode;

use super::auth::Claim;
use crate::Exception;

/// What a request asks, apart from its body.
#[derive(Debug, Default)]
pub(super) struct Ask {
    pub(super) query: Vec<u8>,
    pub(super) claim: Claim,
    pub(super) database: Option<String>,
    pub(super) default_format: Option<String>,
    pub(super) query_id: Option<String>,
    pub(super) session: Option<Session>,
    /// ClickHouse's own framing of the answer.
    pub(super) compress: bool,
    /// How the blocks of that framing are compressed: method, and level of ZSTD.
    pub(super) network_compression: (Option<String>, Option<String>),
    /// The level of gzip and deflate.
    pub(super) zlib_level: u32,
    /// The revision of ClickHouse's protocol whose Native the client reads; 0 without one.
    pub(super) revision: u64,
    /// ClickHouse's own framing of the body.
    pub(super) decompress: bool,
    /// The whole result before the first byte of the answer.
    pub(super) wait_end_of_query: bool,
    /// Whether the answer may be compressed as `Accept-Encoding` allows.
    pub(super) http_compression: bool,
    pub(super) parameters: Vec<(String, Vec<u8>)>,
    pub(super) settings: Vec<(String, String)>,
}

/// A session that outlives the request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) id: String,
    pub(super) timeout_seconds: u64,
    /// The session must exist.
    pub(super) check: bool,
}

/// ClickHouse's own default.
const ZLIB_LEVEL_DEFAULT: u32 = 3;
const SESSION_TIMEOUT_DEFAULT: u64 = 60;
const SESSION_TIMEOUT_MAX: u64 = 3600;

/// Names of the HTTP interface that mean nothing here: they steer buffers and progress headers,
/// or ask for what holds anyway (an insert is durable before its answer).
const IGNORED: &[&str] = &[
    "add_http_cors_header",
    "async_insert",
    "async_insert_deduplicate",
    "buffer_size",
    "cancel_http_readonly_queries_on_client_close",
    "close_session",
    "http_headers_progress_interval_ms",
    "http_native_compression_disable_checksumming_on_decompress",
    "log_comment",
    "log_queries",
    "quota_key",
    "send_progress_in_http_headers",
    "stacktrace",
    "wait_for_async_insert",
    "wait_for_async_insert_timeout",
];

fn bad(message: impl std::fmt::Display) -> Exception {
    Exception::new(36, "BAD_ARGUMENTS", message)
}

impl Ask {
    /// Reads the URL's query and the headers.
    pub(super) fn read(url_query: &str, headers: &HeaderMap) -> Result<Self, Exception> {
        let mut ask =
            Self { http_compression: true, zlib_level: ZLIB_LEVEL_DEFAULT, ..Self::default() };
        for pair in url_query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::from_utf8(decode(name))
                .map_err(|_not_text| bad("a parameter's name is not UTF-8"))?;
            ask.add(&name, decode(value))?;
        }
        if let Some(claim) = Claim::from_headers(headers)? {
            ask.claim = claim;
        }
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if ask.database.is_none() {
            ask.database = header("x-clickhouse-database").map(str::to_owned);
        }
        if ask.default_format.is_none() {
            ask.default_format = header("x-clickhouse-format").map(str::to_owned);
        }
        Ok(ask)
    }

    /// Adds one parameter of the URL or of a form.
    pub(super) fn add(&mut self, name: &str, value: Vec<u8>) -> Result<(), Exception> {
        if name == "query" {
            self.query = value;
            return Ok(());
        }
        if let Some(parameter) = name.strip_prefix("param_") {
            self.parameters.push((parameter.to_owned(), value));
            return Ok(());
        }
        let value = String::from_utf8(value)
            .map_err(|_not_text| bad(format_args!("the value of `{name}` is not UTF-8")))?;
        let some = |value: String| (!value.is_empty()).then_some(value);
        match name {
            "user" => self.claim.user = some(value),
            "password" => self.claim.password = some(value),
            "database" => self.database = some(value),
            "default_format" => self.default_format = some(value),
            "query_id" => self.query_id = some(value),
            "session_id" => self.session().id = value,
            "session_timeout" => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= SESSION_TIMEOUT_MAX);
                self.session().timeout_seconds = seconds.ok_or_else(|| {
                    Exception::new(
                        374,
                        "INVALID_SESSION_TIMEOUT",
                        format_args!("session_timeout is a number up to {SESSION_TIMEOUT_MAX}"),
                    )
                })?;
            }
            "session_check" => self.session().check = is_on(&value),
            "compress" => self.compress = is_on(&value),
            "decompress" => self.decompress = is_on(&value),
            "client_protocol_version" => self.revision = number(name, &value, u64::MAX)?,
            "network_compression_method" => self.network_compression.0 = some(value),
            "network_zstd_compression_level" => self.network_compression.1 = some(value),
            "http_zlib_compression_level" => {
                let level = number(name, &value, 9)?;
                self.zlib_level = u32::try_from(level).unwrap_or(ZLIB_LEVEL_DEFAULT);
            }
            "wait_end_of_query" => self.wait_end_of_query = is_on(&value),
            "enable_http_compression" => self.http_compression = is_on(&value),
            "role" => {
                let message = format_args!("there is no role `{value}`");
                return Err(Exception::new(511, "UNKNOWN_ROLE", message));
            }
            _ if IGNORED.contains(&name) || name.is_empty() => {}
            _ => self.settings.push((name.to_owned(), value)),
        }
        Ok(())
    }

    fn session(&mut self) -> &mut Session {
        self.session.get_or_insert_with(|| Session {
            timeout_seconds: SESSION_TIMEOUT_DEFAULT,
            ..Session::default()
        })
    }

    /// Settings in order of names, the last of a name; `readonly` at the end, because it forbids
    /// the others.
    pub(super) fn ordered_settings(&self) -> Vec<(String, String)> {
        let map: std::collections::BTreeMap<_, _> = self.settings.iter().cloned().collect();
        let (readonly, mut settings): (Vec<_>, Vec<_>) =
            map.into_iter().partition(|(name, _)| name == "readonly");
        settings.extend(readonly);
        settings
    }
}

fn number(name: &str, value: &str, most: u64) -> Result<u64, Exception> {
    let number = value.parse().ok().filter(|number| *number <= most);
    number.ok_or_else(|| bad(format_args!("the value `{value}` of `{name}` is out of range")))
}

fn is_on(value: &str) -> bool {
    !matches!(value, "" | "0" | "false")
}

fn decode(text: &str) -> Vec<u8> {
    let spaced: Vec<u8> = text.bytes().map(|byte| if byte == b'+' { b' ' } else { byte }).collect();
    percent_decode(&spaced).collect()
}

/// The fields of a `multipart/form-data` body. Files (external tables) are refused.
pub(super) fn read_form(body: &[u8], boundary: &str) -> Result<Vec<(String, Vec<u8>)>, Exception> {
    let delimiter = format!("--{boundary}");
    let mut fields = Vec::new();
    let mut rest = body;
    let find = |bytes: &[u8], needle: &[u8]| {
        bytes.windows(needle.len()).position(|window| window == needle)
    };
    let broken = || bad("the multipart/form-data body is not well formed");
    let start = find(rest, delimiter.as_bytes()).ok_or_else(broken)?;
    rest = rest.get(start + delimiter.len()..).unwrap_or_default();
    let next = format!("\r\n{delimiter}");
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n").ok_or_else(broken)?;
        let head_end = find(rest, b"\r\n\r\n").ok_or_else(broken)?;
        let head = String::from_utf8_lossy(rest.get(..head_end).unwrap_or_default()).into_owned();
        rest = rest.get(head_end + 4..).unwrap_or_default();
        let end = find(rest, next.as_bytes()).ok_or_else(broken)?;
        let value = rest.get(..end).unwrap_or_default();
        rest = rest.get(end + next.len()..).unwrap_or_default();
        if attribute(&head, "filename").is_some() {
            let message = "external tables in a form are not supported: insert into a table";
            return Err(Exception::new(48, "NOT_IMPLEMENTED", message));
        }
        fields.push((attribute(&head, "name").ok_or_else(broken)?, value.to_vec()));
    }
    Ok(fields)
}

/// `name="x"` of a part's Content-Disposition.
fn attribute(head: &str, name: &str) -> Option<String> {
    let line = head.lines().find(|line| {
        line.get(..20).is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:"))
    })?;
    line.split(';').map(str::trim).find_map(|attribute| {
        let (key, value) = attribute.split_once('=')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_sorted_into_what_they_are() {
        let url = "query=SELECT+1%20%26%00&database=d&param_x=a%FF&max_threads=2&readonly=1&b=3\
                   &session_id=s&compress=1&async_insert=1&user=u&password=p";
        let ask = Ask::read(url, &HeaderMap::new()).unwrap();
        assert_eq!(ask.query, b"SELECT 1 &\0");
        assert_eq!(ask.parameters, [("x".to_owned(), b"a\xff".to_vec())]);
        let names: Vec<_> = ask.ordered_settings().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["b", "max_threads", "readonly"]);
        assert!(ask.compress && !ask.decompress && ask.http_compression);
        assert_eq!(ask.session.unwrap().timeout_seconds, SESSION_TIMEOUT_DEFAULT);
        assert_eq!(ask.claim.user.as_deref(), Some("u"));
    }

    #[test]
    fn a_header_outranks_the_url_for_the_user() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", http::HeaderValue::from_static("Basic YTpiOmM="));
        let ask = Ask::read("user=x&password=y", &headers).unwrap();
        assert_eq!(
            (ask.claim.user.as_deref(), ask.claim.password.as_deref()),
            (Some("a"), Some("b:c"))
        );
        assert!(Ask::read("session_timeout=99999", &HeaderMap::new()).is_err());
        assert!(Ask::read("role=admin", &HeaderMap::new()).is_err());
    }

    #[test]
    fn a_form_is_read_and_a_broken_one_refused() {
        let body = b"--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n1\r\n--b\r\ncontent-disposition: form-data; name=\"param_x\"\r\nContent-Type: a\r\n\r\n\x00\xff\r\n--b--\r\n";
        let fields = read_form(body, "b").unwrap();
        assert_eq!(fields[0], ("query".to_owned(), b"SELECT\r\n1".to_vec()));
        assert_eq!(fields[1], ("param_x".to_owned(), b"\x00\xff".to_vec()));
        for end in 0..body.len() - 4 {
            assert!(read_form(&body[..end], "b").is_err(), "cut at {end}");
        }
        let file =
            b"--b\r\nContent-Disposition: form-data; name=\"t\"; filename=\"t\"\r\n\r\n1\r\n--b--";
        assert_eq!(read_form(file, "b").unwrap_err().code, 48);
    }
}
