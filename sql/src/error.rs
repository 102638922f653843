//! What can go wrong with ClickHouse, and what the runtime and the person do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What to do with the work that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// ClickHouse cannot now (down, overloaded, out of memory or disk): try the same again later.
    Transient,
    /// The data or the statement is refused: the same again will fail the same way.
    Content,
    /// Neither waiting nor other data helps: somebody must act.
    Fatal,
}

/// An error that ClickHouse itself reported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// ClickHouse's number of the error, such as 60 for `UNKNOWN_TABLE`.
    pub code: u32,
    /// The text behind `DB::Exception: `, with the error's name in parentheses at its end.
    pub message: String,
}

/// The number that ClickHouse gives to what has none.
const UNKNOWN_EXCEPTION: u32 = 1002;

impl Exception {
    /// An exception of our own, in ClickHouse's manner.
    pub(crate) fn new(code: u32, name: &str, message: impl fmt::Display) -> Self {
        Self { code, message: format!("{message}. ({name})") }
    }

    /// Reads `Code: 60. DB::Exception: … (UNKNOWN_TABLE) (version …)`, also when it is nested.
    pub(crate) fn parse(text: &str) -> Self {
        let mut code = None;
        let mut rest = text.trim();
        while let Some((number, inner)) = split_code(rest) {
            code.get_or_insert(number);
            rest = inner;
        }
        let rest = rest.split(" (version ").next().unwrap_or(rest).trim_end();
        Self { code: code.unwrap_or(UNKNOWN_EXCEPTION), message: rest.to_owned() }
    }

    /// Whether waiting, other data, or a person helps.
    pub fn retry(&self) -> Retry {
        match self.code {
            // Timeouts, too many queries or parts, memory, disk, network, Keeper, cancelled.
            159 | 160 | 202 | 203 | 209 | 210 | 225 | 236 | 241 | 242 | 243 | 252 | 279 | 285
            | 286 | 319 | 341 | 373 | 394 | 425 | 439 | 473 | 519 | 999 => Retry::Transient,
            // The bytes do not parse as the columns say, or a value does not fit its column.
            6 | 9 | 10 | 15 | 16 | 19 | 20 | 25 | 26 | 27 | 32 | 33 | 34 | 36 | 38 | 41 | 43
            | 47 | 53 | 62 | 69 | 70 | 72 | 108 | 117 | 125 | 128 | 130 | 131 | 190 | 248 | 306
            | 321 | 349 | 353 | 407 | 436 | 441 | 467 | 469 | 470 | 471 | 632 | 636 | 661 | 691 => {
                Retry::Content
            }
            _ => Retry::Fatal,
        }
    }
}

/// `Code: 60. DB::Exception: rest` into 60 and `rest`.
fn split_code(text: &str) -> Option<(u32, &str)> {
    let (number, rest) = text.strip_prefix("Code: ")?.split_once(". ")?;
    let number = number.parse().ok()?;
    let rest = ["DB::Exception: ", "DB::NetException: ", "DB::ErrnoException: "]
        .iter()
        .find_map(|prefix| rest.strip_prefix(prefix))
        .unwrap_or(rest);
    Some((number, rest))
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code: {}. DB::Exception: {}", self.code, self.message)
    }
}

impl std::error::Error for Exception {}

/// Anything that this crate can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// libchdb runs on x86-64 Linux only.
    #[error("the embedded ClickHouse runs on x86-64 Linux only, and this is {os} on {arch}")]
    Platform { os: &'static str, arch: &'static str },
    /// The library is in none of the places where it is looked for.
    #[error("libchdb.so was not found; looked at {}", list(.looked))]
    LibraryMissing { looked: Vec<PathBuf> },
    /// The library is there and does not load.
    #[error("could not load {}", .path.display())]
    LibraryLoad { path: PathBuf, source: libloading::Error },
    /// The library already runs on another folder in this process.
    #[error(
        "this process already runs ClickHouse on {}, and a process can run one folder at a time",
        .running.display()
    )]
    EngineBusy { running: PathBuf },
    /// ClickHouse refused to open its folder.
    #[error("ClickHouse could not open {}", .path.display())]
    EngineOpen { path: PathBuf },
    /// The engine is shutting down, or its thread died.
    #[error("the embedded ClickHouse is shutting down")]
    EngineClosed,
    /// The port is taken, or may not be opened.
    #[error("could not listen on {address} for ClickHouse's HTTP interface")]
    Listen { address: std::net::SocketAddr, source: io::Error },
    /// A file could not be read or written.
    #[error("could not {doing} {}", .path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    /// `credentials.toml` is not what it should be.
    #[error("{} is not valid: {reason}", .path.display())]
    Credentials { path: PathBuf, reason: String },
    /// ClickHouse answered with an error.
    #[error("ClickHouse refused `{statement}`")]
    Exception { statement: String, source: Exception },
    /// No answer, or a broken one.
    #[error("could not talk to ClickHouse at {url}")]
    Unreachable { url: String, source: clickhouse::error::Error },
    /// The answer took too long.
    #[error("ClickHouse at {url} did not answer `{statement}` within {seconds} s")]
    Timeout { url: String, statement: String, seconds: u64 },
    /// The answer is not of the form that was asked for.
    #[error("ClickHouse's answer to `{statement}` could not be read: {reason}")]
    Answer { statement: String, reason: String },
    /// The address is not a URL, or carries what it must not.
    #[error("`{url}` is not the address of a ClickHouse: {reason}")]
    Address { url: String, reason: String },
    /// A migration that was applied has been edited since.
    #[error(
        "migration {name} was applied on {applied_at} and has changed since: its checksum was \
         {recorded} and is {found}"
    )]
    MigrationChanged { name: String, applied_at: String, recorded: String, found: String },
    /// The database knows a migration that this binary does not.
    #[error("the database has migration {name}, which this version of chalkstream does not know")]
    MigrationUnknown { name: String },
    /// A migration or view file is not well formed.
    #[error("{file}: {reason}")]
    MigrationFile { file: String, reason: String },
    /// A migration's statement failed.
    #[error("migration {name} failed at statement {statement}")]
    MigrationFailed { name: String, statement: usize, source: Box<Error> },
    /// A view could not be created.
    #[error("view {name} could not be created")]
    ViewFailed { name: String, source: Box<Error> },
    /// The database is of an older version.
    #[error("the database lacks the migrations {}", missing.join(", "))]
    NotMigrated {
        /// Their names.
        missing: Vec<String>,
    },
    /// Another process holds the migration lock.
    #[error("another process has been migrating this database for {seconds} s")]
    MigrationLocked { seconds: u64 },
}

