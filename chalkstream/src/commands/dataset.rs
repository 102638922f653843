//! `dataset build | list`: training data from the lake.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use chalkstream_batch_jobs::datasets::{self, DatasetRequest};
use chalkstream_schemas::SchoolId;
use chalkstream_stream_processors::epoch;
use clap::Subcommand;

use super::Context;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Build a dataset; the same lake version and seed give the same bytes
    Build(Build),
    /// List the kinds of datasets
    List,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Build {
    /// The kind; `dataset list` has all of them
    dataset: String,
    /// Only this school
    #[arg(long, value_parser = super::school)]
    school: Option<SchoolId>,
    /// Folder to write to
    #[arg(long)]
    out: PathBuf,
    /// What pseudonyms and folds are made from; to be kept like the ids themselves [default: random]
    #[arg(long)]
    seed: Option<u64>,
    #[command(flatten)]
    lake: super::lake::Args,
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    match command {
        Command::Build(args) => build(args, &cx).await?,
        Command::List => {
            cx.output.rows(datasets::list(), &["dataset", "what it is"], |kind| {
                vec![kind.name.to_owned(), kind.description.to_owned()]
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn build(args: Build, cx: &Context) -> Result<()> {
    let open = args.lake.open(cx).await?;
    let request = DatasetRequest {
        dataset: args.dataset,
        school: args.school,
        out: args.out,
        seed: args.seed.unwrap_or_else(rand::random),
        lake_version: args.lake.lake_version,
        epoch: epoch::FIRST,
    };
    let built = datasets::build(&open.lake, &request).await?;
    cx.output.show(&built, || {
        let mut lines: Vec<String> =
            built.files.iter().map(|file| format!("wrote {}", file.display())).collect();
        lines.push(format!("lake version {}, seed {}", built.lake_version, built.seed));
        lines.join("\n")
    })
}
