//! A handle on a ClickHouse by HTTP: embedded or a real server, no difference.
//!
//! In: statements, and rows in RowBinary. Out: results as bytes or JSON, and errors that tell an
//! outage from a refused row ([`Error::retry`]).
//! Always true: one [`Database::insert`] is one block, so one part a partition and all or nothing
//! within it.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use clickhouse::{Client, Compression};
use serde_json::Value;
use url::Url;

use crate::{Error, Exception};

/// Inserts and statements that take longer are given up, and may be tried again.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// So much of a statement goes into an error.
const STATEMENT_SHOWN: usize = 200;

/// A ClickHouse that can be written to and asked.
#[derive(Clone)]
pub struct Database {
    client: Client,
    url: String,
    user: String,
    database: String,
    exclusive: bool,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("url", &self.url)
            .field("user", &self.user)
            .field("password", &"***")
            .field("database", &self.database)
            .finish_non_exhaustive()
    }
}

impl Database {
    /// A handle; nothing is asked of ClickHouse yet.
    pub fn new(url: &str, user: &str, password: &str, database: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Address {
            url: url.split_once('@').map_or(url, |(_, host)| host).to_owned(),
            reason: reason.to_owned(),
        };
        let parsed = Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
        if parsed.scheme() != "http" {
            return Err(wrong("it does not begin with http://"));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(wrong("user and password belong into their own keys"));
        }
        let local = parsed.host_str().is_some_and(is_loopback);
        let compression = if local { Compression::None } else { Compression::Lz4 };
        let client = Client::default()
            .with_url(url)
            .with_user(user)
            .with_password(password)
            .with_database(database)
            .with_compression(compression)
            .with_product_info("chalkstream", env!("CARGO_PKG_VERSION"));
        Ok(Self {
            client,
            url: url.to_owned(),
            user: user.to_owned(),
            database: database.to_owned(),
            exclusive: false,
        })
    }

    /// The same, where no other process can reach the database: migrations need no lock.
    pub(crate) fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    pub(crate) fn is_exclusive(&self) -> bool {
        self.exclusive
    }

    /// The same in another database of the same ClickHouse.
    pub fn with_database(&self, database: &str) -> Self {
        Self {
            client: self.client.clone().with_database(database),
            database: database.to_owned(),
            ..self.clone()
        }
    }

    /// The official client, for typed rows.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Address of the HTTP interface.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database that names without one belong to.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Inserts rows in RowBinary as one block: all of them are stored, or none.
    pub async fn insert(&self, table: &str, columns: &[&str], rows: Bytes) -> Result<(), Error> {
        let columns: Vec<String> = columns.iter().map(|column| quote(column)).collect();
        let table = table.split('.').map(quote).collect::<Vec<_>>().join(".");
        let statement = format!("INSERT INTO {table} ({}) FORMAT RowBinary", columns.join(", "));
        let huge = u32::MAX.to_string();
        let mut insert = self
            .client
            .insert_formatted_with(statement.clone())
            .with_setting("async_insert", "0")
            .with_setting("input_format_parallel_parsing", "0")
            .with_setting("max_insert_threads", "1")
            .with_setting("max_insert_block_size", huge.as_str())
            .with_setting("min_insert_block_size_rows", huge.as_str())
            .with_setting("min_insert_block_size_bytes", "0");
        let work = async {
            insert.send(rows).await?;
            insert.end().await
        };
        self.within(&statement, work).await
    }

    /// Runs a statement whose result is of no interest.
    pub async fn execute(&self, sql: &str) -> Result<(), Error> {
        let query = self.client.query(&literal(sql));
        self.within(sql, query.execute()).await
    }

    /// Runs a query and gives its rows as JSON objects, 64-bit integers as numbers.
    pub async fn query_json(&self, sql: &str) -> Result<Vec<Value>, Error> {
        let query = self
            .client
            .clone()
            .with_setting("output_format_json_quote_64bit_integers", "0")
            .query(&literal(sql));
        let bytes = self.within(sql, async { query.fetch_bytes("JSONEachRow")?.collect().await });
        let bytes = bytes.await?;
        let rows = serde_json::Deserializer::from_slice(&bytes).into_iter::<Value>();
        rows.collect::<Result<_, _>>()
            .map_err(|error| Error::Answer { statement: shown(sql), reason: error.to_string() })
    }

    /// Runs a query and gives its whole result in a ClickHouse format.
    pub async fn query_bytes(&self, sql: &str, format: &str) -> Result<Bytes, Error> {
        let query = self.client.query(&literal(sql));
        self.within(sql, async { query.fetch_bytes(format)?.collect().await }).await
    }

    /// Runs a query and gives its result in a ClickHouse format as it arrives.
    pub fn query_stream(&self, sql: &str, format: &str) -> Result<QueryStream, Error> {
        let cursor = self.client.query(&literal(sql)).fetch_bytes(format);
        let cursor = cursor.map_err(|error| self.error(sql, error))?;
        Ok(QueryStream { cursor, database: self.clone(), statement: sql.to_owned() })
    }

    async fn within<T>(
        &self,
        sql: &str,
        work: impl Future<Output = Result<T, clickhouse::error::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(ANSWER_TIMEOUT, work).await {
            Ok(done) => done.map_err(|error| self.error(sql, error)),
            Err(_elapsed) => Err(Error::Timeout {
                url: self.url.clone(),
                statement: shown(sql),
                seconds: ANSWER_TIMEOUT.as_secs(),
            }),
        }
    }

    fn error(&self, sql: &str, error: clickhouse::error::Error) -> Error {
        match error {
            clickhouse::error::Error::BadResponse(text) if text.contains("Code: ") => {
                let from = text.find("Code: ").unwrap_or(0);
                let source = Exception::parse(text.get(from..).unwrap_or(&text));
                Error::Exception { statement: shown(sql), source }
            }
            source => Error::Unreachable { url: self.url.clone(), source },
        }
    }
}

/// A result on its way.
pub struct QueryStream {
    cursor: clickhouse::query::BytesCursor,
    database: Database,
    statement: String,
}

impl fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryStream")
            .field("statement", &shown(&self.statement))
            .finish_non_exhaustive()
    }
}

impl QueryStream {
    /// The next piece, or `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let piece = self.cursor.next().await;
        piece.map_err(|error| self.database.error(&self.statement, error))
    }
}

/// Question marks are the client's placeholders; doubled they are question marks.
fn literal(sql: &str) -> String {
    sql.replace('?', "??")
}

fn quote(name: &str) -> String {
    format!("`{}`", name.replace('\\', "\\\\").replace('`', "\\`"))
}

fn shown(sql: &str) -> String {
    let sql = sql.trim();
    match sql.char_indices().nth(STATEMENT_SHOWN) {
        Some((end, _)) => format!("{}…", sql.get(..end).unwrap_or(sql)),
        None => sql.to_owned(),
    }
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_with_secrets_is_refused_without_showing_them() {
        let error = Database::new("http://a:secret@host:8123", "admin", "x", "d").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
        assert!(Database::new("clickhouse", "a", "b", "c").is_err());
        let database = Database::new("http://127.0.0.1:1", "admin", "hunter2", "d").unwrap();
        assert!(!format!("{database:?}").contains("hunter2"));
    }

    #[test]
    fn long_statements_are_cut_between_characters() {
        assert_eq!(shown(&"é".repeat(300)).chars().count(), STATEMENT_SHOWN + 1);
    }
}
