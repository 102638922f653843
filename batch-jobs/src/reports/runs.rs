//! The lake's table `report_runs`: what was run, over which version, with which SQL.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use chalkstream_schemas::SchoolId;
use deltalake::DeltaTable;
use deltalake::errors::DeltaTableError;
use deltalake::kernel::Action;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::writer::{DeltaWriter, RecordBatchWriter};

use super::{Error, ReportRun};
use crate::lake::{Lake, LakeTable, tail};

const TABLE: LakeTable = LakeTable::ReportRuns;

/// Adds the run to the table.
pub(super) async fn record(lake: &Lake, school: &SchoolId, run: &ReportRun) -> Result<(), Error> {
    let opened = lake.writable(TABLE).await?;
    append(&opened, school, run)
        .await
        .map_err(|source| lake.failed("add a run to", TABLE, source))?;
    Ok(())
}

async fn append(
    opened: &DeltaTable,
    school: &SchoolId,
    run: &ReportRun,
) -> Result<(), DeltaTableError> {
    let mut writer = RecordBatchWriter::for_table(opened)?;
    writer.write(row(school, run)?).await?;
    let files = writer.flush().await?;
    // Rows of runs do not depend on each other: whoever commits meanwhile is given way to.
    CommitBuilder::from(CommitProperties::default())
        .with_actions(files.into_iter().map(Action::Add).collect())
        .build(Some(opened.snapshot()?), opened.log_store(), tail::append())
        .await?;
    Ok(())
}

fn row(school: &SchoolId, run: &ReportRun) -> Result<RecordBatch, DeltaTableError> {
    let text = |value: String| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let count = |value: Option<i64>| -> ArrayRef { Arc::new(Int64Array::from(vec![value])) };
    let time = |us: Option<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(vec![us]).with_timezone("UTC"))
    };
    let json = |value: Result<String, serde_json::Error>| {
        value.map_err(|error| DeltaTableError::Generic(error.to_string()))
    };
    let columns = vec![
        text(run.run_id.to_string()),
        text(run.report.clone()),
        text(school.to_string()),
        text(json(serde_json::to_string(&run.parameters))?),
        count(i64::try_from(run.lake_version).ok()),
        text(run.sql_hash.clone()),
        text(run.model_version.clone()),
        time(run.data_as_of.map(chalkstream_schemas::Timestamp::as_us)),
        count(i64::try_from(run.rows).ok()),
        text(json(serde_json::to_string(&run.files))?),
        time(Some(chrono::Utc::now().timestamp_micros())),
    ];
    Ok(RecordBatch::try_new(TABLE.schema(), columns)?)
}
