//! How a failure reaches the person at the keyboard: `error:`, what caused it, and `hint:`.
//!
//! Always true: an error's own text says what and where; what to do stands in the hint, which comes
//! from the error itself wherever its crate knows it.

use std::fmt;
use std::process::ExitCode;

use anyhow::Error;
use chalkstream_batch_jobs::{archiver, datasets, lake, reports};
use chalkstream_stream_processors::first_seen;

use crate::config::ConfigError;

/// The command failed.
pub(crate) const FAILURE: u8 = 1;
/// The command was called in a way that can never work.
pub(crate) const USAGE: u8 = 2;

/// A failure with what to do about it.
#[derive(Debug)]
pub(crate) struct Advice {
    what: String,
    hint: String,
    code: u8,
}

impl Advice {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: FAILURE }
    }

    /// The arguments or the configuration are at fault.
    pub(crate) fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into(), code: USAGE }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Advice {}

/// A failure as text: for the terminal, for a log line, for the control socket.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Report {
    pub(crate) error: String,
    pub(crate) causes: Vec<String>,
    pub(crate) hint: Option<String>,
}

impl Report {
    pub(crate) fn of(error: &Error) -> Self {
        let mut texts: Vec<String> = Vec::new();
        for cause in error.chain() {
            let text = cause.to_string();
            // Some libraries repeat their cause in their own text.
            if !texts.last().is_some_and(|last| last.contains(&text)) {
                texts.push(text);
            }
        }
        let mut texts = texts.into_iter();
        let error_text = texts.next().unwrap_or_default();
        Self { error: error_text, causes: texts.collect(), hint: hint_of(error) }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.error)?;
        for cause in &self.causes {
            write!(f, "\n  because: {cause}")?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Report {}

/// What to do: the outermost advice, else that of the first cause that knows.
fn hint_of(error: &Error) -> Option<String> {
    if let Some(advice) = error.downcast_ref::<Advice>() {
        return Some(advice.hint.clone());
    }
    error.chain().find_map(|cause| {
        if let Some(report) = cause.downcast_ref::<Report>() {
            return report.hint.clone();
        }
        if let Some(error) = cause.downcast_ref::<ConfigError>() {
            return Some(error.hint());
        }
        hint_of_part(cause)
    })
}

/// The hint of a crate's own error.
fn hint_of_part(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    macro_rules! first_hint {
        ($($error:ty => $hint:expr;)*) => {$(
            if let Some(error) = cause.downcast_ref::<$error>() {
                return $hint(error).map(Into::into);
            }
        )*};
    }
    first_hint! {
        chalkstream_access::KeyError => |error: &chalkstream_access::KeyError| Some(error.hint());
        chalkstream_access::StartError => |error: &chalkstream_access::StartError| Some(error.hint());
        chalkstream_event_log::Error => chalkstream_event_log::Error::hint;
        chalkstream_sql::Error => chalkstream_sql::Error::hint;
        first_seen::Error => |error: &first_seen::Error| Some(error.hint());
        chalkstream_stream_processors::Error => chalkstream_stream_processors::Error::hint;
        archiver::Error => archiver::Error::hint;
        lake::Error => lake::Error::hint;
        reports::Error => reports::Error::hint;
        datasets::Error => datasets::Error::hint;
    }
    hint_of_io(cause.downcast_ref::<std::io::Error>()?)
}

fn hint_of_io(error: &std::io::Error) -> Option<String> {
    let hint = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "the disk is full: free some space and start again; nothing acknowledged is lost"
        }
        std::io::ErrorKind::PermissionDenied => {
            "this user may not do that: check the owner and mode of the file or folder"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// The exit code that the failure stands for.
pub(crate) fn exit_code(error: &Error) -> ExitCode {
    let usage = error.chain().any(|cause| {
        cause.is::<ConfigError>()
            || cause.downcast_ref::<reports::Error>().is_some_and(reports::Error::is_usage)
            || cause.downcast_ref::<datasets::Error>().is_some_and(datasets::Error::is_usage)
    });
    let code = error.downcast_ref::<Advice>().map_or(FAILURE, |advice| advice.code);
    ExitCode::from(if usage { USAGE } else { code })
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_report_names_the_error_its_causes_and_the_hint() {
        let io = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = Error::new(io).context("could not write keys.toml");
        let report = Report::of(&error);
        let text = report.to_string();
        assert!(text.starts_with("error: could not write keys.toml\n  because: "), "{text}");
        assert!(text.contains("\nhint: the disk is full"), "{text}");
    }

    #[test]
    fn advice_is_found_below_later_context() {
        let result: Result<(), _> = Err(Advice::usage("no such zone", "write Europe/Paris"));
        let error = result.context("could not set the school").unwrap_err();
        assert_eq!(Report::of(&error).hint.as_deref(), Some("write Europe/Paris"));
        assert_eq!(exit_code(&error), ExitCode::from(USAGE));
    }
}
