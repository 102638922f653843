//! What became of events, counted by school, hour, key, application, type, fate and reason.
//!
//! In: the events and fates of each request ([`Account`]). Out: counts that [`writer`] puts into
//! the rejected log, and the same fates one by one for those who watch ([`crate::tail`]).
//! Always true: what a request's account counts is what its [`crate::ledger::Ledger`] counts, so the
//! sum over all series is the books'. No lock that all requests share. However many applications
//! and types clients invent, the number of series is bounded: what is beyond the bound is counted
//! under `other`.
//! Not here: the table (the processors add up the nodes).

use std::collections::HashMap;
use std::sync::Arc;

use chalkstream_access::Credential;
use chalkstream_schemas::ids::ID_MAX_BYTES;
use chalkstream_schemas::{
    EventOutcome, EventRef, EventType, OutcomeSeries, Rejection, SchoolId, Timestamp,
};
use parking_lot::Mutex;

use crate::fate::Settled;
use crate::metrics::events::SHARDS;
use crate::tail::{Tail, Watched};

mod totals;
pub(crate) mod writer;

/// Kinds of events that one request is counted by; further ones are `other`.
const KINDS_MAX: usize = 64;
/// Series that wait in a shard to be written; further ones are `other`.
const WAITING_MAX: usize = 4_096;
const OTHER: &str = "other";
const HOUR_MS: i64 = 3_600_000;

/// The counts of this process that have not been collected yet.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    shards: [Mutex<HashMap<OutcomeSeries, u64>>; SHARDS],
    pub(crate) tail: Tail,
}

impl Outcomes {
    /// Opens the account of a request's events.
    pub(crate) fn account(
        self: &Arc<Self>,
        credential: &Credential,
        received_at: Timestamp,
        events: usize,
    ) -> Account {
        Account {
            outcomes: Arc::clone(self),
            school_id: credential.school_id.clone(),
            key_id: Arc::clone(&credential.key_id),
            app: credential.app.clone(),
            received_at,
            kinds: vec![Kind::default(), Kind::new(OTHER, OTHER)],
            kind_of: vec![Kind::UNKNOWN; events],
            watched: self.tail.is_watched().then(|| vec![Watched::default(); events]),
        }
    }

    fn add(&self, shard: usize, counts: impl Iterator<Item = (OutcomeSeries, u64)>) {
        let Some(shard) = self.shards.get(shard) else { return };
        let mut shard = shard.lock();
        for (series, events) in counts {
            add_within(&mut shard, WAITING_MAX, series, events);
        }
    }

    /// Takes out what was counted since the last call.
    pub(crate) fn take(&self) -> Vec<(OutcomeSeries, u64)> {
        self.shards.iter().flat_map(|shard| std::mem::take(&mut *shard.lock())).collect()
    }
}

/// Adds to a series, or to the one for the rest where there are `max` others.
fn add_within<N: Default + std::ops::AddAssign<u64>>(
    counts: &mut HashMap<OutcomeSeries, N>,
    max: usize,
    mut series: OutcomeSeries,
    events: u64,
) {
    if counts.len() >= max && !counts.contains_key(&series) {
        series.app = OTHER.into();
        series.type_name = OTHER.into();
    }
    *counts.entry(series).or_default() += events;
}

/// Application and type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kind {
    app: Box<str>,
    type_name: Box<str>,
}

impl Kind {
    /// The place of the kind of which nothing is known.
    const UNKNOWN: usize = 0;
    /// The place of the kind for those that are too many.
    const OTHER: usize = 1;

    fn new(type_name: &str, app: &str) -> Self {
        Self { app: app.into(), type_name: type_name.into() }
    }
}

/// The events of one request: of which kind they are, and in the end what became of them.
#[derive(Debug)]
pub(crate) struct Account {
    outcomes: Arc<Outcomes>,
    school_id: SchoolId,
    key_id: Arc<str>,
    /// The application of events that name none.
    app: Option<Arc<str>>,
    received_at: Timestamp,
    kinds: Vec<Kind>,
    /// For each event its place in `kinds`.
    kind_of: Vec<usize>,
    /// More about each event, if somebody watches.
    watched: Option<Vec<Watched>>,
}

impl Account {
    /// Tells what an event is.
    pub(crate) fn is_event(&mut self, index: usize, event: &EventRef<'_>) {
        self.is_kind(index, event.type_name(), event.app.as_deref());
        if let Some(watched) = self.watched.as_mut().and_then(|all| all.get_mut(index)) {
            *watched = Watched::event(event);
        }
    }

    /// Tells what could be read of an event that is at fault.
    pub(crate) fn is_rejected(&mut self, index: usize, rejection: &Rejection, raw: &[u8]) {
        let app = rejection.app.as_deref();
        let app = app.map(|app| if app.len() > ID_MAX_BYTES { OTHER } else { app });
        let type_name = rejection.type_name.as_deref().map_or("", canonical);
        self.is_kind(index, type_name, app);
        if let Some(watched) = self.watched.as_mut().and_then(|all| all.get_mut(index)) {
            *watched = Watched::rejected(rejection, raw);
        }
    }

    fn is_kind(&mut self, index: usize, type_name: &str, app: Option<&str>) {
        let app = app.or(self.app.as_deref()).unwrap_or_default();
        let known =
            self.kinds.iter().rposition(|kind| *kind.type_name == *type_name && *kind.app == *app);
        let kind = known.unwrap_or_else(|| {
            if self.kinds.len() >= KINDS_MAX {
                return Kind::OTHER;
            }
            self.kinds.push(Kind::new(type_name, app));
            self.kinds.len() - 1
        });
        if let Some(place) = self.kind_of.get_mut(index) {
            *place = kind;
        }
    }

    /// Counts the fates, in the order of the request.
    pub(crate) fn close(&mut self, shard: usize, settled: &[Settled]) {
        let mut counts: Vec<((usize, EventOutcome), u64)> = Vec::new();
        for (event, kind) in settled.iter().zip(&self.kind_of) {
            let what = (*kind, event.fate.outcome());
            match counts.iter_mut().rev().find(|(counted, _)| *counted == what) {
                Some((_, events)) => *events += 1,
                None => counts.push((what, 1)),
            }
        }
        let hour = Timestamp::from_ms(self.received_at.as_ms().div_euclid(HOUR_MS) * HOUR_MS);
        let series = counts.into_iter().filter_map(|((kind, outcome), events)| {
            let Kind { app, type_name } = self.kinds.get(kind)?.clone();
            let (school_id, key_id) = (self.school_id.clone(), Arc::clone(&self.key_id));
            Some((OutcomeSeries { hour, school_id, key_id, app, type_name, outcome }, events))
        });
        self.outcomes.add(shard, series);
        if let Some(watched) = self.watched.take() {
            let (school_id, key_id) = (&self.school_id, &self.key_id);
            for (event, watched) in settled.iter().zip(watched) {
                let tailed = watched.with(self.received_at, school_id, key_id, event);
                self.outcomes.tail.tell(tailed);
            }
        }
    }
}

/// The name that counts go by: the canonical one, none for a type that does not exist.
fn canonical(sent: &str) -> &str {
    match EventType::from_name(sent) {
        Some(known) => known.info().map_or(sent, |info| info.name),
        None => "",
    }
}

#[cfg(test)]
mod tests;
