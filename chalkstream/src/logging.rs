//! Log lines on standard error: as text or JSON, from a level on that may change while the process
//! runs.
//!
//! Always true: lines of libraries never come from below `info`, whatever the level, because there
//! they hold headers, bodies and rows: HTTP tells keys, the lake tells users' ids.
//! Not here: what is logged. No line of this project holds user ids, bodies, queries or keys.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{LogFormat, Logging};
use crate::output::note;
use crate::telemetry::Traces;

/// Overrides the level from the environment.
const VARIABLE: &str = "CHALKSTREAM_LOG";
/// The project's crates, as their log lines name them.
const OURS: [&str; 7] =
    ["", "_access", "_batch_jobs", "_event_log", "_ingest", "_sql", "_stream_processors"];
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
            note(&format!("warning: {error}; log lines are shown from `warn` on"));
            EnvFilter::new("warn")
        })
    }
}

/// What `level` says, which may be a list such as `info,chalkstream_ingest=debug`: a word alone is for
/// this project's crates, and libraries are quieter by one.
fn directives(level: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{level}` is no log level; write off, error, warn, info, debug, trace, or a list such as \"info,chalkstream_ingest=debug\""
        )
    };
    let mut directives = Vec::new();
    for part in level.split(',').map(str::trim) {
        let (target, word) = part.rsplit_once('=').unwrap_or(("", part));
        let known = ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
        let named = target.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | ':'));
        if !known || !named || part.starts_with('=') {
            return Err(wrong());
        }
        let of_libraries = if matches!(word, "debug" | "trace") { "info" } else { word };
        match target {
            "" => {
                directives.push(if word == "info" { "warn" } else { of_libraries }.to_owned());
                directives.extend(OURS.map(|name| format!("chalkstream{name}={word}")));
            }
            ours if ours.starts_with("chalkstream") => directives.push(format!("{ours}={word}")),
            library => directives.push(format!("{library}={of_libraries}")),
        }
    }
    Ok(directives.join(","))
}

/// Checks and reads a level.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    let directives = directives(level)?;
    EnvFilter::try_new(directives).map_err(|error| format!("`{level}` is no log level: {error}"))
}

/// The log lines of this process.
#[derive(Clone, Debug)]
pub(crate) struct Logs {
    level: reload::Handle<EnvFilter, Registry>,
    fixed: bool,
}

impl Logs {
    /// Shows log lines from now on.
    pub(crate) fn start(wanted: Wanted<'_>, traces: Option<&Traces>) -> Self {
        let (filter, level) = reload::Layer::new(wanted.filter());
        let lines = fmt::layer().with_writer(std::io::stderr);
        let lines = match wanted.logging.format {
            LogFormat::Text => {
                let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
                lines.with_ansi(colours).with_target(false).boxed()
            }
            LogFormat::Json => lines.json().flatten_event(true).boxed(),
        };
        let installed = tracing_subscriber::registry()
            .with(lines.with_filter(filter))
            .with(traces.map(|traces| traces.layer()))
            .try_init();
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
        for level in ["", "loud", "chalkstream=loud", "=info", "info,", "[span]=info", "a b=info"] {
            let error = filter(level).unwrap_err();
            assert!(error.contains(&format!("`{level}`")) && error.contains("debug"), "{error}");
        }
    }

    #[test]
    fn libraries_are_never_shown_in_detail() {
        let of = |level: &str, target: &str| {
            let wanted = format!("{target}=");
            let directives = directives(level).unwrap();
            let found = directives.split(',').rev().find_map(|part| part.strip_prefix(&wanted));
            found.map(str::to_owned)
        };
        for level in ["debug", "trace", "trace,h2=trace,delta_kernel=debug"] {
            let all = directives(level).unwrap();
            assert!(all.starts_with("info,"), "{all}");
            let ours = |part: &&str| part.starts_with("chalkstream");
            let theirs = all.split(',').filter(|part| !ours(part)).collect::<Vec<_>>();
            assert!(theirs.iter().all(|part| part.ends_with("info")), "{theirs:?}");
        }
        assert_eq!(of("info", "chalkstream_ingest").as_deref(), Some("info"));
        assert_eq!(
            of("info,chalkstream_ingest=debug", "chalkstream_ingest").as_deref(),
            Some("debug")
        );
        assert_eq!(of("warn,rdkafka=error", "rdkafka").as_deref(), Some("error"));
    }
}
