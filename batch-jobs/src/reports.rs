//! Reports: SQL files over the lake, run by DataFusion, written for people and spreadsheets.
//!
//! In: a report's name, a school, a range of days, formats. Out: `<out>/<report>.csv` and `.xlsx`,
//! `<report>.meta.json` beside them, and a row in the lake's table `report_runs`.
//! Always true: the figures are those of one version of the lake, named in every run; what is asked
//! for reaches SQL as bound values, never as text.
//! SQL sees: `events` (the lake's table), `attempts` (from the folds), `interactions`, the functions
//! `school_day(time)` and `school_hour(time)`, and the values `$school`, `$from_at`, `$to_at` (the
//! range as instants, the second excluded), `$course`, `$classroom` ('' for all).
//! Not here: PDF, schedules, delivery.

mod manifest;
mod output;
mod runs;
pub(crate) mod zone;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use chalkstream_core::folds::attempts::AttemptRow;
use chalkstream_core::row::TableRow;
use chalkstream_schemas::{ClassroomId, CourseId, Epoch, SchoolId, Timestamp};
use chrono::NaiveDate;
use datafusion::common::ParamValues;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use datafusion::scalar::ScalarValue;
use serde::Serialize;
use uuid::Uuid;

use self::manifest::{INTERACTIONS, REPORTS, Report};
use self::output::Rows;
use crate::lake::{self, Lake, reading};
use crate::replay::{self, Moment, arrow_rows};

pub use self::manifest::{CellKind, Manifest, Parameter, ReportColumn};
pub use self::output::OutputError;

/// A file format of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// Comma-separated values: header and rows.
    Csv,
    /// An Excel workbook.
    Xlsx,
}

impl Format {
    /// The file name's end, which is also its name on the command line.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Xlsx => "xlsx",
        }
    }
}

impl std::str::FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        match name {
            "csv" => Ok(Self::Csv),
            "xlsx" => Ok(Self::Xlsx),
            other => Err(Error::Format { name: other.to_owned() }),
        }
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct ReportRequest {
    /// The report's name.
    pub report: String,
    /// The school.
    pub school: SchoolId,
    /// The first day, in the school's zone.
    pub from: NaiveDate,
    /// The last day, in the school's zone, included.
    pub to: NaiveDate,
    /// Only this course.
    pub course: Option<CourseId>,
    /// Only this classroom.
    pub classroom: Option<ClassroomId>,
    /// Which files to write; the JSON is written always.
    pub formats: Vec<Format>,
    /// The folder to write to; it is made where it is missing.
    pub out: PathBuf,
    /// A version of the lake's `events`, or the newest.
    pub lake_version: Option<u64>,
    /// The epoch whose positions bound the control records.
    pub epoch: Epoch,
}

/// What was run; `<report>.meta.json` holds the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReportRun {
    /// Names the run.
    pub run_id: Uuid,
    /// The report's name.
    pub report: String,
    /// What was asked for, and the time zone that followed.
    pub parameters: BTreeMap<&'static str, String>,
    /// The version of the lake's `events` that the figures come from.
    pub lake_version: u64,
    /// BLAKE3 of the SQL.
    pub sql_hash: String,
    /// The model that the newest answers are judged by.
    pub model_version: String,
    /// When the school's newest event in that version was received; `None` if it has none.
    pub data_as_of: Option<Timestamp>,
    /// Rows of the report.
    pub rows: usize,
    /// The files written.
    pub files: Vec<PathBuf>,
}

