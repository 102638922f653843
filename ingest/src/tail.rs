//! Events and their fates, live, for those who watch (`chalkstream tail`).
//!
//! In: the fates of each request. Out: one [`TailedEvent`] an event, to every watcher.
//! Always true: it costs nothing while nobody watches; a watcher that is slow loses events and is
//! told how many, and never slows ingest.
//! Not here: showing them (the binary).

use std::sync::Arc;

use chalkstream_schemas::{EventRef, Rejection, SchoolId, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;

use crate::fate::{Fate, Settled, client_id};

/// Events that a watcher may be behind.
const BEHIND_MAX: usize = 8_192;

/// An event that was taken in, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailedEvent {
    /// When the server took it in.
    pub received_at: Timestamp,
    /// The school of the credential.
    pub school_id: SchoolId,
    /// The key that sent it.
    pub key_id: String,
    /// Its type; as it was sent, where it was rejected.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Its application.
    pub app: Option<String>,
    /// Who acted, where that could be read.
    pub user_id: Option<String>,
    /// Its id as it was sent, where that could be read.
    pub id: Option<String>,
    /// `accepted`, `duplicate`, `rejected` or `refused`.
    pub status: String,
    /// Why it was rejected or refused.
    pub reason: Option<String>,
    /// The field at fault.
    pub field: Option<String>,
    /// What is wrong and what to do.
    pub message: Option<String>,
}

/// Which events somebody wants to see.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TailFilter {
    /// Of one school.
    pub school: Option<String>,
    /// With one fate.
    pub status: Option<String>,
    /// Of one type.
    #[serde(rename = "type")]
    pub type_name: Option<String>,
    /// Of one user.
    pub user: Option<String>,
}

impl TailFilter {
    /// Whether the event is wanted.
    pub fn wants(&self, event: &TailedEvent) -> bool {
        let fits = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        fits(&self.school, Some(event.school_id.as_str()))
            && fits(&self.status, Some(&event.status))
            && fits(&self.type_name, event.type_name.as_deref())
            && fits(&self.user, event.user_id.as_deref())
    }
}

/// Where fates are told.
#[derive(Debug)]
pub(crate) struct Tail(broadcast::Sender<Arc<TailedEvent>>);

impl Default for Tail {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }
}

impl Tail {
    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    pub(crate) fn watch(&self) -> broadcast::Receiver<Arc<TailedEvent>> {
        self.0.subscribe()
    }

    pub(crate) fn tell(&self, event: TailedEvent) {
        // The last watcher may have left meanwhile.
        drop(self.0.send(Arc::new(event)));
    }
}

/// What is known of an event beside its fate; kept only while somebody watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    type_name: Option<String>,
    app: Option<String>,
    user_id: Option<String>,
    id: Option<String>,
}

impl Watched {
    pub(crate) fn event(event: &EventRef<'_>) -> Self {
        Self {
            type_name: Some(event.type_name().to_owned()),
            app: event.app.as_deref().map(str::to_owned),
            user_id: Some(event.user_id.to_string()),
            id: Some(client_id(event)),
        }
    }

    pub(crate) fn rejected(rejection: &Rejection, raw: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Sent {
            user_id: Option<String>,
        }
        let sent = serde_json::from_slice::<Sent>(raw).ok();
        Self {
            type_name: rejection.type_name.clone(),
            app: rejection.app.clone(),
            user_id: sent.and_then(|sent| sent.user_id),
            id: rejection.id.clone(),
        }
    }

    pub(crate) fn with(
        self,
        received_at: Timestamp,
        school_id: &SchoolId,
        key_id: &str,
        settled: &Settled,
    ) -> TailedEvent {
        let Self { type_name, app, user_id, id } = self;
        let outcome = settled.fate.outcome();
        let (field, message) = match &settled.fate {
            Fate::Rejected(rejection) => (rejection.field.clone(), Some(rejection.message.clone())),
            Fate::Accepted(_) | Fate::Duplicate | Fate::Refused(_) => (None, None),
        };
        TailedEvent {
            received_at,
            school_id: school_id.clone(),
            key_id: key_id.to_owned(),
            type_name,
            app,
            user_id,
            id,
            status: outcome.status().to_owned(),
            reason: Some(outcome.reason()).filter(|reason| !reason.is_empty()).map(str::to_owned),
            field,
            message,
        }
    }
}
