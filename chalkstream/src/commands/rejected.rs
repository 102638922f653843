//! `rejected list | replay`: what was rejected, and sending it again after a fix.

mod filter;
mod list;
mod replay;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

use super::Context;
use filter::Filter;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List rejected events, the newest first
    List(list::Args),
    /// Send rejected events again through the node that runs here, after a fix
    ///
    /// The same pipeline decides as for a new event, with the rights of the event's school and
    /// whatever its age. An event whose id was accepted meanwhile is a duplicate; replaying twice
    /// changes nothing. What is accepted or a duplicate is no longer listed. With roles of their own
    /// it runs where `chalkstream ingest` does, and `clickhouse.url` tells it where the views are.
    Replay(replay::Args),
}

pub(crate) async fn run(command: Command, cx: Context) -> Result<ExitCode> {
    match command {
        Command::List(args) => list::run(args, cx).await,
        Command::Replay(args) => replay::run(args, cx).await,
    }
}