/// Why a report was not made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such report.
    #[error("there is no report {name:?}; there are {known}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// The names there are.
        known: String,
    },
    /// No such format.
    #[error("a report cannot be written as {name:?}; the formats are csv and xlsx")]
    Format {
        /// The format asked for.
        name: String,
    },
    /// The range is empty.
    #[error("the range ends ({to}) before it begins ({from})")]
    Range {
        /// Its first day.
        from: NaiveDate,
        /// Its last day.
        to: NaiveDate,
    },
    /// The report's description cannot be read.
    #[error("the manifest of the report {report} cannot be read")]
    Manifest {
        /// The report.
        report: &'static str,
        /// Why.
        source: toml::de::Error,
    },
    /// The lake failed.
    #[error(transparent)]
    Lake(#[from] lake::Error),
    /// The folds over the lake failed.
    #[error(transparent)]
    Replay(#[from] replay::Error),
    /// The SQL failed.
    #[error("the SQL of the report {report} failed")]
    Sql {
        /// The report.
        report: &'static str,
        /// Why.
        source: Box<DataFusionError>,
    },
    /// A file could not be written.
    #[error("could not write {}", path.display())]
    Output {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: OutputError,
    },
}

impl Error {
    /// Whether the person asked for what cannot be: exit code 2.
    #[must_use]
    pub const fn is_usage(&self) -> bool {
        match self {
            Self::Unknown { .. } | Self::Format { .. } | Self::Range { .. } => true,
            Self::Manifest { .. }
            | Self::Lake(_)
            | Self::Replay(_)
            | Self::Sql { .. }
            | Self::Output { .. } => false,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unknown { .. } => Some("`chalkstream report list` describes them"),
            Self::Format { name } if name == "pdf" => {
                Some("PDF comes with a later version; ask for csv,xlsx")
            }
            Self::Format { .. } => Some("write for example --format csv,xlsx"),
            Self::Range { .. } => Some("give --from the earlier day and --to the later one"),
            Self::Lake(error) | Self::Replay(replay::Error::Lake(error)) => error.hint(),
            Self::Output { .. } => Some("choose another folder with --out, or make room"),
            Self::Manifest { .. } | Self::Replay(_) | Self::Sql { .. } => None,
        }
    }
}

/// Every report, by name.
pub fn list() -> Result<Vec<Manifest>, Error> {
    REPORTS.iter().map(manifest_of).collect()
}

fn manifest_of(report: &Report) -> Result<Manifest, Error> {
    report.manifest().map_err(|source| Error::Manifest { report: report.name, source })
}

/// Runs a report and writes its files.
pub async fn run(lake: &Lake, request: &ReportRequest) -> Result<ReportRun, Error> {
    let report = Report::named(&request.report).ok_or_else(|| Error::Unknown {
        name: request.report.clone(),
        known: REPORTS.iter().map(|report| report.name).collect::<Vec<_>>().join(", "),
    })?;
    if request.to < request.from {
        return Err(Error::Range { from: request.from, to: request.to });
    }
    let manifest = manifest_of(&report)?;
    let session = reading::session().map_err(replay::Error::from)?;
    let moment = Moment::open(lake, request.lake_version, request.epoch, &session).await?;
    let zone = moment.zone(&request.school);
    let batches = query(&session, &moment, &report, request, zone).await?;
    let rows = Rows::new(&manifest, &batches)
        .map_err(|source| Error::Output { path: request.out.clone(), source })?;
    let mut run = ReportRun {
        run_id: Uuid::now_v7(),
        report: report.name.to_owned(),
        parameters: parameters_of(request, zone),
        lake_version: moment.version,
        sql_hash: report.sql_hash(),
        model_version: moment.model_version(&request.school),
        data_as_of: moment.data_as_of(Some(&request.school), &session).await?,
        rows: rows.cells.len(),
        files: Vec::new(),
    };
    write_files(&rows, request, &mut run)?;
    runs::record(lake, &request.school, &run).await?;
    Ok(run)
}

fn parameters_of(request: &ReportRequest, zone: chrono_tz::Tz) -> BTreeMap<&'static str, String> {
    let mut parameters = BTreeMap::from([
        ("school", request.school.to_string()),
        ("from", request.from.to_string()),
        ("to", request.to.to_string()),
        ("time_zone", zone.name().to_owned()),
    ]);
    if let Some(course) = &request.course {
        parameters.insert("course", course.to_string());
    }
    if let Some(classroom) = &request.classroom {
        parameters.insert("classroom", classroom.to_string());
    }
    parameters
}

/// The report's rows, in its order.
async fn query(
    session: &SessionContext,
    moment: &Moment,
    report: &Report,
    request: &ReportRequest,
    zone: chrono_tz::Tz,
) -> Result<Vec<RecordBatch>, Error> {
    let sql_error = |source| Error::Sql { report: report.name, source: Box::new(source) };
    let events = reading::provider(&moment.events, session).await.map_err(sql_error)?;
    session.register_table("events", events).map_err(sql_error)?;
    let storage = AttemptRow::TABLE;
    let mut folded = moment.fold(Some(&request.school), &[storage], session).await?;
    let attempts = folded.remove(storage).unwrap_or_else(|| arrow_rows::Batches {
        schema: arrow_rows::schema_of(AttemptRow::COLUMNS),
        batches: Vec::new(),
    });
    replay::register(session, "attempts", attempts).map_err(sql_error)?;
    for function in zone::functions(zone) {
        session.register_udf(function);
    }
    let view = session.sql(INTERACTIONS).await.map_err(sql_error)?.into_view();
    session.register_table("interactions", view).map_err(sql_error)?;
    let from_at = zone::day_start(zone, request.from);
    let to_at = zone::day_end(zone, request.to);
    let text = |text: Option<&str>| ScalarValue::Utf8(Some(text.unwrap_or_default().to_owned()));
    let time =
        |at: Timestamp| ScalarValue::TimestampMicrosecond(Some(at.as_us()), Some("UTC".into()));
    let values = ParamValues::from(vec![
        ("school", text(Some(request.school.as_str()))),
        ("course", text(request.course.as_ref().map(CourseId::as_str))),
        ("classroom", text(request.classroom.as_ref().map(ClassroomId::as_str))),
        ("from_at", time(from_at)),
        ("to_at", time(to_at)),
    ]);
    let frame = session.sql(report.sql).await.map_err(sql_error)?;
    let frame = frame.with_param_values(values).map_err(sql_error)?;
    let schema = std::sync::Arc::new(frame.schema().as_arrow().clone());
    let mut batches = frame.collect().await.map_err(sql_error)?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    Ok(batches)
}

fn write_files(rows: &Rows<'_>, request: &ReportRequest, run: &mut ReportRun) -> Result<(), Error> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Output { path, source }
    };
    std::fs::create_dir_all(&request.out)
        .map_err(|error| failed(&request.out)(OutputError::File(error)))?;
    let mut formats = request.formats.clone();
    formats.sort_unstable();
    formats.dedup();
    for format in formats {
        let path = request.out.join(format!("{}.{}", run.report, format.extension()));
        output::place(&path, |out| match format {
            Format::Csv => output::write_csv(rows, out),
            Format::Xlsx => output::write_xlsx(rows, out),
        })
        .map_err(failed(&path))?;
        run.files.push(path);
    }
    let path = request.out.join(format!("{}.meta.json", run.report));
    run.files.push(path.clone());
    output::place(&path, |out| {
        serde_json::to_writer_pretty(&mut *out, &*run)?;
        out.write_all(b"\n")?;
        Ok(())
    })
    .map_err(failed(&path))
}
