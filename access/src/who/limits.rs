//! Limits, each on an axis of its own: a credential, a learner, a school, the process.
//!
//! | scope | what | over it |
//! |---|---|---|
//! | credential | requests, events, bytes in flight | the request is 429 |
//! | learner | new events | the event is refused as `rate_limited` |
//! | publishable key | new users | the event is refused as `too_many_users` |
//! | school | new events of a day | the event is refused as `quota_exceeded` |
//! | process | bytes in flight ([`crate::who::admission`]) | the request is 503 |
//!
//! What a credential sends counts whatever becomes of it: that limit protects the work of this
//! process, and is decided before a body is read. Learners and schools count only what is new and
//! becomes durable: those limits protect what is behind the log. So a client that sends everything
//! again after a time-out pays nothing for duplicates, and gets further each time.
//!
//! Always true: a request passes as a whole or not at all on the credential's axes (a batch larger
//! than what is left runs into debt, so a large batch is never impossible); once an event of a
//! learner is refused, so are the later ones of the request, so that sending the refused again keeps
//! their order; what the log did not take is given back.
//! Not here: Redis ([`SchoolQuota`] is its place), HTTP.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chalkstream_schemas::{RefuseReason, Timestamp};

use crate::notice::Notice;
use crate::problem::{Problem, ProblemKind};
use crate::who::credential::Credential;

pub(crate) mod bucket;
mod known;
pub(crate) mod limit;
pub(crate) mod options;
pub(crate) mod quota;

use bucket::{Buckets, Key, Rate};
use known::Known;
use limit::Limit;
use options::LimitsOptions;
use quota::{Day, SchoolQuota};

/// The limits of this process.
#[derive(Debug)]
pub struct Limits {
    buckets: Buckets,
    /// Users whom publishable keys have brought.
    known: Known,
    quota: Arc<dyn SchoolQuota>,
    /// A clock that never steps.
    started: Instant,
    notices: [Notice; Limit::ALL.len()],
    hits: [AtomicU64; Limit::ALL.len()],
}

/// What a request was refused so far.
#[derive(Debug, Default)]
pub struct HeldBack {
    /// Learners over their limit, with the number of events refused.
    learners: HashMap<Key, u64>,
    /// Users whom their publishable key may not bring now.
    new_users: HashSet<Key>,
    quota_exceeded: bool,
    /// How long to wait before what was refused can pass, if anything was.
    pub retry_after: Option<Duration>,
}

impl Limits {
    /// Nothing has been used yet.
    pub fn new(quota: Arc<dyn SchoolQuota>) -> Self {
        Self {
            buckets: Buckets::new(),
            known: Known::default(),
            quota,
            started: Instant::now(),
            notices: Default::default(),
            hits: Default::default(),
        }
    }

    /// What was refused for each limit since the start.
    pub fn hits(&self) -> impl Iterator<Item = (Limit, u64)> {
        let counts = self.hits.iter().map(|count| count.load(Ordering::Relaxed));
        Limit::ALL.iter().copied().zip(counts)
    }

    /// Counts a request, before anything of its body is read.
    pub fn admit_request(
        &self,
        options: &LimitsOptions,
        credential: &Credential,
    ) -> Result<(), Problem> {
        self.charge(
            Limit::CredentialEvents,
            options.credential_events(credential.publishable),
            0,
            credential,
        )?;
        self.charge(Limit::CredentialRequests, options.credential_requests(), 1, credential)
    }

    /// Counts a request's events, before anything of them is looked at.
    pub fn admit_events(
        &self,
        options: &LimitsOptions,
        credential: &Credential,
        events: usize,
    ) -> Result<(), Problem> {
        let rate = options.credential_events(credential.publishable);
        self.charge(Limit::CredentialEvents, rate, events as u64, credential)
    }

