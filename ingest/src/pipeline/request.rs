//! What a request knows about its events while they are decided, and how each gets its fate.
//!
//! Always true: a fate is given from facts that the pipeline found out; a rejection is queued and
//! becomes final only when the rejected log has it; events that share an identity share what the
//! log holds under it.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chalkstream_access::{BucketKey, Credential, HeldBack};
use chalkstream_event_log::{AppendError, Kept};
use chalkstream_schemas::{
    ContentHash, EventId, EventIdentity, EventReader, EventRef, EventType, ParseContext,
    PartitionId, RefuseReason, RejectReason, RejectedRecord, Rejection, Timestamp,
};

use crate::decode::Batch;
use crate::fate::{Fate, as_sent, client_id};
use crate::ledger::{Ledger, Progress, Undecided};
use crate::metrics::events::EventCounts;
use crate::outcomes::Outcomes;

/// The first event of the request with its identity, as its record and what is asked of it on the
/// way to the log. It holds no other fields: a request waits for the log most of its time, and the less
/// it keeps meanwhile, the more of what others work with stays in the processor's cache.
pub(super) struct Candidate<'a> {
    pub(super) token: Undecided,
    pub(super) id: SentId<'a>,
    pub(super) identity: EventIdentity,
    pub(super) content: ContentHash,
    pub(super) event_type: EventType,
    /// Whose limit it counts against.
    pub(super) learner: BucketKey,
    pub(super) record: Place,
    /// Its place in [`Request::first`].
    pub(super) ordinal: usize,
}

/// An event's id, by which its sender knows it.
pub(super) struct SentId<'a> {
    pub(super) id: EventId,
    /// As it was sent, where it was not a UUID.
    pub(super) original: Option<Cow<'a, str>>,
}

impl SentId<'_> {
    fn text(&self) -> String {
        as_sent(self.id, self.original.as_deref())
    }
}

/// Where a record goes, and where it stands in [`Request::records`].
pub(super) struct Place {
    pub(super) partition: PartitionId,
    pub(super) key: Range<usize>,
    pub(super) payload: Range<usize>,
}

/// A later event of the request with the same identity.
pub(super) struct Follower<'a> {
    pub(super) token: Undecided,
    pub(super) id: SentId<'a>,
    pub(super) content: ContentHash,
    pub(super) ordinal: usize,
}

/// What became of the first event with an identity, as far as the later ones are concerned.
#[derive(Clone, Copy)]
pub(super) enum First {
    /// The log holds this under the identity.
    Stored(ContentHash),
    /// The log does not hold it, as far as is known, and why not.
    NotStored(RefuseReason),
}

/// One request while it is being decided.
pub(super) struct Request<'a> {
    pub(super) batch: &'a Batch,
    pub(super) credential: &'a Credential,
    pub(super) received_at: Timestamp,
    pub(super) ledger: Ledger,
    /// Whether the answer names accepted events too.
    pub(super) name_all: bool,
    /// The records of all that can be taken, while any of them has not gone to the log.
    pub(super) records: Bytes,
    /// For each identity of the request: what became of its first event.
    pub(super) first: Vec<First>,
    /// What is over a limit so far.
    pub(super) held: HeldBack,
    /// Rejections that the rejected log has not acknowledged yet.
    pub(super) rejections: Vec<(Undecided, Rejection)>,
    /// For events that are replayed: when each was first received.
    pub(super) first_received: Option<&'a [Timestamp]>,
}

impl<'a> Request<'a> {
    /// Counts the events as received in these books, and hands out their tokens in order.
    pub(super) fn open(
        batch: &'a Batch,
        credential: &'a Credential,
        received_at: Timestamp,
        (counts, outcomes): (&Arc<EventCounts>, &Arc<Outcomes>),
        progress: Progress,
    ) -> (Self, Vec<Undecided>) {
        let events = batch.events.len();
        let account = outcomes.account(credential, received_at, events);
        let (ledger, tokens) = Ledger::open(counts, account, events, progress);
        let request = Self {
            batch,
            credential,
            received_at,
            ledger,
            name_all: false,
            records: Bytes::new(),
            first: Vec::new(),
            held: HeldBack::default(),
            rejections: Vec::new(),
            first_received: None,
        };
        (request, tokens)
    }

    /// An event of the request as the rejected log keeps it.
    pub(super) fn rejected(&self, rejection: &Rejection, raw: &[u8]) -> RejectedRecord {
        RejectedRecord {
            school_id: self.credential.school_id.clone(),
            key_id: self.credential.key_id.to_string(),
            app: rejection.app.clone().or_else(|| self.credential.app.as_deref().map(Into::into)),
            type_name: rejection.type_name.clone(),
            reason: rejection.reason,
            field: rejection.field.clone(),
            message: rejection.message.clone(),
            received_at: self.received_at,
            raw: raw.to_vec(),
            replayed_at: None,
        }
    }

