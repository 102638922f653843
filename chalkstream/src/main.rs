//! `chalkstream`: the whole learning-analytics pipeline in one binary.
//!
//! Owns the command line, the configuration, the data folder and how the parts are put together.
//! Always true: standard output carries only what a command was asked for; errors say what was
//! wrong, where, and what to do; exit codes are 0, 1 (failure) and 2 (usage).
//! Not here: what the parts do. Each is a crate of its own.

mod cli;
mod commands;
mod config;
mod control;
mod failure;
mod folder;
mod lines;
mod logging;
mod output;
mod parts;
mod registrar;
mod roles;
mod schools;
mod send;
mod tasks;
mod telemetry;
mod views;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::cli::Cli;
use crate::commands::Context;
use crate::config::Source;
use crate::logging::{Logs, Wanted};
use crate::output::{Output, StdoutClosed, note};
use crate::telemetry::Traces;

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(code) => code,
        Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
        Err(error) => {
            note(&failure::Report::of(&error).to_string());
            failure::exit_code(&error)
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let Cli { global, command } = cli;
    let source = Source { file: global.config.clone(), flags: command.overrides(&global) };
    let config = source.load()?;
    let role = command.is_role();
    let wanted = Wanted { verbose: global.verbose, role, logging: &config.logging };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the runtime's threads")?;
    let traces = {
        let _inside = runtime.enter();
        if role { Traces::start(&config.telemetry)? } else { None }
    };
    let logs = Logs::start(wanted, traces.as_ref());
    log_panics();
    let cx = Context { config, source, logs, output: Output::new(global.json) };
    let result = runtime.block_on(Box::pin(command.run(cx)));
    if let Some(traces) = traces {
        traces.finish();
    }
    // Blocking work that no one waits for any more must not hold the process.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result
}

/// A panic is a log line like others. It ends one task, whose owner says what that means; libraries
/// panic too, such as one that writes Parquet to a full disk, and make an error of it themselves.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic.location().map_or_else(String::new, ToString::to_string);
        let what = panic.payload_as_str().unwrap_or("no message");
        if at.contains("/registry/src/") {
            tracing::warn!(at, what, "a library gave up what it was doing");
        } else {
            tracing::error!(at, what, "a part of the process had a bug and has ended");
        }
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::debug!(%backtrace, "where that was");
    }));
}
