//! From the events of a request to their fates: validate, deduplicate, make durable.
//!
//! In: a [`Batch`] and whose it is. Out: an [`Outcome`] with one fate for every event.
//! Always true, in this order: an id is reserved, the committed index is asked, the log
//! acknowledges, the index commits, the reservation is released. So a failed write never makes its
//! retry look like a duplicate, and of several requests with one id exactly one is accepted. A
//! request produces what it reserved before it waits for others, and holds nothing while it waits,
//! so requests cannot wait for each other in a circle. `rejected` is answered only after the
//! rejected log acknowledged.
//! Not here: connections. A request that is under way runs to its end in a task of its own, so a
//! client that goes away loses nothing and leaves nothing behind.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use chalkstream_access::{Clock, Credential, Limits, Live};
use chalkstream_event_log::{
    AppendError, Intake, Kept, NewRecord, SeenIndex, Topic, partition_of_key,
};
use chalkstream_schemas::record::encode_event;
use chalkstream_schemas::{
    EventIdentity, EventReader, EventRef, ParseContext, PartitionId, RefuseReason, RejectedRecord,
    Rejection, Timestamp, put_record_key,
};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::decode::Batch;
use crate::dedup::{Contested, Reservations};
use crate::fate::Outcome;
use crate::ledger::{Progress, Undecided};
use crate::metrics::{LogCall, Metrics};
use crate::options::IngestOptions;
use crate::outcomes::Outcomes;
use crate::trace::{self, part};

mod again;
mod replay;
mod request;
mod validate;

use request::{Candidate, First, Follower, Place, Request, SentId, not_permitted};

/// After so many events a request lets others have the thread.
const EVENTS_PER_TURN: usize = 512;

/// What every request works with.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) log: Arc<dyn Intake>,
    pub(crate) seen: Arc<dyn SeenIndex>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Live<IngestOptions>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) reservations: Arc<Reservations>,
    pub(crate) outcomes: Arc<Outcomes>,
    pub(crate) limits: Arc<Limits>,
}

impl Pipeline {
    /// Gives every event of the batch its fate; waits for other requests until `deadline`. What has its
    /// fate stands in `progress` at once.
    pub(crate) async fn run(
        &self,
        batch: &Batch,
        credential: &Credential,
        name_all: bool,
        deadline: Instant,
        progress: Progress,
    ) -> Outcome {
        let books = (&self.metrics.events, &self.outcomes);
        let now = self.clock.now();
        let (mut request, tokens) = Request::open(batch, credential, now, books, progress);
        request.name_all = name_all;
        self.decide(request, tokens, deadline).await
    }

    async fn decide(
        &self,
        mut request: Request<'_>,
        tokens: Vec<Undecided>,
        deadline: Instant,
    ) -> Outcome {
        let (mut waiting, followers) =
            self.parse(&mut request, tokens).instrument(part!("parse")).await;
        while !waiting.is_empty() {
            let contested = self.produce(&mut request, waiting).await;
            waiting = wait_for_others(&mut request, contested, deadline).await;
        }
        for follower in followers {
            request.settle_follower(follower);
        }
        self.keep_rejections(&mut request).await;
        Outcome { retry_after: request.held.retry_after, ..request.ledger.close() }
    }

