//! `rejected replay`: rejected events once more through the node that runs on the data folder.
//!
//! Always true: events go school by school in the order in which they came; what cannot be replayed
//! is counted and named, never left out in silence.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, bail};
use chalkstream_schemas::RejectReason;
use serde::Serialize;
use serde::de::IgnoredAny;

use super::Filter;
use super::filter::Rows;
use crate::commands::Context;
use crate::control::{Client, RejectedRow, ReplayAnswer, ReplayRequest, running};
use crate::failure::Advice;
use crate::output::grouped;
use crate::views;

/// Events of one request to the node.
const BATCH_EVENTS: usize = 500;
/// A request is sent once it has so many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// The key id of what the processors themselves put into the rejected log.
const PROCESSOR: &str = "processor";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    filter: Filter,
    /// Say what would happen, and store nothing
    #[arg(long)]
    dry_run: bool,
}

/// What became of the events that were meant.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Summary {
    dry_run: bool,
    /// Events that went through the pipeline.
    replayed: u64,
    accepted: u64,
    duplicate: u64,
    /// By reason.
    rejected: BTreeMap<String, u64>,
    /// By reason.
    refused: BTreeMap<String, u64>,
    /// Larger than an event may be: only their beginning was kept.
    cut: u64,
    /// Found by the processors in the log, where they were accepted.
    in_log: u64,
    /// Sent by a credential that may not; replayed only where that reason is asked for.
    not_permitted: u64,
}

/// Why an event cannot be replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Whole,
    Cut,
    InLog,
    NotPermitted,
}

impl Kept {
    /// `forged_too`: a replay has the rights of the school, so what a learner's credential sent for
    /// another learner would be taken.
    fn of(row: &RejectedRow, raw: &[u8], forged_too: bool) -> Self {
        if row.key_id == PROCESSOR {
            Self::InLog
        } else if row.reason == RejectReason::NotPermitted.as_str() && !forged_too {
            Self::NotPermitted
        } else if row.reason == RejectReason::EventTooLarge.as_str()
            && serde_json::from_slice::<IgnoredAny>(raw).is_err()
        {
            // The beginning of a JSON object is never one itself.
            Self::Cut
        } else {
            Self::Whole
        }
    }
}

pub(super) async fn run(args: Args, cx: Context) -> Result<ExitCode> {
    let node = running(&cx.config).await?;
    let question = args.filter.question(Rows::AllOpen, crate::registrar::now())?;
    let mut replay = Replay::new(&node, &args);
    views::with(&cx.config, async |views| {
        let mut rows = views.rows::<RejectedRow>(&question).await?;
        while let Some(row) = rows.next().await? {
            replay.add(row).await?;
        }
        replay.send().await
    })
    .await?;
    let summary = replay.summary;
    cx.output.show(&summary, || shown(&summary))?;
    if summary.refused.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Advice::new(
        "not every event could be taken now",
        "run the same command again: what is accepted already is not replayed twice",
    )
    .into())
}

struct Replay<'a> {
    node: &'a Client,
    forged_too: bool,
    waiting: Vec<RejectedRow>,
    waiting_bytes: usize,
    summary: Summary,
}

impl<'a> Replay<'a> {
    fn new(node: &'a Client, args: &Args) -> Self {
        let summary = Summary { dry_run: args.dry_run, ..Summary::default() };
        let forged_too = args.filter.is_for(RejectReason::NotPermitted);
        Self { node, forged_too, waiting: Vec::new(), waiting_bytes: 0, summary }
    }

