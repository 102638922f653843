//! `rejected list`: a line an event for people, the whole row with `--json`.

use std::process::ExitCode;

use anyhow::Result;
use serde::Serialize;

use super::Filter;
use super::filter::Rows;
use crate::commands::Context;
use crate::control::RejectedRow;
use crate::output::visible;
use crate::views;

/// So many characters of an event are shown to people.
const RAW_SHOWN: usize = 60;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// At most so many
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// Those that a replay found accepted, too
    #[arg(long)]
    all: bool,
}

/// A rejected event as `--json` prints it.
#[derive(Debug, Serialize)]
struct Listed<'a> {
    received_at: String,
    school_id: &'a str,
    reason: &'a str,
    field: Option<&'a str>,
    message: &'a str,
    #[serde(rename = "type")]
    type_name: Option<&'a str>,
    app: Option<&'a str>,
    key_id: &'a str,
    replayed_at: Option<String>,
    /// The bytes as they came, where they are text.
    raw: Option<String>,
    /// Else in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_base64: Option<&'a str>,
}

pub(super) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let rows = Rows::Newest { limit: args.limit, replayed: args.all };
    let question = args.filter.question(rows, crate::registrar::now())?;
    let rows = views::with(&cx.config, async |views| {
        let mut rows = Vec::new();
        let mut answer = views.rows::<RejectedRow>(&question).await?;
        while let Some(row) = answer.next().await? {
            rows.push(row);
        }
        Ok(rows)
    })
    .await?;
    let rows = rows.iter().map(Listed::of).collect::<Result<Vec<_>>>()?;
    let header = ["received", "school", "type", "key", "reason", "field", "message", "raw"];
    cx.output.rows(&rows, &header, |row| {
        let text = |text: Option<&str>| text.map_or_else(|| "-".to_owned(), visible);
        vec![
            row.received_at.clone(),
            visible(row.school_id),
            text(row.type_name),
            visible(row.key_id),
            match row.replayed_at {
                None => row.reason.to_owned(),
                Some(_) => format!("{} (replayed)", row.reason),
            },
            text(row.field),
            visible(row.message),
            shortened(row.raw.as_deref()),
        ]
    })?;
    Ok(ExitCode::SUCCESS)
}

impl<'a> Listed<'a> {
    fn of(row: &'a RejectedRow) -> Result<Self> {
        let raw = String::from_utf8(row.raw()?).ok();
        Ok(Self {
            received_at: row.received_at().to_string(),
            school_id: row.school_id.as_str(),
            reason: &row.reason,
            field: row.field.as_deref(),
            message: &row.message,
            type_name: row.type_name.as_deref(),
            app: row.app.as_deref(),
            key_id: &row.key_id,
            replayed_at: row.replayed_at().map(|time| time.to_string()),
            raw_base64: raw.is_none().then_some(&row.raw_base64),
            raw,
        })
    }
}

fn shortened(raw: Option<&str>) -> String {
    let Some(raw) = raw else { return "(no text)".to_owned() };
    let mut text: String = visible(raw).chars().take(RAW_SHOWN).collect();
    if raw.chars().nth(RAW_SHOWN).is_some() {
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_shown_shortened_and_harmless() {
        assert_eq!(shortened(Some("{\"a\":\n1}")), "{\"a\":\u{fffd}1}");
        assert_eq!(shortened(Some(&"ü".repeat(RAW_SHOWN))), "ü".repeat(RAW_SHOWN));
        assert_eq!(shortened(Some(&"ü".repeat(100))), format!("{}…", "ü".repeat(RAW_SHOWN)));
        assert_eq!(shortened(None), "(no text)");
    }
}
