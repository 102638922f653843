//! The command line: names, flags and help. What a command does stands in `commands/`.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand};

use crate::commands::{
    archive, dataset, doctor, ingest, keys, migrate, model, process, rejected, report, schools,
    send, sql, standalone, tail,
};
use crate::config::LogFormat;

/// A learning-analytics pipeline: events in; mastery, engagement, reports and datasets out.
#[derive(Debug, Parser)]
#[command(name = "chalkstream", version, propagate_version = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command has.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// Configuration file; see chalkstream.toml for every key
    #[arg(long, global = true, value_name = "FILE", env = "CHALKSTREAM_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Where everything is kept [default: ./data]
    #[arg(long, global = true, value_name = "FOLDER")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Print JSON on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Form of the log lines on standard error [default: logging.format]
    #[arg(long, global = true, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    /// More log lines; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the whole pipeline in one process
    Standalone(standalone::Args),
    /// Run only the HTTP endpoint that takes events
    Ingest(ingest::Args),
    /// Run only the stream processors
    Process(process::Args),
    /// Run only the archiver, from the log to the lake
    Archive(archive::Args),
    /// Bring ClickHouse's tables and views to this version
    Migrate(migrate::Args),
    /// Say how the pipeline is doing, and what is wrong
    Doctor(doctor::Args),
    /// Make, list and revoke write keys
    #[command(subcommand)]
    Keys(keys::Command),
    /// Set and list schools
    #[command(subcommand)]
    Schools(schools::Command),
    /// Load model parameters
    #[command(subcommand)]
    Model(model::Command),
    /// Send a file of events
    Send(send::Args),
    /// Show the events that this node takes in, and their fates, live
    Tail(tail::Args),
    /// List rejected events, and send them again after a fix
    #[command(subcommand)]
    Rejected(rejected::Command),
    /// Ask the views, as the user `reader`
    Sql(sql::Args),
    /// Run and list reports
    #[command(subcommand)]
    Report(report::Command),
    /// Build and list datasets
    #[command(subcommand)]
    Dataset(dataset::Command),
}

impl Command {
    /// Roles run until they are stopped, and say what they do.
    pub(crate) fn is_role(&self) -> bool {
        match self {
            Self::Standalone(_) | Self::Ingest(_) | Self::Process(_) | Self::Archive(_) => true,
            Self::Migrate(_)
            | Self::Doctor(_)
            | Self::Keys(_)
            | Self::Schools(_)
            | Self::Model(_)
            | Self::Send(_)
            | Self::Tail(_)
            | Self::Rejected(_)
            | Self::Sql(_)
            | Self::Report(_)
            | Self::Dataset(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
