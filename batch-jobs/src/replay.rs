//! The folds over the lake: what the stream processors compute, computed again in batch.
//!
//! In: `events` as of one version, and the control records before that version's positions. Out:
//! the rows of the storage tables, from the same core code in the same order as in the stream.
//! Always true: a replay of one version gives the same rows every time; its rows are those of an
//! undisturbed processor that has read the log up to the version's positions.
//! Not here: writing them to the lake, or to ClickHouse.

pub(crate) mod arrow_rows;
pub(crate) mod events;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::error::ArrowError;
use chalkstream_core::{ControlError, PartitionState};
use chalkstream_schemas::{
    ControlBody, ControlPayload, Epoch, LogOffset, PartitionId, SchoolId, Timestamp,
};
use chrono_tz::Tz;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::SortExpr;
use datafusion::prelude::{SessionContext, col, lit};
use deltalake::DeltaTable;
use futures::TryStreamExt;

use self::arrow_rows::{ArrowRows, Batches};
use self::events::{
    CONTROL_SOURCE, EVENT_SOURCE, PlacedControl, PlacedEvent, controls_of, events_of,
};
use crate::lake::reading::{self, RowError, plain};
use crate::lake::{self, Lake, LakeTable, tail};

/// The model version before any parameters were loaded.
pub const DEFAULT_MODEL: &str = "default";

