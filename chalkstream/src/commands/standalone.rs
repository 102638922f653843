//! `standalone`: the whole pipeline in one process.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Result;

use super::Context;
use crate::roles::{self, Role};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where events are taken by HTTP [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) listen: Option<String>,
    /// Where the embedded ClickHouse answers [default: 127.0.0.1:8123]
    #[arg(long, value_name = "ADDRESS")]
    pub(super) clickhouse_listen: Option<SocketAddr>,
}

pub(crate) async fn run(cx: Context) -> Result<ExitCode> {
    roles::run(Role::Standalone, cx).await
}