    /// Takes all of `count` if at least one fits.
    fn charge(
        &self,
        limit: Limit,
        rate: Option<Rate>,
        count: u64,
        credential: &Credential,
    ) -> Result<(), Problem> {
        let Some(rate) = rate else { return Ok(()) };
        let now = self.now();
        let wait = self.buckets.with(self.key(limit, Some(credential)), now, |bucket| {
            if rate.room(*bucket, 1) == 0 {
                return Some(rate.wait(*bucket, 1));
            }
            rate.take(bucket, count);
            None
        });
        let Some(wait) = wait else { return Ok(()) };
        self.refused(limit, 1, Some(credential));
        let detail = format!(
            "the key {} sends more {} than it may; send the request again after Retry-After",
            credential.key_id,
            limit.as_str()
        );
        Err(Problem::new(ProblemKind::RateLimited, detail).retry_after(wait).over(limit))
    }

    /// Decides about new events, given by their learners in the order of the request: `None` for those
    /// that may pass. An empty answer lets all of them pass.
    pub async fn take(
        &self,
        options: &LimitsOptions,
        credential: &Credential,
        received_at: Timestamp,
        learners: impl ExactSizeIterator<Item = Key> + Clone,
        held: &mut HeldBack,
    ) -> Vec<Option<RefuseReason>> {
        let mut verdicts = Vec::new();
        if let Some(rate) = learner_rate(options, credential) {
            verdicts = self.take_of_learners(rate, learners.clone(), held);
        }
        if let Some(rate) = options.new_users().filter(|_| credential.publishable) {
            verdicts.resize(learners.len(), None);
            let passing =
                verdicts.iter_mut().zip(learners.clone()).filter(|(verdict, _)| verdict.is_none());
            let mut beyond = Vec::new();
            for (verdict, user) in passing {
                if !self.take_new_user(rate, credential, user, held) {
                    *verdict = Some(RefuseReason::TooManyUsers);
                    beyond.push(user);
                }
            }
            self.give_back_learners(options, credential, &beyond);
        }
        let quota = u64::from(options.school_events_per_day);
        if quota > 0 {
            verdicts.resize(learners.len(), None);
            let wanted = verdicts.iter().filter(|verdict| verdict.is_none()).count();
            let granted = self.take_of_school(quota, credential, received_at, wanted, held).await;
            let passing =
                verdicts.iter_mut().zip(learners).filter(|(verdict, _)| verdict.is_none());
            let mut beyond = Vec::new();
            for (verdict, learner) in passing.skip(granted) {
                *verdict = Some(RefuseReason::QuotaExceeded);
                beyond.push(learner);
            }
            self.give_back_learners(options, credential, &beyond);
        }
        for reason in
            [RefuseReason::RateLimited, RefuseReason::TooManyUsers, RefuseReason::QuotaExceeded]
        {
            let count = verdicts.iter().filter(|verdict| **verdict == Some(reason)).count() as u64;
            if let (Some(limit), 1..) = (Limit::of(reason), count) {
                self.refused(limit, count, Some(credential));
            }
        }
        verdicts
    }

    fn take_of_learners(
        &self,
        rate: Rate,
        learners: impl Iterator<Item = Key>,
        held: &mut HeldBack,
    ) -> Vec<Option<RefuseReason>> {
        let now = self.now();
        let fits = |learner: Key| {
            if let Some(refused) = held.learners.get_mut(&learner) {
                *refused += 1;
                return false;
            }
            let room = self.buckets.with(learner, now, |bucket| {
                let room = rate.room(*bucket, 1);
                rate.take(bucket, room);
                room
            });
            if room == 0 {
                held.learners.insert(learner, 1);
            }
            room > 0
        };
        let verdicts =
            learners.map(fits).map(|fits| (!fits).then_some(RefuseReason::RateLimited)).collect();
        for (learner, refused) in &held.learners {
            let wait = self.buckets.with(*learner, now, |bucket| rate.wait(*bucket, *refused));
            held.retry_after = held.retry_after.max(Some(wait));
        }
        verdicts
    }

