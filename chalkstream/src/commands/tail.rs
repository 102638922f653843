//! `tail`: events and their fates live, from the node that runs on the data folder.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use chalkstream_ingest::{TailFilter, TailedEvent};
use chalkstream_schemas::SchoolId;
use clap::ValueEnum;
use futures::StreamExt;

use super::Context;
use crate::control::{TailLine, running};
use crate::failure::Advice;
use crate::lines::Lines;
use crate::output::{Output, grouped, note, visible};
use crate::tasks::Signals;

/// Show the events that this node takes in, and their fates, live
///
/// It shows what the node that runs on the data folder takes in from now on; another node shows its
/// own. A terminal that is too slow misses events and is told how many; ingest never waits for it.
/// Ctrl-C ends it.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only events of this school
    #[arg(long, value_parser = super::school)]
    school: Option<SchoolId>,
    /// Only events with this fate
    #[arg(long, value_enum)]
    status: Option<Status>,
    /// Only events of this type
    #[arg(long = "type", value_name = "TYPE")]
    type_name: Option<String>,
    /// Only events of this user
    #[arg(long)]
    user: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Status {
    Accepted,
    Duplicate,
    Rejected,
    Refused,
}

impl Status {
    const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Rejected => "rejected",
            Self::Refused => "refused",
        }
    }
}

/// How watching ended.
enum End {
    Interrupted,
    NodeStopped,
}

pub(crate) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let client = running(&cx.config).await?;
    let filter = TailFilter {
        school: args.school.map(|school| school.to_string()),
        status: args.status.map(|status| status.name().to_owned()),
        type_name: args.type_name,
        user: args.user,
    };
    let body = client.stream(&path(&filter)).await?;
    let mut signals = Signals::new()?;
    note("watching what this node takes in; Ctrl-C ends it");
    let mut shown = Shown { output: cx.output, columns: Columns::default(), events: 0 };
    let end = tokio::select! {
        end = watch(body, &mut shown) => end?,
        () = signals.next() => End::Interrupted,
    };
    let events = grouped(shown.events);
    match end {
        End::Interrupted => note(&format!("stopped watching after {events} events")),
        End::NodeStopped => note(&format!("the node stops; {events} events were shown")),
    }
    Ok(ExitCode::SUCCESS)
}

fn path(filter: &TailFilter) -> String {
    let TailFilter { school, status, type_name, user } = filter;
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in
        [("school", school), ("status", status), ("type", type_name), ("user", user)]
    {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    format!("/tail?{}", query.finish())
}

async fn watch(body: axum::body::Body, shown: &mut Shown) -> Result<End> {
    let gone = || {
        Advice::new(
            "the node ended without a word: it was killed, or it failed",
            "its log lines tell more; start it and this command again",
        )
    };
    let mut pieces = body.into_data_stream();
    let mut lines = Lines::default();
    while let Some(piece) = pieces.next().await {
        lines.push(&piece.with_context(gone)?);
        while let Some(line) = lines.next() {
            match TailLine::read(line)? {
                Some(TailLine::Event(event)) => shown.event(&event)?,
                Some(TailLine::Missed(events)) => {
                    note(&format!("… {} events came too fast to be shown", grouped(events)));
                }
                Some(TailLine::Stopping) => return Ok(End::NodeStopped),
                None => {}
            }
        }
    }
    Err(gone().into())
}

struct Shown {
    output: Output,
    columns: Columns,
    events: u64,
}

impl Shown {
    fn event(&mut self, event: &TailedEvent) -> Result<()> {
        self.events += 1;
        self.output.show(event, || self.columns.line(event))
    }
}

/// Widths so far: nobody knows what is still to come.
#[derive(Debug)]
struct Columns([usize; 6]);

impl Default for Columns {
    fn default() -> Self {
        // A time, a usual school, type and user, a UUID, the longest fate.
        Self([12, 8, 16, 8, 36, 9])
    }
}

impl Columns {
    /// A column grows no wider than this; what is longer stands out of line.
    const WIDEST: usize = 40;

    fn line(&mut self, event: &TailedEvent) -> String {
        let received_at = event.received_at.to_string();
        let time = received_at.get(11..23).unwrap_or(&received_at);
        let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), visible);
        let cells = [
            time.to_owned(),
            visible(event.school_id.as_str()),
            text(&event.type_name),
            text(&event.user_id),
            text(&event.id),
            event.status.clone(),
        ];
        let mut line = String::new();
        for (cell, width) in cells.iter().zip(&mut self.0) {
            *width = cell.chars().count().min(Self::WIDEST).max(*width);
            line.push_str(&format!("{cell:<width$}  ", width = *width));
        }
        if let Some(reason) = &event.reason {
            line.push_str(reason);
        }
        if let Some(field) = &event.field {
            line.push_str(&format!(" {}", visible(field)));
        }
        if let Some(message) = &event.message {
            line.push_str(&format!(": {}", visible(message)));
        }
        line.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use chalkstream_schemas::Timestamp;

    use super::*;

    #[test]
    fn lines_line_up_and_hold_no_control_characters() {
        let mut event = TailedEvent {
            received_at: Timestamp::from_ms(1_772_445_600_123),
            school_id: SchoolId::parse("lincoln").unwrap(),
            key_id: "csk_1".to_owned(),
            type_name: Some("login".to_owned()),
            app: None,
            user_id: Some("ada".to_owned()),
            id: Some("1".to_owned()),
            status: "accepted".to_owned(),
            reason: None,
            field: None,
            message: None,
        };
        let mut columns = Columns::default();
        let good = columns.line(&event);
        assert_eq!(
            good,
            "10:00:00.123  lincoln   login             ada       1                                     accepted"
        );
        event.type_name = Some("custom.something.long".to_owned());
        event.user_id = None;
        event.status = "rejected".to_owned();
        event.reason = Some("missing_field".to_owned());
        event.field = Some("data.x".to_owned());
        event.message = Some("clear \u{1b}[2J the screen".to_owned());
        let bad = columns.line(&event);
        assert!(
            bad.ends_with(" rejected   missing_field data.x: clear \u{fffd}[2J the screen"),
            "{bad}"
        );
        event.type_name = Some("login".to_owned());
        assert_eq!(columns.line(&event).find("rejected"), bad.find("rejected"));
    }

    #[test]
    fn a_filter_reaches_the_node_as_it_was_given() {
        let filter = TailFilter { user: Some("a&b=ü".to_owned()), ..TailFilter::default() };
        assert_eq!(path(&filter), "/tail?user=a%26b%3D%C3%BC");
    }
}
