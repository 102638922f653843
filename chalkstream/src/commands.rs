//! One file a command: its arguments, and what it does with them.

pub(crate) mod archive;
pub(crate) mod dataset;
pub(crate) mod doctor;
pub(crate) mod ingest;
pub(crate) mod keys;
pub(crate) mod lake;
pub(crate) mod migrate;
pub(crate) mod model;
pub(crate) mod process;
pub(crate) mod rejected;
pub(crate) mod report;
pub(crate) mod schools;
pub(crate) mod send;
pub(crate) mod sql;
pub(crate) mod standalone;
pub(crate) mod tail;

use std::process::ExitCode;

use anyhow::Result;
use chalkstream_schemas::SchoolId;

use crate::cli::{Command, Global};
use crate::config::{Config, Overrides, Source};
use crate::logging::Logs;
use crate::output::Output;

/// What every command gets.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Config,
    /// Where `config` came from, to be read again.
    pub(crate) source: Source,
    pub(crate) logs: Logs,
    pub(crate) output: Output,
}

impl Command {
    /// Flags that stand for keys of the configuration.
    pub(crate) fn overrides(&self, global: &Global) -> Overrides {
        let (listen, clickhouse_listen) = match self {
            Self::Standalone(args) => (args.listen.clone(), args.clickhouse_listen),
            Self::Ingest(args) => (args.listen.clone(), None),
            Self::Process(_)
            | Self::Archive(_)
            | Self::Migrate(_)
            | Self::Doctor(_)
            | Self::Keys(_)
            | Self::Schools(_)
            | Self::Model(_)
            | Self::Send(_)
            | Self::Tail(_)
            | Self::Rejected(_)
            | Self::Sql(_)
            | Self::Report(_)
            | Self::Dataset(_) => (None, None),
        };
        let Global { data_dir, log_format, .. } = global;
        let (data_dir, log_format) = (data_dir.clone(), *log_format);
        Overrides { data_dir, listen, clickhouse_listen, log_format }
    }

    pub(crate) async fn run(self, cx: Context) -> Result<ExitCode> {
        match self {
            Self::Standalone(_) => Box::pin(standalone::run(cx)).await,
            Self::Ingest(_) => Box::pin(ingest::run(cx)).await,
            Self::Process(_) => Box::pin(process::run(cx)).await,
            Self::Archive(_) => Box::pin(archive::run(cx)).await,
            Self::Migrate(_) => Box::pin(migrate::run(cx)).await,
            Self::Doctor(_) => Box::pin(doctor::run(cx)).await,
            Self::Keys(command) => Box::pin(keys::run(command, cx)).await,
            Self::Schools(command) => Box::pin(schools::run(command, cx)).await,
            Self::Model(command) => Box::pin(model::run(command, cx)).await,
            Self::Send(args) => Box::pin(send::run(args, cx)).await,
            Self::Tail(args) => Box::pin(tail::run(args, cx)).await,
            Self::Rejected(command) => Box::pin(rejected::run(command, cx)).await,
            Self::Sql(args) => Box::pin(sql::run(args, cx)).await,
            Self::Report(command) => Box::pin(report::run(command, cx)).await,
            Self::Dataset(command) => Box::pin(dataset::run(command, cx)).await,
        }
    }
}

/// A school's id on the command line.
pub(crate) fn school(text: &str) -> Result<SchoolId, String> {
    SchoolId::parse(text).map_err(|error| format!("a school's id {error}"))
}
