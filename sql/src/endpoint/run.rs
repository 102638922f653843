//! Runs a request's statement on the engine, as `admin` or as `reader`.

use std::sync::Arc;

use axum::response::Response;
use http::Method;

use super::Shared;
use super::reply::Reply;
use super::request::Ask;
use super::session::{Session, SessionLease};
use super::shape::Shape;
use super::upload::Upload;
use crate::Exception;
use crate::engine::{Engine, Profile, Reuse, Role};
use crate::guard::{self, Admitted};
use crate::libchdb::{Connection, Parameters};
use crate::statement::{self, Insert, Statement};

/// The database of names without one.
pub(super) const DATABASE: &str = "chalkstream";
/// So much of a body is looked at for a statement. ClickHouse's own limit is a quarter.
const STATEMENT_MAX: u64 = 1 << 20;
const FORMAT: &str = "TabSeparated";

/// What a reader may set, by the URL alone: the form of results, and limits that only tighten.
const READER_SETTINGS: &[&str] = &[
    "cast_string_to_dynamic_use_inference",
    "date_time_input_format",
    "date_time_output_format",
    "extremes",
    "format_csv_delimiter",
    "join_use_nulls",
    "max_block_size",
    "max_execution_time",
    "max_result_bytes",
    "max_result_rows",
    "max_rows_to_read",
    "max_threads",
    "output_format_*",
    "readonly",
    "result_overflow_mode",
    "session_timezone",
    "use_client_time_zone",
];

/// A request that has been read and whose sender is known.
pub(super) struct Job {
    pub(super) role: Role,
    pub(super) method: Method,
    pub(super) ask: Ask,
    pub(super) body: Option<Upload>,
    pub(super) reply: Reply,
}

impl Job {
    /// The statement's text, as far as it can be one: the URL's query, then the body.
    fn text(&self) -> Result<Vec<u8>, Exception> {
        let mut text = self.ask.query.clone();
        if let Some(body) = &self.body {
            if !text.is_empty() {
                text.push(b'\n');
            }
            text.extend(body.head(STATEMENT_MAX).map_err(|error| unreadable(&error))?);
        }
        Ok(text)
    }

    fn format(&self, sql: &[u8]) -> String {
        let named = statement::output_format(sql).or_else(|| self.ask.default_format.clone());
        named.unwrap_or_else(|| FORMAT.to_owned())
    }
}

fn unreadable(error: &std::io::Error) -> Exception {
    Exception::new(74, "CANNOT_READ_FROM_FILE_DESCRIPTOR", error)
}

/// Runs a request to its answer.
pub(super) async fn run(shared: &Arc<Shared>, job: Job) -> Result<Response, Exception> {
    let text = job.text()?;
    let kind = statement::classify(&text);
    if kind == Statement::Empty {
        return Err(Exception::new(62, "SYNTAX_ERROR", "Syntax error: Empty query"));
    }
    match job.role {
        Role::Reader => as_reader(shared, job, text).await,
        Role::Admin => as_admin(shared, job, text, kind).await,
    }
}

async fn as_reader(
    shared: &Arc<Shared>,
    mut job: Job,
    text: Vec<u8>,
) -> Result<Response, Exception> {
    let database = job.ask.database.as_deref().unwrap_or(DATABASE);
    if ![DATABASE, "default"].contains(&database) {
        let message = format_args!("reader: there is only the database {DATABASE}");
        return Err(Exception::new(497, "ACCESS_DENIED", message));
    }
    let settings = reader_settings(job.ask.ordered_settings())?;
    let engine = &shared.engine;
    let place = Arc::new(engine.enter(Role::Reader).await?);
    let share = place.share();
    let profile = Profile { role: Role::Reader, database: DATABASE.to_owned(), settings, share };
    let parameters = std::mem::take(&mut job.ask.parameters);
    let guard_profile = Profile::plain(Role::Reader, DATABASE);
    let checker = Arc::clone(engine);
    let (sql, admitted, parameters) = engine
        .offload_in(Arc::clone(&place), move || {
            let mut connection = checker.lease(guard_profile, Reuse::Yes)?;
            let (sql, admitted) = admit(&mut connection, &text, &parameters)?;
            Ok((sql, admitted, parameters))
        })
        .await?;
    let format = job.format(&sql);
    job.reply.format = Some(format.clone());
    let lease = acquire(engine, profile.clone(), Reuse::Yes);
    if admitted == Admitted::Select && !needs_whole(&sql, &format, &profile.settings) {
        job.reply.shape = Shape::of(&format);
        let pieces = engine.stream_on(place, lease, sql, format, parameters);
        return job.reply.stream(pieces).await;
    }
    let query = move || lease()?.query(&sql, &format, &parameters);
    let output = engine.offload_in(place, query).await?;
    job.reply.whole(output)
}

