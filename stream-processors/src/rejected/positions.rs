//! How far each partition of the rejected log has been written, in `rejected_positions_raw`.
//!
//! Always true: a position is behind, or at, what its rows say; never ahead.

use std::sync::Arc;

use chalkstream_event_log::LogIdentity;
use chalkstream_schemas::{LogOffset, PartitionId};

use crate::backoff::Backoff;
use crate::tables::row_binary::{self, RowReader};
use crate::tables::{Insert, TableError, Tables};

const TABLE: &str = "rejected_positions_raw";

/// The positions in one log.
#[derive(Debug)]
pub(super) struct Positions {
    tables: Arc<dyn Tables>,
    cluster_id: String,
}

impl Positions {
    pub(super) fn new(tables: Arc<dyn Tables>, log: &LogIdentity) -> Self {
        Self { tables, cluster_id: log.cluster_id.clone() }
    }

    /// The first offset that is not written yet; asked until ClickHouse answers.
    pub(super) async fn read(&self, partition: PartitionId) -> Option<LogOffset> {
        let cluster_id = self.cluster_id.bytes().map(|byte| format!("{byte:02x}"));
        let query = format!(
            "SELECT max(next_offset) FROM {TABLE} WHERE cluster_id = unhex('{}') \
             AND log_partition = {} HAVING count() > 0",
            cluster_id.collect::<String>(),
            partition.get(),
        );
        let mut backoff = Backoff::default();
        loop {
            match self.select(&query).await {
                Ok(offset) => return offset,
                Err(error) => backoff.wait(&error, "reading the position").await,
            }
        }
    }

    async fn select(&self, query: &str) -> Result<Option<LogOffset>, TableError> {
        let mut answer = self.tables.select(TABLE, query).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let offset = RowReader::new(&bytes).u64().map_err(|_incomplete| {
            let source = "a position has 8 bytes".into();
            TableError::Unavailable { table: TABLE.to_owned(), source }
        })?;
        Ok(Some(LogOffset::new(offset)))
    }

    /// Keeps how far the rows are safe; tried until ClickHouse takes it.
    pub(super) async fn write(&self, positions: &[(PartitionId, LogOffset)]) {
        let mut rows = Vec::new();
        for (partition, next) in positions {
            row_binary::put_bytes(&mut rows, self.cluster_id.as_bytes());
            row_binary::put_u32(&mut rows, partition.get());
            row_binary::put_u64(&mut rows, next.get());
        }
        let columns = vec!["cluster_id", "log_partition", "next_offset"];
        let insert = Insert { table: TABLE, columns, rows: rows.into() };
        let mut backoff = Backoff::default();
        while let Err(error) = self.tables.insert(insert.clone()).await {
            backoff.wait(&error, "writing the position").await;
        }
    }
}
