//! Control records: what folds use beside the events, written in band to every partition.
//!
//! Always true: a control record applies from its offset on, once per control id; its parts were
//! validated when it was made or decoded.
//! Not here: publishing (event-log), fetching blobs (the runtime), applying (core).

use prost::Message;
use uuid::Uuid;

use crate::ids::{IdError, SchoolId, SkillId};
use crate::proto::log::v1 as wire;
use crate::record::DecodeError;
use crate::time::Timestamp;

/// One control record; the same bytes stand in every partition.
#[derive(Clone, Debug, PartialEq)]
pub struct ControlRecord {
    /// What makes two copies the same.
    pub control_id: Uuid,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// What it says.
    pub body: ControlBody,
}

/// What a control record says.
#[derive(Clone, Debug, PartialEq)]
pub enum ControlBody {
    /// Parameters of Bayesian knowledge tracing.
    BktParameters {
        /// For one school, or for all.
        school_id: Option<SchoolId>,
        /// The name that attempts carry from here on.
        model_version: String,
        /// The table: [`encode_bkt`].
        table: ControlPayload,
    },
    /// A school's settings.
    SchoolSettings {
        /// The school.
        school_id: SchoolId,
        /// Its name.
        name: String,
        /// Its time zone by IANA name, checked with [`check_time_zone`].
        time_zone: String,
    },
}

/// Bytes that belong to a control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlPayload {
    /// In the record itself.
    Inline(Vec<u8>),
    /// In an immutable blob.
    Blob {
        /// BLAKE3 of the bytes: the blob's name.
        hash: [u8; 32],
        /// How many bytes it has.
        bytes: u64,
    },
}

/// No such time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no time zone {name:?}; use a name of the IANA database, such as Europe/Berlin")]
pub struct TimeZoneError {
    /// The name that was given.
    pub name: String,
}

/// The time zone of this IANA name.
pub fn check_time_zone(name: &str) -> Result<chrono_tz::Tz, TimeZoneError> {
    name.parse().map_err(|_parse_error| TimeZoneError { name: name.to_owned() })
}

/// The parameters of one skill, all probabilities.
#[derive(Clone, Debug, PartialEq)]
pub struct BktSkill {
    /// The skill.
    pub skill_id: SkillId,
    /// Known before the first practice.
    pub p_init: f64,
    /// Learnt by one practice.
    pub p_learn: f64,
    /// Right by guessing.
    pub p_guess: f64,
    /// Wrong by a slip.
    pub p_slip: f64,
    /// Forgotten between two practices.
    pub p_forget: f64,
}

/// Why a table of BKT parameters was not taken. Rows count from 1.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BktTableError {
    /// The bytes are no table.
    #[error("the bytes are not a table of BKT parameters")]
    Malformed,
    /// A skill id breaks the rules of ids.
    #[error("row {row}: skill_id {error}")]
    SkillId {
        /// The row.
        row: usize,
        /// Why.
        error: IdError,
    },
    /// A parameter is no probability.
    #[error("row {row}: {name} of skill {skill_id} is {value}; it must lie between 0 and 1")]
    NotAProbability {
        /// The row.
        row: usize,
        /// The skill.
        skill_id: String,
        /// The parameter.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// One skill has two rows.
    #[error("row {row}: skill {skill_id} has a row already")]
    Repeated {
        /// The row.
        row: usize,
        /// The skill.
        skill_id: String,
    },
}

impl BktSkill {
    /// Checks that every parameter is a probability; `row` is for the message.
    pub fn check(&self, row: usize) -> Result<(), BktTableError> {
        let parameters = [
            ("p_init", self.p_init),
            ("p_learn", self.p_learn),
            ("p_guess", self.p_guess),
            ("p_slip", self.p_slip),
            ("p_forget", self.p_forget),
        ];
        match parameters.into_iter().find(|(_, value)| !(0.0..=1.0).contains(value)) {
            None => Ok(()),
            Some((name, value)) => {
                let skill_id = self.skill_id.to_string();
                Err(BktTableError::NotAProbability { row, skill_id, name, value })
            }
        }
    }
}

fn check_table(skills: &[BktSkill]) -> Result<(), BktTableError> {
    let mut seen = std::collections::BTreeSet::new();
    for (row, skill) in (1..).zip(skills) {
        skill.check(row)?;
        if !seen.insert(&skill.skill_id) {
            return Err(BktTableError::Repeated { row, skill_id: skill.skill_id.to_string() });
        }
    }
    Ok(())
}

