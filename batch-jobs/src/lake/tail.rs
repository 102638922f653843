//! The end of one Delta table, where the archiver appends: snapshot, positions, commit.
//!
//! A position is the next log offset that the table does not hold, kept as the table's application
//! transaction for (epoch, topic, partition). Delta does not refuse a second, later commit of the
//! same transaction name, so the refusal is made here: a range `from..to` is committed only on a
//! snapshot whose position is `from`, and only as the version right after that snapshot.
//! Always true: of two writers that commit the same range, one gets [`Outcome::Overtaken`] and the
//! table holds the rows once.

use std::collections::BTreeMap;

use chalkstream_schemas::{Epoch, LogOffset, PartitionId};
use deltalake::errors::DeltaTableError;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties, TransactionError};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::parquet::basic::{Compression, ZstdLevel};
use deltalake::parquet::file::properties::WriterProperties;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::table::state::DeltaTableState;
use deltalake::writer::RecordBatchWriter;
use deltalake::{DeltaTable, logstore::LogStoreRef};

use super::{Error, Lake, LakeTable};

/// Commits of others that one commit of ours gives way to before it reports a failure.
const GIVE_WAY_MAX: u32 = 100;

/// A range of one partition's log: from the first offset to the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) from: LogOffset,
    pub(crate) to: LogOffset,
}

/// What became of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The table holds the range, as this version.
    Committed(u64),
    /// Another writer moved a position of the range; nothing of ours was committed.
    Overtaken,
}

/// The name of a partition's position among the table's transactions.
pub(crate) fn app_id(epoch: Epoch, partition: PartitionId) -> String {
    format!("chalkstream/{}/chalkstream.events/{}", epoch.get(), partition.get())
}

/// The positions of partitions in one snapshot of a table.
pub(crate) async fn positions(
    lake: &Lake,
    table: LakeTable,
    state: &DeltaTableState,
    log_store: &LogStoreRef,
    epoch: Epoch,
    partitions: impl IntoIterator<Item = PartitionId>,
) -> Result<BTreeMap<PartitionId, LogOffset>, Error> {
    let mut found = BTreeMap::new();
    for partition in partitions {
        let app_id = app_id(epoch, partition);
        let version = state.transaction_version(log_store.as_ref(), &app_id).await;
        let version =
            version.map_err(|source| lake.failed("read the position of", table, source))?;
        let position = match version {
            None => LogOffset::ZERO,
            Some(position) => match u64::try_from(position) {
                Ok(position) => LogOffset::new(position),
                Err(_negative) => {
                    return Err(Error::Position { table: table.name(), app_id, position });
                }
            },
        };
        found.insert(partition, position);
    }
    Ok(found)
}

/// One table's end, as this process last saw it.
#[derive(Debug)]
pub(crate) struct Tail {
    lake: Lake,
    table: LakeTable,
    epoch: Epoch,
    opened: DeltaTable,
    state: DeltaTableState,
    positions: BTreeMap<PartitionId, LogOffset>,
}

impl Tail {
    /// The end of a table that [`Lake::for_log`] opened.
    pub(crate) fn new(
        lake: &Lake,
        table: LakeTable,
        epoch: Epoch,
        opened: DeltaTable,
    ) -> Result<Self, Error> {
        let state = opened.snapshot().map_err(|source| lake.failed("read", table, source))?.clone();
        Ok(Self { lake: lake.clone(), table, epoch, opened, state, positions: BTreeMap::new() })
    }

    /// Reads the newest snapshot and these partitions' positions in it.
    pub(crate) async fn reload(
        &mut self,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> Result<&BTreeMap<PartitionId, LogOffset>, Error> {
        let log_store = self.opened.log_store();
        let updated = self.state.update(log_store.as_ref(), None).await;
        updated.map_err(|source| self.lake.failed("read", self.table, source))?;
        self.positions =
            positions(&self.lake, self.table, &self.state, &log_store, self.epoch, partitions)
                .await?;
        Ok(&self.positions)
    }

    /// The position that the last snapshot seen has for a partition, if it was asked for.
    pub(crate) fn position(&self, partition: PartitionId) -> Option<LogOffset> {
        self.positions.get(&partition).copied()
    }

    /// A writer of Parquet files for the table. What it writes is seen by nobody until a commit.
    pub(crate) fn writer(&self) -> Result<RecordBatchWriter, Error> {
        let level = ZstdLevel::try_new(ZSTD_LEVEL).unwrap_or_default();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(level))
            .set_created_by(concat!("chalkstream ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
            .build();
        RecordBatchWriter::for_table(&self.opened)
            .map(|writer| writer.with_writer_properties(properties))
            .map_err(|source| self.lake.failed("write", self.table, source))
    }

    /// Commits files and ranges together, or nothing.
    ///
    /// Commits of others that left our positions alone (another process's partitions) are given way
    /// to. After an error the outcome is unknown: [`Tail::reload`] tells.
    pub(crate) async fn commit(
        &mut self,
        files: Vec<Add>,
        ranges: &BTreeMap<PartitionId, Range>,
    ) -> Result<Outcome, Error> {
        let log_store = self.opened.log_store();
        for _ in 0..GIVE_WAY_MAX {
            let unmoved = |(partition, range): (&PartitionId, &Range)| {
                self.positions.get(partition) == Some(&range.from)
            };
            if !ranges.iter().all(unmoved) {
                return Ok(Outcome::Overtaken);
            }
            let commit = CommitBuilder::from(self.properties(ranges))
                .with_actions(files.iter().cloned().map(Action::Add).collect())
                .build(Some(&self.state), self.opened.log_store(), append())
                .await;
            match commit {
                Ok(done) => {
                    self.state = done.snapshot;
                    for (partition, range) in ranges {
                        self.positions.insert(*partition, range.to);
                    }
                    return Ok(Outcome::Committed(done.version));
                }
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(table = self.table.name(), "another writer committed first");
                    self.reload(ranges_and_known(ranges, &self.positions)).await?;
                }
                Err(source) => return Err(self.lake.failed("commit to", self.table, source)),
            }
        }
        drop(log_store);
        let crowded =
            DeltaTableError::Generic(format!("{GIVE_WAY_MAX} commits of other writers came first"));
        Err(self.lake.failed("commit to", self.table, crowded))
    }

    fn properties(&self, ranges: &BTreeMap<PartitionId, Range>) -> CommitProperties {
        let transactions = ranges.iter().map(|(partition, range)| {
            let position = i64::try_from(range.to.get()).unwrap_or(i64::MAX);
            Transaction::new(app_id(self.epoch, *partition), position)
        });
        // No retries inside: a retry would commit on a snapshot whose positions nobody compared.
        CommitProperties::default()
            .with_max_retries(0)
            .with_cleanup_expired_logs(Some(false))
            .with_application_transactions(transactions.collect())
    }
}

const ZSTD_LEVEL: i32 = 3;
const ROW_GROUP_ROWS: usize = 128 * 1024;

fn ranges_and_known(
    ranges: &BTreeMap<PartitionId, Range>,
    known: &BTreeMap<PartitionId, LogOffset>,
) -> Vec<PartitionId> {
    let mut partitions: Vec<_> = ranges.keys().chain(known.keys()).copied().collect();
    partitions.sort_unstable();
    partitions.dedup();
    partitions
}

pub(crate) fn append() -> DeltaOperation {
    DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None }
}

fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => matches!(
            source,
            TransactionError::VersionAlreadyExists(_)
                | TransactionError::MaxCommitAttempts(_)
                | TransactionError::CommitConflict(_)
        ),
        _ => false,
    }
}