    /// Reads every event and writes the records of those that can be taken; returns the first with
    /// each identity, and those that follow it.
    async fn parse<'a>(
        &self,
        request: &mut Request<'a>,
        tokens: Vec<Undecided>,
    ) -> (Vec<Candidate<'a>>, Vec<Follower<'a>>) {
        let options = self.options.get();
        let (batch, credential) = (request.batch, request.credential);
        let mut reader = EventReader::new();
        let context = ParseContext {
            school_id: &credential.school_id,
            received_at: request.received_at,
            batch_sent_at: batch.sent_at,
            undated: batch.undated,
            max_age: credential.max_age(options.max_age.get()),
            max_future: credential.max_future.unwrap_or(options.max_future.get()),
            max_event_bytes: options.max_event.get(),
        };
        let partitions = self.log.partitions(Topic::Events);
        // One allocation for the whole request, which all records share. A record takes about as
        // many bytes as the event's JSON and its key.
        let mut records = Vec::with_capacity(batch.body.len() + 64 * tokens.len());
        let mut candidates = Vec::with_capacity(tokens.len());
        let mut followers = Vec::new();
        let mut ordinals = HashMap::with_capacity(tokens.len());
        for token in tokens {
            if token.index() % EVENTS_PER_TURN == EVENTS_PER_TURN - 1 {
                tokio::task::yield_now().await;
            }
            let raw = batch.raw(token.index());
            let first_received = request.first_received.and_then(|all| all.get(token.index()));
            let parsed = match (batch.faults.get(&token.index()), first_received) {
                (Some(fault), _) => Err(fault.clone()),
                (None, None) => reader.read(raw, &context),
                (None, Some(first)) => again::read_again(&mut reader, raw, &context, *first),
            };
            let event = match parsed {
                Ok(event) => event,
                Err(rejection) => {
                    request.ledger.account.is_rejected(token.index(), &rejection, raw);
                    request.rejections.push((token, rejection));
                    continue;
                }
            };
            request.ledger.account.is_event(token.index(), &event);
            if !credential.may_send_for(&event.user_id) {
                request.rejections.push((token, not_permitted(&event)));
                continue;
            }
            let (identity, content) = (event.identity(), event.content_hash);
            let ordinal = ordinals.len();
            match ordinals.entry(identity) {
                Entry::Occupied(first) => {
                    let id = SentId { id: event.id, original: event.original_id };
                    followers.push(Follower { token, id, content, ordinal: *first.get() });
                }
                Entry::Vacant(first) => {
                    first.insert(ordinal);
                    let learner = self.limits.learner(credential, &event.user_id);
                    let event_type = event.event_type();
                    let record = put_record(&event, partitions, &mut records);
                    let id = SentId { id: event.id, original: event.original_id };
                    candidates.push(Candidate {
                        token,
                        id,
                        identity,
                        content,
                        event_type,
                        learner,
                        record,
                        ordinal,
                    });
                }
            }
        }
        request.records = Bytes::from(records);
        request.first.resize(ordinals.len(), First::NotStored(RefuseReason::Unavailable));
        (candidates, followers)
    }

    /// Reserves what is free, asks the index, appends what is new. Returns what others hold.
    async fn produce<'c>(
        &self,
        request: &mut Request<'_>,
        waiting: Vec<Candidate<'c>>,
    ) -> Vec<(Candidate<'c>, Contested)> {
        let identities = waiting.iter().map(|candidate| candidate.identity).collect::<Vec<_>>();
        let (reserved, holders) = self.reservations.reserve(&identities);
        let (ours, contested) = sort_out(waiting, holders);
        let new =
            self.not_seen(request, ours, reserved.identities()).instrument(part!("dedupe")).await;
        let new = self.within_limits(request, new).await;
        let rejections = std::mem::take(&mut request.rejections);
        let records = new_records(request.received_at, &new, &request.records);
        if contested.is_empty() {
            // The log frees them as soon as it has them.
            request.records = Bytes::new();
        }
        let (appended, kept) =
            tokio::join!(self.append_events(records), self.append_rejections(request, &rejections));
        self.commit(&new, &appended).await;
        drop(reserved);
        request.settle_rejections(rejections, kept);
        self.give_back(request, &new, &appended).await;
        for (candidate, result) in new.into_iter().zip(appended) {
            request.settle_appended(candidate, result);
        }
        contested
    }

    /// Settles what the index knows; returns the rest.
    async fn not_seen<'c>(
        &self,
        request: &mut Request<'_>,
        ours: Vec<Candidate<'c>>,
        identities: &[EventIdentity],
    ) -> Vec<Candidate<'c>> {
        if ours.is_empty() {
            return ours;
        }
        let started = Instant::now();
        let found = self.seen.lookup(identities).await;
        self.metrics.lookup_seconds.observe(started.elapsed());
        let found = match found {
            Ok(found) if found.len() == ours.len() => found,
            Ok(found) => {
                let (asked, answered) = (ours.len(), found.len());
                let what = format!("it answered for {answered} ids instead of {asked}");
                return self.refuse_unseen(request, ours, &what);
            }
            Err(error) => return self.refuse_unseen(request, ours, &chain(&error)),
        };
        let (new, seen) = sort_out(ours, found);
        for (candidate, content) in seen {
            request.settle_seen(candidate, content);
        }
        new
    }

    fn refuse_unseen<'c>(
        &self,
        request: &mut Request<'_>,
        ours: Vec<Candidate<'c>>,
        error: &str,
    ) -> Vec<Candidate<'c>> {
        if let Some(times) = self.metrics.log_error(LogCall::Lookup) {
            tracing::error!(times, error, "the index of seen events could not be read");
        }
        for candidate in ours {
            request.refuse(candidate, RefuseReason::Unavailable);
        }
        Vec::new()
    }

    /// Settles what is over a limit; returns the rest. Only what is new comes here, so a client that
    /// sends everything again gets further each time.
    async fn within_limits<'c>(
        &self,
        request: &mut Request<'_>,
        new: Vec<Candidate<'c>>,
    ) -> Vec<Candidate<'c>> {
        let options = self.options.get();
        let limits = &options.limits;
        let Request { credential, received_at, held, .. } = request;
        let learners = new.iter().map(|candidate| candidate.learner);
        let verdicts = self.limits.take(limits, credential, *received_at, learners, held).await;
        let (within, over) = sort_out(new, verdicts);
        for (candidate, reason) in over {
            request.refuse(candidate, reason);
        }
        within
    }

    /// What the log did not take counts against no limit.
    async fn give_back(
        &self,
        request: &Request<'_>,
        new: &[Candidate<'_>],
        appended: &[Result<Kept, AppendError>],
    ) {
        let failed = new.iter().zip(appended).filter(|(_, result)| result.is_err());
        let learners = failed.map(|(candidate, _)| candidate.learner).collect::<Vec<_>>();
        if !learners.is_empty() {
            let options = self.options.get();
            let (limits, at) = (&options.limits, request.received_at);
            self.limits.give_back(limits, request.credential, at, &learners).await;
        }
    }

    async fn append_events(&self, records: Vec<NewRecord>) -> Vec<Result<Kept, AppendError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let started = Instant::now();
        let span = part!("append", events = records.len(), log.offsets = tracing::field::Empty);
        let places = (!span.is_disabled())
            .then(|| records.iter().map(|record| record.partition.get()).collect::<Vec<_>>());
        let results =
            self.append(Topic::Events, records, LogCall::Append).instrument(span.clone()).await;
        if let Some(partitions) = places {
            let stored = partitions.into_iter().zip(&results).filter_map(|(id, kept)| match kept {
                Ok(Kept::InLog(offset)) => Some((id, offset.get())),
                Ok(Kept::InSpool) | Err(_) => None,
            });
            span.record("log.offsets", trace::offsets(stored));
        }
        self.metrics.append_seconds.observe(started.elapsed());
        results
    }

    async fn append_rejections(
        &self,
        request: &Request<'_>,
        rejections: &[(Undecided, Rejection)],
    ) -> Vec<Result<Kept, AppendError>> {
        if rejections.is_empty() {
            return Vec::new();
        }
        let partitions = self.log.partitions(Topic::Rejected);
        let max_event = self.options.get().max_event.get();
        let records = rejections
            .iter()
            .map(|(token, rejection)| {
                let raw = request.batch.raw(token.index());
                let raw = raw.get(..max_event).unwrap_or(raw);
                rejected_record(request.rejected(rejection, raw), partitions)
            })
            .collect();
        self.append(Topic::Rejected, records, LogCall::AppendRejected).await
    }

    async fn append(
        &self,
        topic: Topic,
        records: Vec<NewRecord>,
        call: LogCall,
    ) -> Vec<Result<Kept, AppendError>> {
        let asked = records.len();
        let mut results = self.log.append(topic, records).await;
        if results.len() != asked {
            let answered = results.len();
            tracing::error!(%topic, asked, answered, "the log answered for other records than asked");
            let missing = || {
                let reason = "the log did not answer for it".into();
                Err(AppendError::Unacknowledged { reason })
            };
            results.resize_with(asked, missing);
        }
        if let Some(Err(error)) = results.iter().find(|result| result.is_err())
            && let Some(times) = self.metrics.log_error(call)
        {
            let failed = results.iter().filter(|result| result.is_err()).count();
            let error = chain(error);
            tracing::warn!(%topic, times, failed, asked, error, "the log did not take all records");
        }
        results
    }

    /// Tells the index what the log acknowledged. If it cannot keep that, the events are durable
    /// all the same: a retry is taken again, and the processors drop it.
    async fn commit(&self, new: &[Candidate<'_>], appended: &[Result<Kept, AppendError>]) {
        let acknowledged = new
            .iter()
            .zip(appended)
            .filter(|(_, result)| result.is_ok())
            .map(|(candidate, _)| (candidate.identity, candidate.content))
            .collect::<Vec<_>>();
        if acknowledged.is_empty() {
            return;
        }
        let started = Instant::now();
        let kept = self.seen.commit(&acknowledged).await;
        self.metrics.commit_seconds.observe(started.elapsed());
        if let Err(error) = kept
            && let Some(times) = self.metrics.log_error(LogCall::Commit)
        {
            let error = chain(&error);
            tracing::error!(times, error, "the index of seen events did not keep new ones");
        }
    }

    async fn keep_rejections(&self, request: &mut Request<'_>) {
        let rejections = std::mem::take(&mut request.rejections);
        let kept = self.append_rejections(request, &rejections).await;
        request.settle_rejections(rejections, kept);
    }
}