/// The bytes of a table, once every row is valid.
pub fn encode_bkt(skills: &[BktSkill]) -> Result<Vec<u8>, BktTableError> {
    check_table(skills)?;
    let skills = skills.iter().map(|skill| wire::BktSkill {
        skill_id: skill.skill_id.to_string(),
        p_init: skill.p_init,
        p_learn: skill.p_learn,
        p_guess: skill.p_guess,
        p_slip: skill.p_slip,
        p_forget: skill.p_forget,
    });
    Ok(wire::BktTable { skills: skills.collect() }.encode_to_vec())
}

/// The table of these bytes, once every row is valid.
pub fn decode_bkt(bytes: &[u8]) -> Result<Vec<BktSkill>, BktTableError> {
    let table = wire::BktTable::decode(bytes).map_err(|_decode_error| BktTableError::Malformed)?;
    let mut skills = Vec::with_capacity(table.skills.len());
    for (row, skill) in (1..).zip(table.skills) {
        let skill_id = SkillId::try_from(skill.skill_id)
            .map_err(|error| BktTableError::SkillId { row, error })?;
        skills.push(BktSkill {
            skill_id,
            p_init: skill.p_init,
            p_learn: skill.p_learn,
            p_guess: skill.p_guess,
            p_slip: skill.p_slip,
            p_forget: skill.p_forget,
        });
    }
    check_table(&skills)?;
    Ok(skills)
}

impl ControlRecord {
    pub(crate) fn to_wire(&self) -> wire::Control {
        let body = match &self.body {
            ControlBody::BktParameters { school_id, model_version, table } => {
                let table = match table {
                    ControlPayload::Inline(bytes) => {
                        wire::bkt_parameters::Table::Inline(bytes.clone())
                    }
                    ControlPayload::Blob { hash, bytes } => {
                        wire::bkt_parameters::Table::Blob(wire::BlobRef {
                            blake3: hash.to_vec(),
                            bytes: *bytes,
                        })
                    }
                };
                wire::control::Body::BktParameters(wire::BktParameters {
                    school_id: school_id.as_ref().map(ToString::to_string),
                    model_version: model_version.clone(),
                    table: Some(table),
                })
            }
            ControlBody::SchoolSettings { school_id, name, time_zone } => {
                wire::control::Body::SchoolSettings(wire::SchoolSettings {
                    school_id: school_id.to_string(),
                    name: name.clone(),
                    time_zone: time_zone.clone(),
                })
            }
        };
        wire::Control {
            control_id: self.control_id.as_bytes().to_vec(),
            issued_at_ms: self.issued_at.as_ms(),
            body: Some(body),
        }
    }

    pub(crate) fn from_wire(control: wire::Control) -> Result<Self, DecodeError> {
        let control_id = Uuid::from_slice(&control.control_id)
            .map_err(|_not_16_bytes| DecodeError::Field("control_id"))?;
        let issued_at = Timestamp::try_from_ms(control.issued_at_ms)
            .ok_or(DecodeError::Field("issued_at_ms"))?;
        let body = match control.body.ok_or(DecodeError::Field("control.body"))? {
            wire::control::Body::BktParameters(parameters) => {
                let school_id = parameters.school_id.map(SchoolId::try_from).transpose();
                let table = match parameters.table.ok_or(DecodeError::Field("table"))? {
                    wire::bkt_parameters::Table::Inline(bytes) => ControlPayload::Inline(bytes),
                    wire::bkt_parameters::Table::Blob(blob) => ControlPayload::Blob {
                        hash: <[u8; 32]>::try_from(blob.blake3.as_slice())
                            .map_err(|_not_32_bytes| DecodeError::Field("blake3"))?,
                        bytes: blob.bytes,
                    },
                };
                ControlBody::BktParameters {
                    school_id: school_id.map_err(|_id_error| DecodeError::Field("school_id"))?,
                    model_version: parameters.model_version,
                    table,
                }
            }
            wire::control::Body::SchoolSettings(settings) => {
                check_time_zone(&settings.time_zone)
                    .map_err(|_unknown| DecodeError::Field("time_zone"))?;
                ControlBody::SchoolSettings {
                    school_id: SchoolId::try_from(settings.school_id)
                        .map_err(|_id_error| DecodeError::Field("school_id"))?,
                    name: settings.name,
                    time_zone: settings.time_zone,
                }
            }
        };
        Ok(Self { control_id, issued_at, body })
    }
}