    pub(super) fn settle_appended(
        &mut self,
        candidate: Candidate<'_>,
        result: Result<Kept, AppendError>,
    ) {
        match result {
            Ok(_durable) => self.settle_accepted(candidate),
            Err(AppendError::TooLarge { bytes, limit_bytes }) => {
                let message = format!(
                    "the event takes {bytes} bytes in the log, which takes {limit_bytes}; send less `data`"
                );
                self.reject(candidate, RejectReason::EventTooLarge, None, message);
            }
            Err(
                AppendError::Busy { .. }
                | AppendError::NoSuchPartition { .. }
                | AppendError::Stopped { .. }
                | AppendError::Unavailable { .. }
                | AppendError::Unacknowledged { .. },
            ) => self.refuse(candidate, RefuseReason::Unavailable),
        }
    }

    pub(super) fn settle_accepted(&mut self, candidate: Candidate<'_>) {
        self.remember(candidate.ordinal, candidate.content);
        let id = self.name_all.then(|| candidate.id.text());
        self.ledger.settle(candidate.token, id, Fate::Accepted(candidate.event_type));
    }

    pub(super) fn settle_seen(&mut self, candidate: Candidate<'_>, stored: ContentHash) {
        self.remember(candidate.ordinal, stored);
        if stored == candidate.content {
            let id = Some(candidate.id.text());
            self.ledger.settle(candidate.token, id, Fate::Duplicate);
        } else {
            self.reject(candidate, RejectReason::IdConflict, Some("id"), conflict());
        }
    }

    pub(super) fn settle_follower(&mut self, follower: Follower<'_>) {
        let Follower { token, id, content, ordinal } = follower;
        let id = id.text();
        match self.first.get(ordinal) {
            Some(First::Stored(stored)) if *stored == content => {
                self.ledger.settle(token, Some(id), Fate::Duplicate);
            }
            Some(First::Stored(_other)) => {
                let rejection = Rejection::new(RejectReason::IdConflict, Some("id"), conflict());
                self.rejections.push((token, rejection.with_id(id)));
            }
            Some(First::NotStored(reason)) => {
                self.ledger.settle(token, Some(id), Fate::Refused(*reason));
            }
            None => {
                debug_assert!(false, "no event {ordinal} comes first");
                self.ledger.settle(token, Some(id), Fate::Refused(RefuseReason::Unavailable));
            }
        }
    }

    pub(super) fn settle_rejections(
        &mut self,
        rejections: Vec<(Undecided, Rejection)>,
        kept: Vec<Result<Kept, AppendError>>,
    ) {
        for ((token, rejection), kept) in rejections.into_iter().zip(kept) {
            match kept {
                Ok(_durable) => self.settle_rejected(token, rejection),
                Err(_logged) => {
                    let fate = Fate::Refused(RefuseReason::Unavailable);
                    self.ledger.settle(token, rejection.id, fate);
                }
            }
        }
    }

    pub(super) fn settle_rejected(&mut self, token: Undecided, mut rejection: Rejection) {
        let id = rejection.id.take();
        self.ledger.settle(token, id, Fate::Rejected(Box::new(rejection)));
    }

    /// Queues the rejection: it is final once the rejected log has it.
    fn reject(
        &mut self,
        candidate: Candidate<'_>,
        reason: RejectReason,
        field: Option<&str>,
        message: String,
    ) {
        let Candidate { token, id, .. } = candidate;
        // The event was good, so this gives it again; it is seldom needed, and then as a whole.
        let context = ParseContext {
            school_id: &self.credential.school_id,
            received_at: self.received_at,
            batch_sent_at: self.batch.sent_at,
            undated: self.batch.undated,
            max_age: None,
            max_future: Duration::MAX,
            max_event_bytes: usize::MAX,
        };
        let rejection = match EventReader::new().read(self.batch.raw(token.index()), &context) {
            Ok(event) => rejection(&event, reason, field, message),
            Err(_no_longer_good) => Rejection::new(reason, field, message).with_id(id.text()),
        };
        self.rejections.push((token, rejection));
    }

    pub(super) fn refuse(&mut self, candidate: Candidate<'_>, reason: RefuseReason) {
        let id = Some(candidate.id.text());
        if let Some(first) = self.first.get_mut(candidate.ordinal) {
            *first = First::NotStored(reason);
        }
        self.ledger.settle(candidate.token, id, Fate::Refused(reason));
    }

    fn remember(&mut self, ordinal: usize, content: ContentHash) {
        if let Some(first) = self.first.get_mut(ordinal) {
            *first = First::Stored(content);
        }
    }
}

/// The rejection of a learner's credential that sends another one's event. It does not name whose
/// the credential is: the event says whose it is, the sender knows the rest.
pub(super) fn not_permitted(event: &EventRef<'_>) -> Rejection {
    let message = "the credential may send the events of its own learner alone (`events:learner`), and this event is another user's";
    rejection(event, RejectReason::NotPermitted, Some("user_id"), message.to_owned())
}

fn rejection(
    event: &EventRef<'_>,
    reason: RejectReason,
    field: Option<&str>,
    message: String,
) -> Rejection {
    let mut rejection = Rejection::new(reason, field, message).with_id(client_id(event));
    rejection.type_name = Some(event.type_name().to_owned());
    rejection.app = event.app.as_deref().map(str::to_owned);
    rejection
}

fn conflict() -> String {
    "another event of this user has this id, with other content; give every event an id of its own, and send an event again exactly as it was".to_owned()
}
