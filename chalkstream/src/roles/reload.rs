//! SIGHUP: reads the configuration again, and takes what may change into use.
//!
//! Always true: a configuration that cannot be read, or that a part refuses, changes nothing and
//! says so; a key that only a restart can change is named and keeps its value.
//! Not here: what ingest does with its new options (`Ingest::reload`).

use chalkstream_ingest::IngestOptions;

use super::pipeline::Pipeline;
use crate::commands::Context;
use crate::config::changed_keys;
use crate::failure::Report;

const LOG_LEVEL: &str = "logging.level";

/// Whether a key takes effect without a restart.
fn is_live(key: &str) -> bool {
    match key.strip_prefix("ingest.") {
        Some(name) => {
            let section = name.split('.').next().unwrap_or(name);
            !IngestOptions::FIXED.contains(&section)
        }
        None => key == LOG_LEVEL,
    }
}

/// Reloads; what happened stands in the log.
pub(super) fn reload(pipeline: &Pipeline, cx: &mut Context) {
    match apply(pipeline, cx) {
        Ok((changed, fixed)) => {
            if !fixed.is_empty() {
                let keys = fixed.join(", ");
                tracing::warn!(
                    keys,
                    "these keys changed but need a restart; they stay as they were"
                );
            }
            let keys = changed.join(", ");
            tracing::info!(keys, "the configuration was read again");
        }
        Err(error) => {
            let Report { error: what, causes, hint } = Report::of(&error);
            let causes = causes.join(": ");
            tracing::error!(
                causes,
                hint,
                "the configuration was not reloaded, everything stays as it was: {what}"
            );
        }
    }
}

/// The keys that changed, and those that would need a restart.
fn apply(pipeline: &Pipeline, cx: &mut Context) -> anyhow::Result<(Vec<String>, Vec<String>)> {
    let new = cx.source.load()?;
    let (changed, fixed): (Vec<_>, Vec<_>) =
        changed_keys(&cx.config, &new).into_iter().partition(|key| is_live(key));
    // Files that options name, such as certificates, may have changed though no key has.
    pipeline.reload_ingest(&new.ingest)?;
    if changed.iter().any(|key| key == LOG_LEVEL) {
        // The level was checked when the configuration was read.
        cx.logs.set_level(&new.logging.level).map_err(anyhow::Error::msg)?;
    }
    cx.config.ingest = new.ingest.with_fixed_of(&cx.config.ingest);
    cx.config.logging.level = new.logging.level;
    Ok((changed, fixed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_the_log_level_are_live_and_addresses_are_not() {
        for key in ["ingest.max_events", "ingest.retry_after", "ingest.tls.cert", "logging.level"] {
            assert!(is_live(key), "{key}");
        }
        for key in ["ingest.listen", "ingest.max_in_flight", "log.kind", "data_dir"] {
            assert!(!is_live(key), "{key}");
        }
    }
}
