//! The lake as memory of events that the log has trimmed, for the index of duplicates.

use std::error::Error;

use async_trait::async_trait;
use chalkstream_schemas::{EventIdentity, LogOffset, PartitionId, SchoolId, Timestamp, UserId};
use chalkstream_stream_processors::first_seen::{History, Seen};
use datafusion::prelude::col;

use crate::lake::reading::{
    self, Columns, RowError, event_id_of, hash_of, in_range, offset_of, plain, time_of, timestamp,
};
use crate::lake::{Lake, LakeTable};

/// The events that the lake holds.
#[derive(Clone, Debug)]
pub(super) struct LakeHistory {
    lake: Lake,
}

impl LakeHistory {
    pub(super) fn new(lake: Lake) -> Self {
        Self { lake }
    }
}

#[async_trait]
impl History for LakeHistory {
    async fn events(
        &self,
        partition: PartitionId,
        from: LogOffset,
        to: LogOffset,
        not_before: Timestamp,
        limit: usize,
    ) -> Result<Vec<Seen>, Box<dyn Error + Send + Sync>> {
        let Some(opened) = self.lake.newest(LakeTable::Events).await? else {
            return Ok(Vec::new());
        };
        let session = reading::session()?;
        let names = ["school_id", "user_id", "id", "content_hash", "log_offset", "received_at"];
        let rows = reading::frame(&opened, &session)
            .await?
            .filter(
                in_range(partition, from, to).and(col("received_at").gt_eq(timestamp(not_before))),
            )?
            .select(names.map(plain))?
            .sort(vec![col("log_offset").sort(true, false)])?
            .limit(0, Some(limit))?
            .collect()
            .await?;
        let mut events = Vec::new();
        for batch in &rows {
            let columns = Columns::new(batch);
            let (schools, users) = (columns.texts("school_id")?, columns.texts("user_id")?);
            let (ids, hashes) = (columns.texts("id")?, columns.bytes("content_hash")?);
            let (offsets, times) = (columns.integers("log_offset")?, columns.times("received_at")?);
            for row in 0..batch.num_rows() {
                let school = SchoolId::parse(schools.required(row)?)
                    .map_err(|_id_error| RowError { column: "school_id" })?;
                let user = UserId::parse(users.required(row)?)
                    .map_err(|_id_error| RowError { column: "user_id" })?;
                events.push(Seen {
                    identity: EventIdentity::of(&school, &user, event_id_of(ids.required(row)?)?),
                    content_hash: hash_of(hashes, row)?,
                    offset: offset_of(offsets, row)?,
                    timestamp: time_of(times, row, "received_at")?,
                });
            }
        }
        Ok(events)
    }
}
