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
mod output;
mod parts;
mod registrar;
mod roles;
mod schools;
mod send;
mod tasks;
mod views;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::cli::{Cli, Global, LogFormat};
use crate::commands::Context;
use crate::output::{Output, StdoutClosed, note};

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
    log_to_stderr(&global, command.is_role());
    log_panics();
    let overrides = command.overrides(global.data_dir.clone());
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        // What is not UTF-8 cannot be one of ours.
        Some((name.into_string().ok()?, value.into_string().ok()?))
    });
    let config = config::load(global.config.as_deref(), environment, overrides)?;
    let cx = Context { config, output: Output::new(global.json) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("could not start the runtime's threads")?;
    let result = runtime.block_on(Box::pin(command.run(cx)));
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

/// Log lines of this project's crates from `level` on.
fn ours(level: &str) -> String {
    let crates = ["", "_batch_jobs", "_event_log", "_ingest", "_sql", "_stream_processors"];
    crates.map(|name| format!("chalkstream{name}={level}")).join(",")
}

fn log_to_stderr(global: &Global, role: bool) {
    let level = match (global.verbose, role) {
        (0, false) => "warn".to_owned(),
        (0, true) => format!("warn,{}", ours("info")),
        (1, _) => format!("info,{}", ours("debug")),
        (_, _) => "trace".to_owned(),
    };
    let filter =
        EnvFilter::try_from_env("CHALKSTREAM_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let installed = match global.log_format {
        LogFormat::Text => {
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            registry.with(layer.with_ansi(colours).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    if let Err(error) = installed {
        note(&format!("log lines cannot be shown: {error}"));
    }
}
