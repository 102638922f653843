//! The port to ClickHouse: inserts of RowBinary, and streamed reads of RowBinary.
//!
//! The runtime knows only [`Tables`]; [`clickhouse`] is the real one. Every error says whether the
//! same call may succeed later, or whether the rows themselves were refused.

pub mod clickhouse;
pub mod row_binary;

use async_trait::async_trait;
use bytes::Bytes;

/// A boxed cause.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Why an insert or a read failed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The rows were refused for what they hold: the same insert will never succeed.
    #[error("ClickHouse refused rows of {table}")]
    Refused {
        /// The table.
        table: String,
        /// What it said.
        source: Cause,
    },
    /// More partitions than one insert may touch.
    #[error("an insert into {table} touches more partitions than ClickHouse takes at once")]
    TooManyPartitions {
        /// The table.
        table: String,
        /// What it said.
        source: Cause,
    },
    /// Not reachable, overloaded, out of disk, not migrated yet …: worth trying again.
    #[error("ClickHouse could not be used for {table}")]
    Unavailable {
        /// The table.
        table: String,
        /// What failed.
        source: Cause,
    },
}

/// One insert.
#[derive(Clone, Debug)]
pub struct Insert {
    /// The table's name.
    pub table: &'static str,
    /// Its columns, in the order of the rows.
    pub columns: Vec<&'static str>,
    /// Rows as RowBinary.
    pub rows: Bytes,
}

/// What the runtime needs of ClickHouse.
#[async_trait]
pub trait Tables: Send + Sync + std::fmt::Debug {
    /// Resolves when the rows are durable and visible. Within one partition of the table they
    /// become one part: all of them, or none.
    async fn insert(&self, insert: Insert) -> Result<(), TableError>;

    /// Runs a query whose rows come back as RowBinary. `table` is for error messages.
    async fn select(&self, table: &str, query: &str) -> Result<Box<dyn Rows>, TableError>;
}

/// A streamed answer.
#[async_trait]
pub trait Rows: Send {
    /// The next bytes, cut anywhere; `None` at the end of a complete answer.
    async fn chunk(&mut self) -> Result<Option<Bytes>, TableError>;
}