/// Settings outside of the closed list are refused; read-only mode and the time limit stay.
fn reader_settings(settings: Vec<(String, String)>) -> Result<Vec<(String, String)>, Exception> {
    let listed = |name: &str| {
        READER_SETTINGS.iter().any(|of| match of.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *of,
        })
    };
    let mut kept = Vec::new();
    for (name, value) in settings {
        if !listed(&name) {
            let message = format_args!("Cannot modify '{name}' setting in readonly mode");
            return Err(Exception::new(164, "READONLY", message));
        }
        // Limits are tightened where the connection is set up.
        if name != "readonly" {
            kept.push((name, value));
        }
    }
    Ok(kept)
}

/// Has ClickHouse parse the statement, without running any of it, and asks the guard. Returns the
/// statement in its canonical form: what was checked is what runs.
fn admit(
    connection: &mut Connection,
    text: &[u8],
    parameters: &Parameters,
) -> Result<(Vec<u8>, Admitted), Exception> {
    let query = [("query".to_owned(), escape_parameter(text))];
    let canonical = connection
        .query(b"SELECT formatQuery({query:String})", "RawBLOB", &query)
        .map_err(|mut exception| {
            // The message goes on with the call that we wrapped around the statement.
            for end in [": In scope ", ": while executing "] {
                if let Some((message, _)) = exception.message.split_once(end) {
                    exception.message = format!("{message} (SYNTAX_ERROR)");
                }
            }
            exception
        })?
        .bytes;
    let explain = [b"EXPLAIN AST ".as_slice(), &canonical].concat();
    let tree = connection.query(&explain, "TSVRaw", parameters)?.bytes;
    let admitted = guard::admit(&canonical, &String::from_utf8_lossy(&tree), parameters)?;
    Ok((canonical, admitted))
}

/// Parameters' values are written like fields of TabSeparated.
fn escape_parameter(value: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(value.len());
    for byte in value {
        match byte {
            b'\\' => escaped.extend(b"\\\\"),
            b'\n' => escaped.extend(b"\\n"),
            b'\r' => escaped.extend(b"\\r"),
            b'\t' => escaped.extend(b"\\t"),
            0 => escaped.extend(b"\\0"),
            byte => escaped.push(*byte),
        }
    }
    escaped
}

/// libchdb's streams write totals, extremes and whole documents wrongly: such results are made as
/// a whole.
fn needs_whole(sql: &[u8], format: &str, settings: &[(String, String)]) -> bool {
    let special = |name: &str| ["extremes", "output_format_json_array_of_rows"].contains(&name);
    Shape::of(format) == Shape::Document
        || statement::mentions(sql, "TOTALS")
        || statement::mentions(sql, "extremes")
        || statement::mentions(sql, "output_format_json_array_of_rows")
        || settings.iter().any(|(name, value)| special(name) && value != "0")
}

/// How a pooled connection is had.
fn acquire(
    engine: &Arc<Engine>,
    profile: Profile,
    reuse: Reuse,
) -> impl FnOnce() -> Result<crate::engine::Leased, Exception> + Send + 'static {
    let engine = Arc::clone(engine);
    move || engine.lease(profile, reuse)
}

async fn as_admin(
    shared: &Arc<Shared>,
    mut job: Job,
    text: Vec<u8>,
    kind: Statement,
) -> Result<Response, Exception> {
    let insert = match kind {
        Statement::Insert(insert) => Some(insert),
        Statement::Select
        | Statement::Inspect
        | Statement::Session
        | Statement::Change
        | Statement::Empty => {
            check_admin(&text, job.body.as_ref())?;
            None
        }
    };
    let reads = matches!(kind_of(&text), Statement::Select | Statement::Inspect);
    if job.method != Method::POST && !reads {
        let message = "Cannot execute query in readonly mode. For queries over HTTP, method GET \
                       implies readonly. You should use method POST for modifying queries";
        return Err(Exception::new(164, "READONLY", message));
    }
    let session = match job.ask.session.as_ref().filter(|session| !session.id.is_empty()) {
        Some(asked) => Some(shared.sessions.take(asked)?),
        None => None,
    };
    let settings = job.ask.ordered_settings();
    let parameters = std::mem::take(&mut job.ask.parameters);
    if let Some(insert) = insert {
        let data = insert_data(shared, &mut job, &insert).await?;
        let source = Source::new(shared, &job.ask, session, settings, Reuse::Yes);
        return run_insert(shared, job, insert, data, source).await;
    }
    let statement = kind_of(&text);
    let changes_session =
        statement == Statement::Session || statement::mentions(&text, "TEMPORARY");
    let reuse = if changes_session { Reuse::No } else { Reuse::Yes };
    let format = job.format(&text);
    let streamed = statement == Statement::Select && !needs_whole(&text, &format, &settings);
    // A SET must act on the session's own settings, not on what a URL lays over them.
    let settings = if statement == Statement::Session { Vec::new() } else { settings };
    let source = Source::new(shared, &job.ask, session, settings, reuse);
    if reads {
        job.reply.format = Some(format.clone());
    }
    if streamed {
        job.reply.shape = Shape::of(&format);
        let lease = move || source.open();
        let place = Arc::new(shared.engine.enter(Role::Admin).await?);
        let pieces = shared.engine.stream_on(place, lease, text, format, parameters);
        return job.reply.stream(pieces).await;
    }
    let work = move || {
        let mut connection = source.open()?;
        let output = connection.query(&text, &format, &parameters)?;
        if statement == Statement::Session
            && let Line::Session(lease) = &mut connection
        {
            lease.keep_database()?;
        }
        Ok(output)
    };
    let output = shared.engine.offload(Role::Admin, work).await?;
    job.reply.whole(output)
}