    async fn add(&mut self, row: RejectedRow) -> Result<()> {
        let raw = row.raw()?;
        match Kept::of(&row, &raw, self.forged_too) {
            Kept::NotPermitted => self.summary.not_permitted += 1,
            Kept::Cut => self.summary.cut += 1,
            Kept::InLog => self.summary.in_log += 1,
            Kept::Whole => {
                self.waiting.push(row);
                self.waiting_bytes += raw.len();
                if self.waiting.len() >= BATCH_EVENTS || self.waiting_bytes >= BATCH_BYTES {
                    self.send().await?;
                }
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<()> {
        let events = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if events.is_empty() {
            return Ok(());
        }
        let asked = events.len();
        let request = ReplayRequest { dry_run: self.summary.dry_run, events };
        let answer: ReplayAnswer = self.node.post("/replay", &request).await?;
        if answer.events.len() != asked {
            bail!("the node told the fates of {} events, not of {asked}", answer.events.len());
        }
        for event in answer.events {
            self.summary.count(&event.status, event.reason);
        }
        Ok(())
    }
}

impl Summary {
    fn count(&mut self, status: &str, reason: String) {
        self.replayed += 1;
        match status {
            "accepted" => self.accepted += 1,
            "duplicate" => self.duplicate += 1,
            "rejected" => *self.rejected.entry(reason).or_default() += 1,
            _ => *self.refused.entry(reason).or_default() += 1,
        }
    }
}

fn shown(summary: &Summary) -> String {
    let Summary { dry_run, replayed, accepted, duplicate, rejected, refused, .. } = summary;
    let mut lines = vec![match dry_run {
        false => format!("replayed {} rejected events", grouped(*replayed)),
        true => format!("would replay {} rejected events; nothing was stored", grouped(*replayed)),
    }];
    let mut line = |name: &str, events: u64| {
        if events > 0 {
            lines.push(format!("  {name:<36}{:>9}", grouped(events)));
        }
    };
    line("accepted", *accepted);
    line("duplicate (accepted meanwhile)", *duplicate);
    for (reason, events) in rejected {
        line(&format!("rejected again: {reason}"), *events);
    }
    for (reason, events) in refused {
        line(&format!("refused for now: {reason}"), *events);
    }
    for (events, what) in [
        (
            summary.cut,
            "too large; only their beginning was kept, and their application must send less",
        ),
        (summary.in_log, "in the log already, where the processors could not use them"),
        (
            summary.not_permitted,
            "of a credential that may not send them; --reason not_permitted replays them",
        ),
    ] {
        if events > 0 {
            lines.push(format!("not replayed: {} {what}", grouped(events)));
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(reason: &str, key_id: &str) -> RejectedRow {
        serde_json::from_value(serde_json::json!({
            "school_id": "lincoln", "reason": reason, "field": null, "message": "m", "app": null,
            "type": null, "key_id": key_id, "received_ms": 1, "replayed_ms": null,
            "raw_base64": "e30=",
        }))
        .unwrap()
    }

    #[test]
    fn only_what_was_kept_whole_is_replayed() {
        let large = row("event_too_large", "csk_1");
        assert_eq!(Kept::of(&large, br#"{"data": {"text": "aaa"#, false), Kept::Cut);
        // Kafka did not take it, though it was within the limit.
        assert_eq!(Kept::of(&large, br#"{"data": {"text": "aaa"}}"#, false), Kept::Whole);
        assert_eq!(Kept::of(&row("malformed_json", "csk_1"), b"{", false), Kept::Whole);
        assert_eq!(Kept::of(&row("id_conflict", PROCESSOR), b"{}", false), Kept::InLog);
        let forged = row("not_permitted", "csk_1");
        assert_eq!(Kept::of(&forged, b"{}", false), Kept::NotPermitted);
        assert_eq!(Kept::of(&forged, b"{}", true), Kept::Whole);
    }

    #[test]
    fn every_event_stands_in_the_summary() {
        let mut summary = Summary { dry_run: true, cut: 2, ..Summary::default() };
        for (status, reason) in [
            ("accepted", ""),
            ("duplicate", ""),
            ("rejected", "too_old"),
            ("refused", "unavailable"),
        ] {
            summary.count(status, reason.to_owned());
        }
        let text = shown(&summary);
        assert!(text.starts_with("would replay 4 rejected events; nothing was stored\n"), "{text}");
        for part in
            ["accepted  ", "duplicate (", "again: too_old", "for now: unavailable", "2 too large"]
        {
            assert!(text.contains(part), "{text}");
        }
    }
}