/// Those that nothing was found about, and the others with what was found. Nearly always nothing
/// was, and then nothing moves.
fn sort_out<'c, T>(
    all: Vec<Candidate<'c>>,
    found: Vec<Option<T>>,
) -> (Vec<Candidate<'c>>, Vec<(Candidate<'c>, T)>) {
    if found.iter().all(Option::is_none) {
        return (all, Vec::new());
    }
    let mut rest = Vec::with_capacity(all.len());
    let mut others = Vec::new();
    for (candidate, found) in all.into_iter().zip(found) {
        match found {
            None => rest.push(candidate),
            Some(found) => others.push((candidate, found)),
        }
    }
    (rest, others)
}

/// Writes an event's key and record, and says where.
fn put_record(event: &EventRef<'_>, partitions: u32, out: &mut Vec<u8>) -> Place {
    let key = out.len();
    put_record_key(event.school_id, &event.user_id, out);
    let payload = out.len();
    let partition = partition_of_key(out.get(key..).unwrap_or_default(), partitions);
    encode_event(event, out);
    Place { partition, key: key..payload, payload: payload..out.len() }
}

/// What the log is given for these.
fn new_records(received_at: Timestamp, new: &[Candidate<'_>], records: &Bytes) -> Vec<NewRecord> {
    let record = |candidate: &Candidate<'_>| NewRecord {
        partition: candidate.record.partition,
        key: records.slice(candidate.record.key.clone()),
        payload: records.slice(candidate.record.payload.clone()),
        timestamp: received_at,
        identity: Some((candidate.identity, candidate.content)),
    };
    new.iter().map(record).collect()
}

