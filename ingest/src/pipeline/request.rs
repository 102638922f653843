//! What a request knows about its events while they are decided, and how each gets its fate.
//!
//! Always true: a fate is given from facts that the pipeline found out; a rejection is queued and
//! becomes final only when the rejected log has it; events that share an identity share what the
//! log holds under it.

use std::sync::Arc;

use chalkstream_event_log::{AppendError, Kept};
use chalkstream_schemas::{
    ContentHash, EventIdentity, EventRef, RefuseReason, RejectReason, RejectedRecord, Rejection,
    Timestamp,
};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::decode::Batch;
use crate::fate::{Fate, Ledger, Undecided};
use crate::keys::Credential;
use crate::limits::HeldBack;
use crate::metrics::events::EventCounts;
use crate::outcomes::Outcomes;

/// The first event of the request with its identity.
pub(super) struct Candidate<'e> {
    pub(super) token: Undecided,
    pub(super) event: &'e EventRef<'e>,
    pub(super) identity: EventIdentity,
    /// Its place in [`Request::first`].
    pub(super) ordinal: usize,
}

/// A later event of the request with the same identity.
pub(super) struct Follower {
    pub(super) token: Undecided,
    pub(super) id: String,
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
    ) -> (Self, Vec<Undecided>) {
        let events = batch.events.len();
        let account = outcomes.account(credential, received_at, events);
        let (ledger, tokens) = Ledger::open(counts, account, events);
        let request = Self {
            batch,
            credential,
            received_at,
            ledger,
            name_all: false,
            first: Vec::new(),
            held: HeldBack::default(),
            rejections: Vec::new(),
            first_received: None,
        };
        (request, tokens)
    }

    /// Finds the events that are the first with their identity; later ones follow it.
    pub(super) fn first_of_each<'e>(
        &mut self,
        events: &'e [EventRef<'e>],
        tokens: Vec<Undecided>,
    ) -> (Vec<Candidate<'e>>, Vec<Follower>) {
        let mut candidates = Vec::with_capacity(events.len());
        let mut followers = Vec::new();
        let mut ordinals = HashMap::with_capacity(events.len());
        for (event, token) in events.iter().zip(tokens) {
            let identity = event.identity();
            let ordinal = ordinals.len();
            match ordinals.entry(identity) {
                Entry::Vacant(first) => {
                    first.insert(ordinal);
                    candidates.push(Candidate { token, event, identity, ordinal });
                }
                Entry::Occupied(first) => {
                    let (id, content) = (client_id(event), event.content_hash);
                    followers.push(Follower { token, id, content, ordinal: *first.get() });
                }
            }
        }
        let unknown = First::NotStored(RefuseReason::Unavailable);
        self.first.resize(ordinals.len(), unknown);
        (candidates, followers)
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
        self.remember(candidate.ordinal, candidate.event.content_hash);
        let id = self.name_all.then(|| client_id(candidate.event));
        let event_type = candidate.event.event_type();
        self.ledger.settle(candidate.token, id, Fate::Accepted(event_type));
    }

    pub(super) fn settle_seen(&mut self, candidate: Candidate<'_>, stored: ContentHash) {
        self.remember(candidate.ordinal, stored);
        if stored == candidate.event.content_hash {
            let id = Some(client_id(candidate.event));
            self.ledger.settle(candidate.token, id, Fate::Duplicate);
        } else {
            self.reject(candidate, RejectReason::IdConflict, Some("id"), conflict());
        }
    }

    pub(super) fn settle_follower(&mut self, follower: Follower) {
        let Follower { token, id, content, ordinal } = follower;
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
        let Candidate { token, event, .. } = candidate;
        self.rejections.push((token, rejection(event, reason, field, message)));
    }

    pub(super) fn refuse(&mut self, candidate: Candidate<'_>, reason: RefuseReason) {
        let id = Some(client_id(candidate.event));
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

/// The id as the client knows it.
pub(crate) fn client_id(event: &EventRef<'_>) -> String {
    event.original_id.as_deref().map_or_else(|| event.id.to_string(), str::to_owned)
}
