//! [`Tables`] over a real ClickHouse, embedded or a server.

use async_trait::async_trait;
use bytes::Bytes;
use chalkstream_schemas::{
    ContentHash, EventId, EventIdentity, LogOffset, PartitionId, SchoolId, Timestamp, UserId,
};
use chalkstream_sql::Database;
use tokio::sync::mpsc;

use super::row_binary::RowReader;
use super::{Cause, Insert, Rows, TableError, Tables};
use crate::first_seen::{History, Seen};

/// Errors that the values of a row cause, by ClickHouse's numbers. All others may pass by
/// themselves, or once somebody acts (a missing table or column, a full disk, a wrong password),
/// and then the same insert succeeds; so only these may take a row out of the views.
const CONTENT: &[u32] = &[
    6,   // CANNOT_PARSE_TEXT
    25,  // CANNOT_PARSE_ESCAPE_SEQUENCE
    26,  // CANNOT_PARSE_QUOTED_STRING
    27,  // CANNOT_PARSE_INPUT_ASSERTION_FAILED
    32,  // ATTEMPT_TO_READ_AFTER_EOF
    33,  // CANNOT_READ_ALL_DATA
    34,  // TOO_MANY_ARGUMENTS_FOR_FUNCTION in a default expression
    38,  // CANNOT_PARSE_DATE
    41,  // CANNOT_PARSE_DATETIME
    53,  // TYPE_MISMATCH
    69,  // ARGUMENT_OUT_OF_BOUND
    70,  // CANNOT_CONVERT_TYPE
    72,  // CANNOT_PARSE_NUMBER
    117, // INCORRECT_DATA
    128, // TOO_LARGE_ARRAY_SIZE
    131, // TOO_LARGE_STRING_SIZE
    190, // SIZES_OF_ARRAYS_DONT_MATCH
    321, // VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE
    349, // CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN
    407, // DECIMAL_OVERFLOW
    441, // INVALID_PARTITION_VALUE
    467, // CANNOT_PARSE_BOOL
    469, // VIOLATED_CONSTRAINT
    632, // UNEXPECTED_DATA_AFTER_PARSED_VALUE
    691, // UNKNOWN_ELEMENT_OF_ENUM
];
/// Pieces of an answer that may wait for their reader.
const AHEAD_MAX: usize = 8;
const TOO_MANY_PARTS: u32 = 252;

/// The tables of a database.
#[derive(Clone, Debug)]
pub struct ClickHouseTables {
    database: Database,
}

impl ClickHouseTables {
    /// Those that `database` names without a prefix.
    pub fn new(database: Database) -> Self {
        Self { database }
    }
}

fn classify(table: &str, error: chalkstream_sql::Error) -> TableError {
    let table = table.to_owned();
    if let chalkstream_sql::Error::Exception { source, .. } = &error {
        if CONTENT.contains(&source.code) {
            return TableError::Refused { table, source: Box::new(error) };
        }
        if source.code == TOO_MANY_PARTS && source.message.contains("single INSERT block") {
            return TableError::TooManyPartitions { table, source: Box::new(error) };
        }
    }
    TableError::Unavailable { table, source: Box::new(error) }
}

#[async_trait]
impl Tables for ClickHouseTables {
    async fn insert(&self, insert: Insert) -> Result<(), TableError> {
        self.database
            .insert(insert.table, &insert.columns, insert.rows)
            .await
            .map_err(|error| classify(insert.table, error))
    }

    async fn select(&self, table: &str, query: &str) -> Result<Box<dyn Rows>, TableError> {
        let mut stream = self
            .database
            .query_stream(query, "RowBinary")
            .map_err(|error| classify(table, error))?;
        // Fetches ahead of the decoder, by so many pieces.
        let (pieces, received) = mpsc::channel(AHEAD_MAX);
        let of = table.to_owned();
        tokio::spawn(async move {
            loop {
                let piece = stream.next().await.map_err(|error| classify(&of, error)).transpose();
                let Some(piece) = piece else { break };
                let failed = piece.is_err();
                if pieces.send(Some(piece)).await.is_err() || failed {
                    return;
                }
            }
            // The end is said: a task that was cut off must not look like one.
            drop(pieces.send(None).await);
        });
        Ok(Box::new(Streamed { received, table: table.to_owned() }))
    }
}

struct Streamed {
    received: mpsc::Receiver<Option<Result<Bytes, TableError>>>,
    table: String,
}

#[async_trait]
impl Rows for Streamed {
    async fn chunk(&mut self) -> Result<Option<Bytes>, TableError> {
        match self.received.recv().await {
            Some(piece) => piece.transpose(),
            None => Err(TableError::Unavailable {
                table: self.table.clone(),
                source: "the answer was cut off".into(),
            }),
        }
    }
}

#[async_trait]
impl History for ClickHouseTables {
    async fn events(
        &self,
        partition: PartitionId,
        from: LogOffset,
        to: LogOffset,
        not_before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Seen>, Cause> {
        // An offset may stand twice until ClickHouse merges its copies; they are equal, and the
        // limit counts distinct offsets.
        let query = format!(
            "SELECT log_offset, toUnixTimestamp64Milli(received_at), school_id, user_id, \
             toString(id), content_hash \
             FROM events_raw \
             WHERE log_partition = {} AND log_offset >= {} AND log_offset < {} \
             AND received_at >= fromUnixTimestamp64Milli({}, 'UTC') \
             ORDER BY log_offset LIMIT 1 BY log_offset LIMIT {limit}",
            partition.get(),
            from.get(),
            to.get(),
            not_before.as_ms(),
        );
        let bytes = self.database.query_bytes(&query, "RowBinary").await?;
        let mut reader = RowReader::new(&bytes);
        let mut events = Vec::new();
        while reader.remaining() > 0 {
            events.push(read_seen(&mut reader)?);
        }
        Ok(events)
    }
}

fn read_seen(reader: &mut RowReader<'_>) -> Result<Seen, Cause> {
    let cut = |_incomplete| "a row of events_raw ends early";
    let offset = LogOffset::new(reader.u64().map_err(cut)?);
    let timestamp = Timestamp::from_ms(reader.i64().map_err(cut)?);
    let school = SchoolId::parse(std::str::from_utf8(reader.bytes().map_err(cut)?)?)?;
    let user = UserId::parse(std::str::from_utf8(reader.bytes().map_err(cut)?)?)?;
    let id = std::str::from_utf8(reader.bytes().map_err(cut)?)?;
    let (id, _original) = EventId::parse(&school, &user, id)?;
    let content_hash = ContentHash::from_bytes(reader.fixed().map_err(cut)?);
    Ok(Seen { identity: EventIdentity::of(&school, &user, id), content_hash, offset, timestamp })
}