    /// Whether a user of a publishable key is known, or may come now.
    fn take_new_user(
        &self,
        rate: Rate,
        credential: &Credential,
        user: Key,
        held: &mut HeldBack,
    ) -> bool {
        if held.new_users.contains(&user) {
            return false;
        }
        let key = self.key(Limit::NewUsers, Some(credential));
        let mut wait = Duration::ZERO;
        let fits = self.known.or_admit(user, || {
            self.buckets.with(key, self.now(), |bucket| {
                let room = rate.room(*bucket, 1);
                rate.take(bucket, room);
                wait = rate.wait(*bucket, 1);
                room > 0
            })
        });
        if !fits {
            held.new_users.insert(user);
            held.retry_after = held.retry_after.max(Some(wait));
        }
        fits
    }

    /// How many of the school's `wanted` events may pass.
    async fn take_of_school(
        &self,
        quota: u64,
        credential: &Credential,
        received_at: Timestamp,
        wanted: usize,
        held: &mut HeldBack,
    ) -> usize {
        let (day, events) = (Day::of(received_at), wanted as u64);
        let granted = match held.quota_exceeded {
            true => 0,
            false => self.quota.take(&credential.school_id, day, events, quota).await,
        };
        if granted < events {
            held.quota_exceeded = true;
            held.retry_after = held.retry_after.max(Some(Day::rest(received_at)));
        }
        usize::try_from(granted).unwrap_or(wanted)
    }

    /// Gives back what [`Limits::take`] let pass and the log did not take.
    pub async fn give_back(
        &self,
        options: &LimitsOptions,
        credential: &Credential,
        received_at: Timestamp,
        learners: &[Key],
    ) {
        let events = learners.len() as u64;
        self.give_back_learners(options, credential, learners);
        if options.school_events_per_day > 0 && events > 0 {
            let day = Day::of(received_at);
            self.quota.give_back(&credential.school_id, day, events).await;
        }
    }

    /// Counts a request that could not be read, if that was for a limit.
    pub fn reached(&self, problem: &Problem, credential: Option<&Credential>) {
        if let Some(limit) = problem.limit() {
            self.refused(limit, 1, credential);
        }
    }

    /// Counts what was refused for a limit, and tells operators now and then.
    fn refused(&self, limit: Limit, count: u64, credential: Option<&Credential>) {
        if let Some(hits) = self.hits.get(limit as usize) {
            hits.fetch_add(count, Ordering::Relaxed);
        }
        let notice = self.notices.get(limit as usize);
        if let Some(refused) = notice.and_then(|notice| notice.due(count)) {
            tracing::warn!(
                limit = limit.as_str(),
                scope = limit.scope(),
                refused,
                key_id = credential.map(|credential| &*credential.key_id),
                school_id = credential.map(|credential| credential.school_id.as_str()),
                "over a limit, the latest with this key"
            );
        }
    }

    fn give_back_learners(
        &self,
        options: &LimitsOptions,
        credential: &Credential,
        learners: &[Key],
    ) {
        let Some(rate) = learner_rate(options, credential) else { return };
        let now = self.now();
        for learner in learners {
            self.buckets.with(*learner, now, |bucket| rate.give_back(bucket, 1));
        }
    }

    /// The key of a credential on one of its axes. A token is its learner's own, though all tokens
    /// of an issuer have one name; requests whose key stands in their body are nobody's till then.
    pub fn key(&self, limit: Limit, credential: Option<&Credential>) -> Key {
        let who = credential.map(|credential| (&credential.key_id, &credential.learner));
        self.buckets.key((limit, who))
    }

    /// The key of a learner of the credential's school.
    pub fn learner(&self, credential: &Credential, user: &str) -> Key {
        self.buckets.key((Limit::LearnerEvents, &credential.school_id, user))
    }

    fn now(&self) -> u64 {
        bucket::nanoseconds(self.started.elapsed())
    }
}

/// A backfill brings years of a learner in minutes; whoever gave the scope meant it.
fn learner_rate(options: &LimitsOptions, credential: &Credential) -> Option<Rate> {
    options.learner_events().filter(|_| !credential.may_backfill())
}
