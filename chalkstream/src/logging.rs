//! Log lines on standard error: as text or JSON, from a level on that may change while the process
//! runs.
//!
//! Always true: lines of libraries that see requests' headers and bodies (HTTP, TLS) never come from
//! below `info`, whatever the level, so no key and no learner's data reaches the log by them.
//! Not here: what is logged. No line of this project holds user ids, bodies, queries or keys.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, Logging};
use crate::output::note;

/// Overrides the level from the environment.
const VARIABLE: &str = "CHALKSTREAM_LOG";
/// The project's crates, as their log lines name them.
const OURS: [&str; 6] = ["", "_batch_jobs", "_event_log", "_ingest", "_sql", "_stream_processors"];
/// Libraries through which foreign bytes pass.
const CAPPED: [&str; 8] =
    ["axum", "h2", "hyper", "hyper_util", "reqwest", "rustls", "tonic", "tower"];

/// Where the level comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// From the command line; it wins over the configuration.
    pub(crate) verbose: u8,
    /// Roles say what they do, commands only what is wrong.
    pub(crate) role: bool,
    pub(crate) logging: &'a Logging,
}

impl Wanted<'_> {
    /// Whether flags or environment decide, so that a reload changes nothing.
    fn is_fixed(self) -> bool {
        self.verbose > 0 || std::env::var_os(VARIABLE).is_some()
    }

    fn filter(self) -> EnvFilter {
        let from_environment = std::env::var(VARIABLE).ok().filter(|_| self.verbose == 0);
        let text = match (self.verbose, &from_environment) {
            (0, Some(text)) => text,
            (0, None) if self.role => self.logging.level.as_str(),
            (0, None) => "warn",
            (1, _) => "debug",
            (_, _) => "trace",
        };
        filter(text).unwrap_or_else(|error| {
            note(&format!("warning: {error}; log lines are shown from `info` on"));
            EnvFilter::new(directives("info"))
        })
    }
}

/// The directives of a level, or of a list such as `info,chalkstream_ingest=debug`.
fn directives(level: &str) -> String {
    let ours = |level: &str| OURS.map(|name| format!("chalkstream{name}={level}")).join(",");
    let wanted = match level {
        "info" => format!("warn,{}", ours("info")),
        "debug" => format!("info,{}", ours("debug")),
        "trace" => format!("info,{}", ours("trace")),
        other => other.to_owned(),
    };
    let capped = CAPPED.map(|name| format!("{name}=info")).join(",");
    if matches!(level, "error" | "warn" | "info" | "off") {
        wanted
    } else {
        format!("{wanted},{capped}")
    }
}

/// Checks and reads a level.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(directives(level)).map_err(|error| {
        format!(
            "`{level}` is no log level ({error}); write error, warn, info, debug, trace, or a list such as \"info,chalkstream_ingest=debug\""
        )
    })
}

/// The log lines of this process.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    level: reload::Handle<EnvFilter, Registry>,
    fixed: bool,
}

impl Logs {
    /// Shows log lines from now on.
    pub(crate) fn start(wanted: Wanted<'_>) -> Self {
        let (filter, level) = reload::Layer::new(wanted.filter());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match wanted.logging.format {
            LogFormat::Text => {
                let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
                lines.with_ansi(colours).with_target(false).boxed()
            }
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let installed = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
        if let Err(error) = installed {
            note(&format!("log lines cannot be shown: {error}"));
        }
        Self { level, fixed: wanted.is_fixed() }
    }

    /// Shows lines from another level on, unless flags or environment decide.
    pub(crate) fn set_level(&self, level: &str) -> Result<(), String> {
        if self.fixed {
            tracing::warn!(
                "the log level stays: -v or {VARIABLE} was given at the start, and wins over `logging.level`"
            );
            return Ok(());
        }
        let filter = filter(level)?;
        self.level.reload(filter).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_a_word_or_a_list_and_anything_else_is_named() {
        for level in ["off", "error", "warn", "info", "debug", "trace", "warn,chalkstream=debug"] {
            assert!(filter(level).is_ok(), "{level}");
        }
        let error = filter("chalkstream=loud").unwrap_err();
        assert!(error.contains("`chalkstream=loud`") && error.contains("debug"), "{error}");
    }

    #[test]
    fn what_passes_foreign_bytes_on_is_never_shown_in_detail() {
        for level in ["debug", "trace", "trace,h2=trace,hyper=trace"] {
            let filter = filter(level).unwrap().to_string();
            let of = |name: &str| {
                filter.split(',').filter(|part| part.starts_with(name)).collect::<Vec<_>>()
            };
            assert_eq!(of("h2="), ["h2=info"], "{filter}");
            assert_eq!(of("hyper="), ["hyper=info"], "{filter}");
        }
    }
}
