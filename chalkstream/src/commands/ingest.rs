//! `ingest`: the HTTP endpoint alone, in front of Kafka.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::roles::{self, Role};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where events are taken by HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
}

pub(crate) async fn run(cx: Context) -> Result<ExitCode> {
    roles::run(Role::Ingest, cx).await
}
