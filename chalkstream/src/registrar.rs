//! Keys, schools and models: what a school's administrator changes, the same behind the control
//! socket and for a command that opened the data folder itself.
//!
//! Always true: a change of schools or models is a control record that every partition has
//! acknowledged when the call returns, so it holds for every event acknowledged after it.

use std::sync::Arc;

use anyhow::{Context, Result};
use chalkstream_event_log::blobs::BlobStore;
use chalkstream_event_log::{EventLog, control};
use chalkstream_ingest::{KeyInfo, KeyStore, Scope};
use chalkstream_schemas::control::decode_bkt;
use chalkstream_schemas::{ControlBody, ControlPayload, SchoolId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::schools::{School, SchoolBook};

/// A key to make.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NewKey {
    pub(crate) school_id: SchoolId,
    pub(crate) scopes: Vec<Scope>,
}

/// A key as it is shown once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct CreatedKey {
    pub(crate) key: String,
    pub(crate) key_id: String,
    pub(crate) school_id: SchoolId,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) created_at: String,
}

/// A key as it is listed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyRow {
    pub(crate) key_id: String,
    pub(crate) school_id: SchoolId,
    pub(crate) scopes: Vec<Scope>,
    pub(crate) created_at: String,
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

impl From<KeyInfo> for KeyRow {
    fn from(info: KeyInfo) -> Self {
        let KeyInfo { key_id, grant, created_at, revoked_at, .. } = info;
        Self {
            key_id,
            school_id: grant.school_id,
            scopes: grant.scopes,
            created_at: created_at.to_string(),
            revoked_at: revoked_at.map(|time| time.to_string()),
        }
    }
}

pub(crate) fn now() -> Timestamp {
    Timestamp::from_ms(chrono::Utc::now().timestamp_millis())
}

impl Registrar {
    /// Makes a key, and the school where it is new.
    pub(crate) async fn create_key(&self, request: NewKey) -> Result<CreatedKey> {
        let NewKey { school_id, scopes } = request;
        if self.schools.find(&school_id)?.is_none() {
            let time_zone = "UTC".to_owned();
            self.set_school(NewSchool { school_id: school_id.clone(), title: None, time_zone })
                .await?;
        }
        let (key, info) = self.keys.create(&school_id, &scopes, now())?;
        let KeyInfo { key_id, grant, created_at, .. } = info;
        let chalkstream_ingest::Grant { school_id, scopes, .. } = grant;
        let key = key.reveal().to_owned();
        Ok(CreatedKey { key, key_id, school_id, scopes, created_at: created_at.to_string() })
    }

    pub(crate) fn list_keys(&self) -> Vec<KeyRow> {
        self.keys.list().into_iter().map(KeyRow::from).collect()
    }

    pub(crate) fn revoke_key(&self, key_id: &str) -> Result<KeyRow> {
        Ok(self.keys.revoke(key_id, now())?.into())
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