/// Why the lake could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lake failed.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// A query over the lake failed.
    #[error("the lake could not be read")]
    Query(#[from] DataFusionError),
    /// A row of the lake is not what the archiver wrote.
    #[error("the lake cannot be replayed")]
    Row(#[from] RowError),
    /// Rows could not be held.
    #[error("the rows of a fold could not be held")]
    Rows(#[from] ArrowError),
    /// A control record cannot be applied.
    #[error("the control record at offset {offset} of {partition} cannot be applied")]
    Control {
        /// In this partition.
        partition: PartitionId,
        /// At this offset.
        offset: LogOffset,
        /// Why.
        source: ControlError,
    },
}

/// The lake as of one version of `events`.
#[derive(Debug)]
pub(crate) struct Moment {
    pub(crate) version: u64,
    pub(crate) events: DeltaTable,
    /// The control records before the version's positions, by partition and offset.
    pub(crate) controls: BTreeMap<PartitionId, Vec<PlacedControl>>,
    epoch: Epoch,
}

impl Moment {
    /// Opens the version, or the newest.
    pub(crate) async fn open(
        lake: &Lake,
        version: Option<u64>,
        epoch: Epoch,
        session: &SessionContext,
    ) -> Result<Self, Error> {
        let events = lake.at(LakeTable::Events, version).await?;
        let version = events.version().unwrap_or_default();
        let mut controls = match lake.newest(LakeTable::ControlRecords).await? {
            None => BTreeMap::new(),
            Some(opened) => all_controls(&opened, session).await?,
        };
        let state =
            events.snapshot().map_err(|source| lake.failed("read", LakeTable::Events, source))?;
        let positions = tail::positions(
            lake,
            LakeTable::Events,
            state,
            &events.log_store(),
            epoch,
            controls.keys().copied().collect::<Vec<_>>(),
        )
        .await?;
        for (partition, placed) in &mut controls {
            let end = positions.get(partition).copied().unwrap_or(LogOffset::ZERO);
            placed.retain(|control| control.offset < end);
        }
        Ok(Self { version, events, controls, epoch })
    }

    /// The school's time zone: the newest setting, or UTC.
    pub(crate) fn zone(&self, school: &SchoolId) -> Tz {
        let newest = self.newest(|body| match body {
            ControlBody::SchoolSettings { school_id, time_zone, .. } => {
                (school_id == school).then(|| time_zone.clone())
            }
            ControlBody::BktParameters { .. } => None,
        });
        newest.and_then(|name| name.parse().ok()).unwrap_or(Tz::UTC)
    }

    /// The model that the school's newest answers are judged by.
    pub(crate) fn model_version(&self, school: &SchoolId) -> String {
        let newest = self.newest(|body| match body {
            ControlBody::BktParameters { school_id, model_version, .. } => {
                school_id.as_ref().is_none_or(|of| of == school).then(|| model_version.clone())
            }
            ControlBody::SchoolSettings { .. } => None,
        });
        newest.unwrap_or_else(|| DEFAULT_MODEL.to_owned())
    }

    /// What the newest control record says that the question concerns.
    fn newest<T>(&self, question: impl Fn(&ControlBody) -> Option<T>) -> Option<T> {
        self.controls
            .values()
            .flatten()
            .filter_map(|placed| {
                let record = &placed.record;
                question(&record.body).map(|answer| ((record.issued_at, record.control_id), answer))
            })
            .max_by_key(|(at, _)| *at)
            .map(|(_, answer)| answer)
    }

    /// When the newest event of the school in this version was received.
    pub(crate) async fn data_as_of(
        &self,
        school: Option<&SchoolId>,
        session: &SessionContext,
    ) -> Result<Option<Timestamp>, Error> {
        use datafusion::functions_aggregate::expr_fn::max;
        let mut frame = reading::frame(&self.events, session).await?;
        if let Some(school) = school {
            frame = frame.filter(col("school_id").eq(lit(school.as_str())))?;
        }
        let rows = frame
            .aggregate(Vec::new(), vec![max(col("received_at")).alias("received_at")])?
            .select([plain("received_at")])?
            .collect()
            .await?;
        let Some(batch) = rows.first().filter(|batch| batch.num_rows() > 0) else {
            return Ok(None);
        };
        let times = reading::Columns::new(batch).times("received_at")?;
        Ok(reading::time_of(times, 0, "received_at").ok())
    }

    /// The rows that the folds give for the wanted storage tables, of one school or of all.
    pub(crate) async fn fold(
        &self,
        school: Option<&SchoolId>,
        wanted: &[&'static str],
        session: &SessionContext,
    ) -> Result<BTreeMap<&'static str, Batches>, Error> {
        let mut frame = reading::frame(&self.events, session).await?;
        if let Some(school) = school {
            frame = frame.filter(col("school_id").eq(lit(school.as_str())))?;
        }
        let mut batches =
            frame.select(EVENT_SOURCE.map(plain))?.sort(log_order())?.execute_stream().await?;
        let mut rows = ArrowRows::new(wanted.iter().copied());
        let mut current: Option<Partition<'_>> = None;
        while let Some(batch) = batches.try_next().await? {
            for placed in events_of(&batch)? {
                if current.as_ref().is_none_or(|current| current.id != placed.partition) {
                    if let Some(finished) = current.take() {
                        finished.finish(&mut rows)?;
                    }
                    current = Some(Partition::begin(placed.partition, self));
                }
                if let Some(current) = &mut current {
                    current.event(&placed, &mut rows)?;
                }
            }
        }
        if let Some(finished) = current {
            finished.finish(&mut rows)?;
        }
        Ok(rows.finish()?)
    }
}

/// Partition by partition, in the order of offsets.
pub(crate) fn log_order() -> Vec<SortExpr> {
    vec![col("log_partition").sort(true, false), col("log_offset").sort(true, false)]
}

async fn all_controls(
    opened: &DeltaTable,
    session: &SessionContext,
) -> Result<BTreeMap<PartitionId, Vec<PlacedControl>>, Error> {
    let rows = reading::frame(opened, session)
        .await?
        .select(CONTROL_SOURCE.map(plain))?
        .sort(log_order())?
        .collect()
        .await?;
    let mut controls: BTreeMap<PartitionId, Vec<PlacedControl>> = BTreeMap::new();
    for batch in &rows {
        for control in controls_of(batch)? {
            controls.entry(control.partition).or_default().push(control);
        }
    }
    Ok(controls)
}

/// One partition while it is folded.
struct Partition<'a> {
    id: PartitionId,
    state: PartitionState,
    controls: std::iter::Peekable<std::slice::Iter<'a, PlacedControl>>,
}

impl<'a> Partition<'a> {
    fn begin(id: PartitionId, moment: &'a Moment) -> Self {
        let controls = moment.controls.get(&id).map_or(&[][..], Vec::as_slice);
        Self {
            id,
            state: PartitionState::new(id, moment.epoch),
            controls: controls.iter().peekable(),
        }
    }

    fn event(&mut self, placed: &PlacedEvent, rows: &mut ArrowRows) -> Result<(), Error> {
        self.controls_before(placed.offset, rows)?;
        self.state.apply_event(placed.offset, &placed.event, rows);
        Ok(())
    }

    fn controls_before(&mut self, end: LogOffset, rows: &mut ArrowRows) -> Result<(), Error> {
        while let Some(control) = self.controls.next_if(|control| control.offset < end) {
            let applied = self.state.apply_control(
                control.offset,
                &control.record,
                payload_of(control),
                rows,
            );
            applied.map_err(|source| Error::Control {
                partition: self.id,
                offset: control.offset,
                source,
            })?;
        }
        Ok(())
    }

    fn finish(mut self, rows: &mut ArrowRows) -> Result<(), Error> {
        self.controls_before(LogOffset::new(u64::MAX), rows)?;
        self.state.drain_rows(rows);
        Ok(())
    }
}

/// The bytes of a control record's table, wherever they were.
fn payload_of(control: &PlacedControl) -> &[u8] {
    match &control.record.body {
        ControlBody::SchoolSettings { .. } => &[],
        ControlBody::BktParameters { table, .. } => match table {
            ControlPayload::Inline(bytes) => bytes,
            ControlPayload::Blob { .. } => control.blob.as_deref().unwrap_or_default(),
        },
    }
}

/// The rows that the folds give over a version of the lake for storage tables (such as
/// `attempts_raw`), of one school or of all: what an undisturbed processor would have written.
pub async fn fold_tables(
    lake: &Lake,
    lake_version: Option<u64>,
    epoch: Epoch,
    school: Option<&SchoolId>,
    tables: &[&'static str],
) -> Result<BTreeMap<&'static str, Vec<RecordBatch>>, Error> {
    let session = reading::session()?;
    let moment = Moment::open(lake, lake_version, epoch, &session).await?;
    let folded = moment.fold(school, tables, &session).await?;
    Ok(folded.into_iter().map(|(name, rows)| (name, rows.batches)).collect())
}

/// Registers the folds' rows under a name that SQL uses.
pub(crate) fn register(
    session: &SessionContext,
    name: &str,
    rows: Batches,
) -> Result<(), DataFusionError> {
    let table = datafusion::datasource::MemTable::try_new(rows.schema, vec![rows.batches])?;
    session.register_table(name, Arc::new(table))?;
    Ok(())
}