/// Where a rejected event goes, and as what.
fn rejected_record(record: RejectedRecord, partitions: u32) -> NewRecord {
    // The same bytes of the same school have the same key, wherever they are counted once.
    let hash: [u8; 32] = Sha256::digest(&record.raw).into();
    let [a, b, c, d, ..] = hash;
    let school = record.school_id.as_str().as_bytes();
    let mut key = BytesMut::with_capacity(school.len() + 33);
    key.put_slice(school);
    key.put_u8(0);
    key.put_slice(&hash);
    NewRecord {
        partition: PartitionId::new(u32::from_le_bytes([a, b, c, d]) % partitions.max(1)),
        key: key.freeze(),
        payload: Bytes::from(record.encode()),
        timestamp: record.replayed_at.unwrap_or(record.received_at),
        identity: None,
    }
}

/// Waits until others have let go of what they held; what they produced is then in the index, and
/// what they failed to produce is free. After the deadline the rest is refused.
async fn wait_for_others<'c>(
    request: &mut Request<'_>,
    contested: Vec<(Candidate<'c>, Contested)>,
    deadline: Instant,
) -> Vec<Candidate<'c>> {
    let mut free = Vec::with_capacity(contested.len());
    for (candidate, holder) in contested {
        match tokio::time::timeout_at(deadline, holder.released()).await {
            Ok(()) => free.push(candidate),
            Err(_elapsed) => request.refuse(candidate, RefuseReason::Unavailable),
        }
    }
    free
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