fn kind_of(text: &[u8]) -> Statement {
    statement::classify(text)
}

/// What even `admin` does not do here, because libchdb would do it as this process.
fn check_admin(text: &[u8], body: Option<&Upload>) -> Result<(), Exception> {
    if body.is_some_and(|body| body.size() > STATEMENT_MAX) {
        let message = format_args!("Syntax error: the query is larger than {STATEMENT_MAX} bytes");
        return Err(Exception::new(62, "SYNTAX_ERROR", message));
    }
    if statement::is_several(text) {
        let message = "Syntax error (Multi-statements are not allowed): send them one by one";
        return Err(Exception::new(62, "SYNTAX_ERROR", message));
    }
    if let Some(word) =
        ["OUTFILE", "INFILE"].into_iter().find(|word| statement::mentions(text, word))
    {
        let message = format_args!("{word} is not available over HTTP: send or take the data");
        return Err(Exception::new(497, "ACCESS_DENIED", message));
    }
    if !statement::is_known(text) {
        let word = String::from_utf8_lossy(text.get(..40).unwrap_or(text)).into_owned();
        let message = format_args!("Syntax error: no statement begins like `{word}`");
        return Err(Exception::new(62, "SYNTAX_ERROR", message));
    }
    Ok(())
}

/// The data of an INSERT as a file of its own.
async fn insert_data(
    shared: &Arc<Shared>,
    job: &mut Job,
    insert: &Insert,
) -> Result<Upload, Exception> {
    let query = std::mem::take(&mut job.ask.query);
    let body = match job.body.take() {
        Some(body) => body,
        None => shared.spool.create().map_err(|error| unreadable(&error))?,
    };
    let joint = usize::from(!query.is_empty());
    let prefix = query.get(insert.data_at..).unwrap_or_default().to_vec();
    let skip = insert.data_at.saturating_sub(query.len() + joint);
    if prefix.is_empty() && skip == 0 {
        return Ok(body);
    }
    let spool = shared.spool.clone();
    let cut = move || body.splice(&spool, &prefix, skip as u64).map_err(|e| unreadable(&e));
    shared.engine.offload(Role::Admin, cut).await
}

async fn run_insert(
    shared: &Arc<Shared>,
    job: Job,
    insert: Insert,
    data: Upload,
    source: Source,
) -> Result<Response, Exception> {
    let default_format = job.ask.default_format.as_deref().unwrap_or("Values");
    let sql = insert.reading_file(&data.path().to_string_lossy(), default_format);
    let work = move || {
        let mut connection = source.open()?;
        let output = connection.query(sql.as_bytes(), "Null", &[]);
        // The file is needed until here.
        drop(data);
        output
    };
    let output = shared.engine.offload(Role::Admin, work).await?;
    job.reply.whole(output)
}

/// Where an admin's connection comes from.
struct Source {
    engine: Arc<Engine>,
    session: Option<tokio::sync::OwnedMutexGuard<Session>>,
    database: Option<String>,
    settings: Vec<(String, String)>,
    reuse: Reuse,
}

impl Source {
    fn new(
        shared: &Shared,
        ask: &Ask,
        session: Option<tokio::sync::OwnedMutexGuard<Session>>,
        settings: Vec<(String, String)>,
        reuse: Reuse,
    ) -> Self {
        let engine = Arc::clone(&shared.engine);
        Self { engine, session, database: ask.database.clone(), settings, reuse }
    }

    /// Blocks.
    fn open(self) -> Result<Line, Exception> {
        let Self { engine, session, database, settings, reuse } = self;
        if let Some(session) = session {
            let database = database.as_deref();
            let lease = SessionLease::prepare(session, &engine, database, DATABASE, &settings)?;
            return Ok(Line::Session(lease));
        }
        let database = database.unwrap_or_else(|| DATABASE.to_owned());
        let profile = Profile { settings, ..Profile::plain(Role::Admin, &database) };
        Ok(Line::Pooled(engine.lease(profile, reuse)?))
    }
}

/// An admin's connection.
enum Line {
    Pooled(crate::engine::Leased),
    Session(SessionLease),
}

impl std::ops::Deref for Line {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            Self::Pooled(lease) => lease,
            Self::Session(lease) => lease,
        }
    }
}

impl std::ops::DerefMut for Line {
    fn deref_mut(&mut self) -> &mut Connection {
        match self {
            Self::Pooled(lease) => lease,
            Self::Session(lease) => lease,
        }
    }
}
