//! `sessions`: what a person did in one go, of whatever role.
//!
//! A session is a run of events with the same client session (or all with none) without a gap of
//! 30 minutes. Its id is the client's; without one it is `auto-<started_at in ms>`. A client's
//! session that goes on after 30 idle minutes is a second session of the same id, with its own
//! `started_at`.
//! In: every event, by event time, in any order: a late one can extend a session at either end, or
//! join two. Out: one row per session touched; a row whose start moved, or that was joined to
//! another, is written again with `gone` = 1.
//! Always true: the result does not depend on the order of arrival, as long as no event is later
//! than the lateness limit ([`crate::entries`]). What comes later still is a session of its own.

use chalkstream_schemas::{Epoch, LogOffset, PartitionId, RowVersion, Timestamp};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::entries::{Passing, Recent};
use crate::fold::{AttemptDraft, Input, LearnerFold, Owner, Texts, graded_answer};
use crate::row::{RowSink, table_row};
use crate::spans::{IDLE_MS, Spans};

table_row! {
    /// One session.
    pub struct SessionRow<'a> in "sessions_state" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The person.
        user_id: &'a str,
        /// The client's id, or `auto-…`.
        session_id: &'a str,
        /// The first event.
        started_at: Timestamp,
        /// The person's partition.
        log_partition: PartitionId,
        /// The offset of the first record of this session.
        part: LogOffset,
        /// The last event.
        ended_at: Timestamp,
        /// Active time.
        active_ms: u64,
        /// Events.
        event_count: u32,
        /// Graded answers of a learner.
        answers: u32,
        /// The right ones among them.
        correct_count: u32,
        /// Version of the row.
        version: RowVersion,
        /// 1 if the session is no longer there.
        gone: u8,
    }
}

/// A person's latest sessions.
#[derive(Debug, Default)]
pub struct Sessions {
    recent: Recent<Session>,
}

#[derive(Debug)]
struct Session {
    client: Option<Box<str>>,
    part: LogOffset,
    spans: Spans,
    event_count: u32,
    answers: u32,
    correct_count: u32,
    touched: bool,
}

impl Passing for Session {
    fn ends_at(&self) -> Timestamp {
        self.spans.end()
    }
}

impl Session {
    fn row<S: RowSink>(&self, owner: &Owner<'_>, gone: bool, rows: &mut S) {
        let started_at = self.spans.start();
        let automatic;
        let session_id = match &self.client {
            Some(client) => client,
            None => {
                automatic = format!("auto-{}", started_at.as_ms());
                automatic.as_str()
            }
        };
        rows.row(
            owner.at,
            &SessionRow {
                epoch: owner.epoch,
                school_id: owner.school_id,
                user_id: owner.id,
                session_id,
                started_at,
                log_partition: owner.at.partition,
                part: self.part,
                ended_at: self.spans.end(),
                active_ms: self.spans.active_ms(),
                event_count: self.event_count,
                answers: self.answers,
                correct_count: self.correct_count,
                version: owner.version(),
                gone: u8::from(gone),
            },
        );
    }

    /// Whether a point lies less than 30 minutes from the session.
    fn reaches(&self, client: Option<&str>, time: Timestamp) -> bool {
        self.client.as_deref() == client
            && self.spans.start().ms_since(time) < IDLE_MS
            && time.ms_since(self.spans.end()) < IDLE_MS
    }
}

impl LearnerFold for Sessions {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "sessions";

    fn apply<S: RowSink>(
        &mut self,
        input: &mut Input<'_>,
        _attempts: &mut [AttemptDraft],
        rows: &mut S,
    ) {
        let (event, owner) = (input.event, input.owner());
        let (client, time) = (event.session_id.as_ref().map(|id| id.as_str()), event.event_time);
        let graded = graded_answer(event);
        let answers = u32::from(graded.is_some());
        let correct_count = u32::from(graded.is_some_and(|(_, correct)| correct));

        // The sessions that the event lies in or near; more than one means that it joins them.
        let mut joined: Option<Session> = None;
        let mut at = 0;
        while let Some(session) = self.recent.by_touch.get(at) {
            if !session.reaches(client, time) {
                at += 1;
                continue;
            }
            let session = self.recent.by_touch.remove(at);
            joined = Some(match joined {
                None => session,
                Some(other) => {
                    let (mut first, second) = if session.spans.start() < other.spans.start() {
                        (session, other)
                    } else {
                        (other, session)
                    };
                    second.row(&owner, true, rows);
                    first.spans.join(&second.spans);
                    first.event_count = first.event_count.saturating_add(second.event_count);
                    first.answers = first.answers.saturating_add(second.answers);
                    first.correct_count = first.correct_count.saturating_add(second.correct_count);
                    first
                }
            });
        }
        let mut session = match joined {
            Some(mut session) => {
                if time < session.spans.start() {
                    session.row(&owner, true, rows);
                }
                session.spans.add(time);
                session
            }
            None => Session {
                client: client.map(Into::into),
                part: input.at.offset,
                spans: Spans::at(time),
                event_count: 0,
                answers: 0,
                correct_count: 0,
                touched: true,
            },
        };
        session.event_count = session.event_count.saturating_add(1);
        session.answers = session.answers.saturating_add(answers);
        session.correct_count = session.correct_count.saturating_add(correct_count);
        session.touched = true;
        self.recent.push(session, input.now, |evicted| {
            if evicted.touched {
                evicted.row(&owner, false, rows);
            }
        });
    }

    fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        for session in &mut self.recent.by_touch {
            if std::mem::take(&mut session.touched) {
                session.row(owner, false, rows);
            }
        }
    }

    fn encode(&self, _texts: &Texts, out: &mut Encoder) {
        out.count(self.recent.by_touch.len());
        for session in &self.recent.by_touch {
            // No client's session id is empty.
            out.str(session.client.as_deref().unwrap_or_default());
            out.offset(session.part);
            session.spans.encode(out);
            for count in [session.event_count, session.answers, session.correct_count] {
                out.u32(count);
            }
        }
    }

    fn decode(input: &mut Decoder<'_>, _texts: &mut Texts) -> Result<Self, DecodeError> {
        let mut by_touch = Vec::new();
        for _ in 0..input.count()? {
            let client = input.str()?;
            by_touch.push(Session {
                client: (!client.is_empty()).then(|| client.into()),
                part: input.offset()?,
                spans: Spans::decode(input)?,
                event_count: input.u32()?,
                answers: input.u32()?,
                correct_count: input.u32()?,
                touched: false,
            });
        }
        by_touch.shrink_to_fit();
        Ok(Self { recent: Recent { by_touch } })
    }
}

#[cfg(test)]
mod tests;
