//! Partitions that wait for a blob that a control record of theirs names.
//!
//! Always true: only such a partition waits; the others, flushes and rebalances go on.
//! Not here: what stands before the record, which is folded and written as ever.

use std::collections::BTreeMap;

use chalkstream_event_log::blobs::BlobStore;
use chalkstream_schemas::PartitionId;
use tokio::task::{AbortHandle, JoinSet};

use crate::backoff::Backoff;
use crate::fold::BlobHash;

#[derive(Debug, Default)]
pub(super) struct Waits {
    tasks: JoinSet<PartitionId>,
    of: BTreeMap<PartitionId, AbortHandle>,
}

impl Waits {
    /// Looks for the blob again and again.
    pub(super) fn begin(&mut self, partition: PartitionId, blobs: BlobStore, hash: BlobHash) {
        let task = self.tasks.spawn(async move {
            let mut backoff = Backoff::default();
            while let Err(error) = blobs.get(hash).await {
                backoff.wait(&error, "fetching the payload of a control record").await;
            }
            partition
        });
        if let Some(earlier) = self.of.insert(partition, task) {
            earlier.abort();
        }
    }

    pub(super) fn holds(&self, partition: PartitionId) -> bool {
        self.of.contains_key(&partition)
    }

    /// The partition is no longer ours, or begins anew.
    pub(super) fn forget(&mut self, partition: PartitionId) {
        if let Some(task) = self.of.remove(&partition) {
            task.abort();
        }
    }

    /// The next partition whose blob is there; `None` where none waits. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<PartitionId> {
        loop {
            // A task that was aborted is none that ended; one of before a `forget` counts no more.
            if let Ok(partition) = self.tasks.join_next().await?
                && self.of.remove(&partition).is_some()
            {
                return Some(partition);
            }
        }
    }
}
