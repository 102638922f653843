//! Keys, schools and models: what a school's administrator changes, the same behind the control
//! socket and for a command that opened the data folder itself.
//!
//! Always true: a change of schools or models is a control record that every partition has
//! acknowledged when the call returns, so it holds for every event acknowledged after it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use chalkstream_access::{Grant, KeyError, KeyInfo, KeyStore, Span, WriteKey};
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{EventLog, control};
use chalkstream_schemas::control::decode_bkt;
use chalkstream_schemas::{ControlBody, ControlPayload, SchoolId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::schools::{School, SchoolBook};

/// A key to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewKey {
    pub(crate) grant: Grant,
    pub(crate) expires_at: Option<String>,
}

/// How a key is replaced.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Rotation {
    pub(crate) overlap: Span,
}

/// A key as it is shown once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CreatedKey {
    pub(crate) key: String,
    #[serde(flatten)]
    pub(crate) row: KeyRow,
}

/// A key as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) key_id: String,
    #[serde(flatten)]
    pub(crate) grant: Grant,
    pub(crate) state: String,
    pub(crate) created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rotating_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) successor: Option<String>,
    pub(crate) revoked_at: Option<String>,
}

/// Settings of a school.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewSchool {
    pub(crate) school_id: SchoolId,
    /// The name that people read; the one it has where absent, else its id.
    pub(crate) title: Option<String>,
    pub(crate) time_zone: String,
}

/// A model that every partition knows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LoadedModel {
    pub(crate) model_version: String,
    pub(crate) control_id: String,
    pub(crate) skills: usize,
}

/// Makes the changes.
#[derive(Debug)]
pub(crate) struct Registrar {
    pub(crate) keys: KeyStore,
    pub(crate) schools: SchoolBook,
    pub(crate) log: Arc<dyn EventLog>,
    pub(crate) blobs: BlobStore,
}

impl KeyRow {
    fn of(info: KeyInfo) -> Self {
        let state = info.state(now()).name().to_owned();
        let KeyInfo { key_id, grant, created_at, expires_at, rotated, revoked_at } = info;
        let text = |time: Timestamp| time.to_string();
        Self {
            key_id,
            grant,
            state,
            created_at: text(created_at),
            expires_at: expires_at.map(text),
            rotating_until: rotated.as_ref().map(|rotated| text(rotated.until)),
            successor: rotated.map(|rotated| rotated.successor),
            revoked_at: revoked_at.map(text),
        }
    }
}

impl CreatedKey {
    fn of((key, info): (WriteKey, KeyInfo)) -> Self {
        Self { key: key.reveal().to_owned(), row: KeyRow::of(info) }
    }
}

/// Every key, as it is listed.
pub(crate) fn list_keys(keys: &KeyStore) -> Vec<KeyRow> {
    keys.list().into_iter().map(KeyRow::of).collect()
}

/// Makes a successor of the key.
pub(crate) async fn rotate_key(
    keys: &KeyStore,
    key_id: &str,
    rotation: Rotation,
) -> Result<CreatedKey> {
    let key_id = key_id.to_owned();
    let overlap: Duration = rotation.overlap.get();
    Ok(CreatedKey::of(change(keys, move |keys| keys.rotate(&key_id, overlap, now())).await?))
}

/// Makes the key useless.
pub(crate) async fn revoke_key(keys: &KeyStore, key_id: &str) -> Result<KeyRow> {
    let key_id = key_id.to_owned();
    Ok(KeyRow::of(change(keys, move |keys| keys.revoke(&key_id, now())).await?))
}

/// Changing keys waits for a disk or for Kafka.
async fn change<T: Send + 'static>(
    keys: &KeyStore,
    change: impl FnOnce(&KeyStore) -> Result<T, KeyError> + Send + 'static,
) -> Result<T> {
    let keys = keys.clone();
    let changed = tokio::task::spawn_blocking(move || change(&keys)).await;
    Ok(changed.context("changing the keys had a bug")??)
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_ms(chrono::Utc::now().timestamp_millis())
}

impl Registrar {
    /// Makes a key, and its schools where they are new.
    pub(crate) async fn create_key(&self, request: NewKey) -> Result<CreatedKey> {
        let NewKey { grant, expires_at } = request;
        let time = |text: String| Timestamp::parse_rfc3339(&text).context("the key's end");
        let expires_at = expires_at.map(time).transpose()?;
        // Before a school is made for it.
        grant.check().map_err(|message| KeyError::Contradiction { message })?;
        for school_id in std::iter::once(&grant.school_id).chain(&grant.also_schools) {
            if self.schools.find(school_id)?.is_none() {
                let (school_id, time_zone) = (school_id.clone(), "UTC".to_owned());
                self.set_school(NewSchool { school_id, title: None, time_zone }).await?;
            }
        }
        let issue = move |keys: &KeyStore| keys.issue(grant, expires_at, now());
        Ok(CreatedKey::of(change(&self.keys, issue).await?))
    }

    /// Makes the school or changes its settings.
    pub(crate) async fn set_school(&self, request: NewSchool) -> Result<School> {
        let NewSchool { school_id, title, time_zone } = request;
        let known = self.schools.find(&school_id)?.map(|known| known.title);
        let title = title.or(known).unwrap_or_else(|| school_id.to_string());
        let body = ControlBody::SchoolSettings {
            school_id: school_id.clone(),
            name: title.clone(),
            time_zone: time_zone.clone(),
        };
        let record = control::publish(self.log.as_ref(), &self.blobs, body)
            .await
            .with_context(|| format!("could not publish the settings of school {school_id}"))?;
        let school = School {
            school_id,
            title,
            time_zone,
            control_id: record.control_id.to_string(),
            set_at: record.issued_at.to_string(),
        };
        self.schools.put(school.clone())?;
        Ok(school)
    }

    pub(crate) fn list_schools(&self) -> Result<Vec<School>> {
        self.schools.list()
    }

    /// Publishes BKT parameters, for all schools or one. The same table has the same version.
    pub(crate) async fn load_bkt(
        &self,
        school_id: Option<SchoolId>,
        table: Vec<u8>,
    ) -> Result<LoadedModel> {
        let skills = decode_bkt(&table).context("the table of BKT parameters is not valid")?.len();
        let hash = blake3::hash(&table).to_hex();
        let model_version = format!("bkt-{}", hash.chars().take(12).collect::<String>());
        let body = ControlBody::BktParameters {
            school_id,
            model_version: model_version.clone(),
            table: ControlPayload::Inline(table),
        };
        let record = control::publish(self.log.as_ref(), &self.blobs, body)
            .await
            .context("could not publish the BKT parameters")?;
        Ok(LoadedModel { model_version, control_id: record.control_id.to_string(), skills })
    }
}
