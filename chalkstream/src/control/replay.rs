//! `/replay` of `control.sock`: rejected events once more through this process's ingest.

use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chalkstream_schemas::{RejectReason, RejectedRecord, SchoolId, Timestamp};
use serde::{Deserialize, Serialize};

use super::server::{Answer, Control};

/// A row of the view `rejected_events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RejectedRow {
    pub(crate) school_id: SchoolId,
    pub(crate) reason: String,
    pub(crate) field: Option<String>,
    pub(crate) message: String,
    pub(crate) app: Option<String>,
    #[serde(rename = "type")]
    pub(crate) type_name: Option<String>,
    pub(crate) key_id: String,
    pub(crate) received_ms: i64,
    pub(crate) replayed_ms: Option<i64>,
    /// The bytes, which need not be text.
    pub(crate) raw_base64: String,
}

impl RejectedRow {
    pub(crate) fn raw(&self) -> Result<Vec<u8>> {
        STANDARD.decode(&self.raw_base64).context("the bytes of a rejected event are not base64")
    }

    pub(crate) fn received_at(&self) -> Timestamp {
        Timestamp::from_ms(self.received_ms)
    }

    pub(crate) fn replayed_at(&self) -> Option<Timestamp> {
        self.replayed_ms.map(Timestamp::from_ms)
    }

    fn into_record(self) -> Result<RejectedRecord> {
        let raw = self.raw()?;
        let received_at = self.received_at();
        let Self { school_id, reason, field, message, app, type_name, key_id, .. } = self;
        let reason = RejectReason::from_name(&reason)
            .with_context(|| format!("there is no reason `{reason}` in this version"))?;
        Ok(RejectedRecord {
            school_id,
            key_id,
            app,
            type_name,
            reason,
            field,
            message,
            received_at,
            raw,
            replayed_at: None,
        })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplayRequest {
    /// Say what would happen, and store nothing.
    pub(crate) dry_run: bool,
    pub(crate) events: Vec<RejectedRow>,
}

/// What became of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplayedEvent {
    pub(crate) status: String,
    /// Empty where the status has none.
    pub(crate) reason: String,
}

/// In the order of the request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ReplayAnswer {
    pub(crate) events: Vec<ReplayedEvent>,
}

pub(super) async fn replay(
    State(control): State<Arc<Control>>,
    Json(request): Json<ReplayRequest>,
) -> Answer<ReplayAnswer> {
    let ingest = control.ingest()?;
    let records = request.events.into_iter().map(RejectedRow::into_record);
    let records = records.collect::<Result<Vec<_>>>()?;
    let outcomes = ingest.replay(&records, request.dry_run).await;
    let events = outcomes.into_iter().map(|outcome| ReplayedEvent {
        status: outcome.status().to_owned(),
        reason: outcome.reason().to_owned(),
    });
    Ok(Json(ReplayAnswer { events: events.collect() }))
}