fn list(paths: &[PathBuf]) -> String {
    let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    paths.join(", ")
}

impl Error {
    /// What the runtime does with the work that failed.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Exception { source, .. } => source.retry(),
            Self::Unreachable { .. } | Self::Timeout { .. } | Self::MigrationLocked { .. } => {
                Retry::Transient
            }
            Self::MigrationFailed { source, .. } | Self::ViewFailed { source, .. } => {
                match source.retry() {
                    Retry::Transient => Retry::Transient,
                    Retry::Content | Retry::Fatal => Retry::Fatal,
                }
            }
            Self::Platform { .. }
            | Self::LibraryMissing { .. }
            | Self::LibraryLoad { .. }
            | Self::EngineBusy { .. }
            | Self::EngineOpen { .. }
            | Self::EngineClosed
            | Self::Listen { .. }
            | Self::File { .. }
            | Self::Credentials { .. }
            | Self::Answer { .. }
            | Self::Address { .. }
            | Self::MigrationChanged { .. }
            | Self::MigrationUnknown { .. }
            | Self::NotMigrated { .. }
            | Self::MigrationFile { .. } => Retry::Fatal,
        }
    }

    /// What the person does next.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Platform { .. } => {
                Some("run on x86-64 Linux, or point `clickhouse.url` at a ClickHouse server")
            }
            Self::LibraryMissing { .. } => Some(
                "run `make libchdb`, or set CHALKSTREAM_LIBCHDB to the file, or point \
                 `clickhouse.url` at a ClickHouse server",
            ),
            Self::LibraryLoad { .. } => {
                Some("the file is damaged or of another version; run `make libchdb` again")
            }
            Self::EngineBusy { .. } => Some("stop the other embedded ClickHouse first"),
            Self::EngineOpen { .. } => Some(
                "another process may have the folder open, or it was written by a newer \
                 ClickHouse; the disk may be full",
            ),
            Self::EngineClosed => Some("start chalkstream again"),
            Self::Listen { .. } => {
                Some("another program has the port; choose one with `--clickhouse-listen`")
            }
            Self::File { .. } => Some("check that the folder exists, is writable and not full"),
            Self::Credentials { .. } => {
                Some("correct the file, or remove it to have new passwords made")
            }
            Self::Exception { source, .. } => match source.code {
                516 | 194 | 192 | 193 => Some(
                    "check `clickhouse.user` and its password (`clickhouse.password_file`); those \
                     of an embedded engine are in its credentials.toml",
                ),
                60 | 81 => Some("run `chalkstream migrate` first"),
                243 => Some("the disk is full: free some space"),
                241 => Some("ClickHouse is out of memory: wait, or give it more"),
                _ => None,
            },
            Self::Unreachable { .. } | Self::Timeout { .. } => {
                Some("check that ClickHouse runs and that `clickhouse.url` is right")
            }
            Self::Answer { .. } => None,
            Self::Address { .. } => Some("write it like http://127.0.0.1:8123"),
            Self::MigrationChanged { .. } => {
                Some("never edit an applied migration: restore the file and add a new one")
            }
            Self::MigrationUnknown { .. } => {
                Some("run the chalkstream that wrote the database, or a newer one")
            }
            Self::NotMigrated { .. } => Some("run `chalkstream migrate` first"),
            Self::MigrationFile { .. } => Some("correct the file; its name is NNNN_name.sql"),
            Self::MigrationFailed { source, .. } | Self::ViewFailed { source, .. } => source.hint(),
            Self::MigrationLocked { .. } => {
                Some("wait for it; if it died, `DROP TABLE chalkstream.schema_migrations_lock_raw`")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, code: u32, message: &str) {
        let parsed = Exception::parse(text);
        assert_eq!((parsed.code, parsed.message.as_str()), (code, message));
    }

    #[test]
    fn an_exception_is_read_from_its_text() {
        check(
            "Code: 60. DB::Exception: Table x. (UNKNOWN_TABLE) (version 26.5.1.1)\n",
            60,
            "Table x. (UNKNOWN_TABLE)",
        );
        check(
            "Code: 73. DB::Exception: Code: 73. DB::Exception: Unknown format N. (UNKNOWN_FORMAT) \
             (version 26.5.1.1). (UNKNOWN_FORMAT)",
            73,
            "Unknown format N. (UNKNOWN_FORMAT)",
        );
        check("No active streaming query", 1002, "No active streaming query");
    }

    #[test]
    fn an_outage_is_told_from_a_bad_row() {
        let of = |code| Exception { code, message: String::new() }.retry();
        assert_eq!(of(241), Retry::Transient);
        assert_eq!(of(33), Retry::Content);
        assert_eq!(of(60), Retry::Fatal);
    }
}
