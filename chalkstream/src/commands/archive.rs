//! `archive`: the archiver alone, from Kafka to the lake.

use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::roles::{self, Role};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) async fn run(cx: Context) -> Result<ExitCode> {
    roles::run(Role::Archive, cx).await
}
