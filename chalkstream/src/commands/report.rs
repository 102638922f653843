//! `report run | list`: figures for people, from the lake.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use chalkstream_batch_jobs::reports::{self, Format, ReportRequest};
use chalkstream_schemas::{ClassroomId, CourseId, SchoolId, Timestamp};
use chalkstream_stream_processors::epoch;
use chrono::NaiveDate;
use clap::Subcommand;
use serde::Serialize;

use super::Context;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a report and write its files
    Run(Run),
    /// List the reports
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// The report's name; `report list` has all of them
    report: String,
    /// The school
    #[arg(long, value_parser = super::school)]
    school: SchoolId,
    /// First day, in the school's time zone
    #[arg(long, value_name = "DAY")]
    from: NaiveDate,
    /// Last day, included
    #[arg(long, value_name = "DAY")]
    to: NaiveDate,
    /// Only this course
    #[arg(long, value_parser = course)]
    course: Option<CourseId>,
    /// Only this classroom
    #[arg(long, value_parser = classroom)]
    classroom: Option<ClassroomId>,
    /// Files to write: csv, xlsx
    #[arg(long, value_delimiter = ',', default_value = "csv,xlsx", value_parser = format)]
    format: Vec<Format>,
    /// Folder to write to
    #[arg(long, default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    lake: super::lake::Args,
}

fn course(text: &str) -> Result<CourseId, String> {
    CourseId::parse(text).map_err(|error| format!("a course's id {error}"))
}

fn classroom(text: &str) -> Result<ClassroomId, String> {
    ClassroomId::parse(text).map_err(|error| format!("a classroom's id {error}"))
}

fn format(text: &str) -> Result<Format, String> {
    text.trim().parse().map_err(|error: reports::Error| error.to_string())
}

/// What is printed of a run.
#[derive(Debug, Serialize)]
struct Done {
    run_id: String,
    files: Vec<PathBuf>,
    lake_version: u64,
    data_as_of: Option<String>,
    rows: usize,
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    match command {
        Command::Run(args) => run_report(args, &cx).await?,
        Command::List => list(&cx)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_report(args: Run, cx: &Context) -> Result<()> {
    let open = args.lake.open(cx).await?;
    let request = ReportRequest {
        report: args.report,
        school: args.school,
        from: args.from,
        to: args.to,
        course: args.course,
        classroom: args.classroom,
        formats: args.format,
        out: args.out,
        lake_version: args.lake.lake_version,
        epoch: epoch::FIRST,
    };
    let ran = reports::run(&open.lake, &request).await?;
    let done = Done {
        run_id: ran.run_id.to_string(),
        files: ran.files,
        lake_version: ran.lake_version,
        data_as_of: ran.data_as_of.as_ref().map(Timestamp::to_string),
        rows: ran.rows,
    };
    cx.output.show(&done, || {
        let mut lines: Vec<String> =
            done.files.iter().map(|file| format!("wrote {}", file.display())).collect();
        let as_of = done.data_as_of.as_deref().unwrap_or("no event of this school");
        lines.push(format!("{} rows; data as of {as_of}", done.rows));
        lines.join("\n")
    })
}

fn list(cx: &Context) -> Result<()> {
    let manifests = reports::list()?;
    cx.output.rows(&manifests, &["report", "title"], |manifest| {
        vec![manifest.name.clone(), manifest.title.clone()]
    })
}
