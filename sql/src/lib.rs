//! ClickHouse for Chalkstream: embedded as a library, or a server, behind one handle.
//!
//! [`EmbeddedServer`] loads libchdb and serves ClickHouse's HTTP interface over it; [`Database`] is
//! a handle on a ClickHouse by HTTP, embedded or real; [`migrations`] brings either to the schema
//! in `migrations/` and `views/`.
//!
//! Always true: whoever is not `admin` reads the views and nothing else (`guard.rs` decides
//! from the parsed statement, and ClickHouse's own grants and read-only mode decide again).
//! Not here: what the tables mean (the SQL files) and who writes them (stream-processors).

mod credentials;
mod database;
mod endpoint;
mod engine;
mod error;
mod guard;
mod lexer;
mod libchdb;
pub mod migrations;
mod statement;

pub use credentials::Credentials;
pub use database::Database;
pub use endpoint::{EmbeddedOptions, EmbeddedServer, ReaderLimits};
pub use error::{Error, Exception, Retry};
pub use libchdb::{VERSION as LIBCHDB_VERSION, locate as locate_libchdb};
