//! `migrate`: ClickHouse's tables and views to this version's.

use std::process::ExitCode;

use anyhow::Result;
use chalkstream_sql::{Database, migrations};
use serde::Serialize;

use super::Context;
use crate::control::{Access, access};
use crate::parts;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

#[derive(Debug, Serialize)]
struct Migrated {
    applied: Vec<String>,
    already: usize,
    views: usize,
}

pub(crate) async fn run(cx: Context) -> Result<ExitCode> {
    if let Some(database) = parts::clickhouse_server(&cx.config)? {
        return migrate(&database, &cx).await;
    }
    match access(&cx.config).await? {
        Access::Running(client) => {
            // A process migrates its embedded tables before it is ready.
            let version = client.get::<crate::control::Status>("/status").await?.version;
            let done = Migrated { applied: Vec::new(), already: 0, views: 0 };
            cx.output.show(&done, || {
                format!("nothing to do: version {version} runs on the folder and has migrated it")
            })?;
            Ok(ExitCode::SUCCESS)
        }
        Access::Ours(folder) => {
            let readers = cx.config.clickhouse.readers();
            let engine = parts::embedded_clickhouse(&folder, parts::FREE_PORT, readers).await?;
            let done = migrate(&engine.database(), &cx).await;
            engine.shutdown().await;
            done
        }
    }
}

async fn migrate(database: &Database, cx: &Context) -> Result<ExitCode> {
    let migrations::Report { applied, already, views } = migrations::migrate(database).await?;
    let done = Migrated { applied, already, views };
    cx.output.show(&done, || {
        let Migrated { applied, already, views } = &done;
        let names = applied.join(", ");
        let what = if applied.is_empty() {
            "no migration was missing".to_owned()
        } else {
            format!("applied {names}")
        };
        format!("{what}; {already} had been applied before; {views} views replaced")
    })?;
    Ok(ExitCode::SUCCESS)
}
