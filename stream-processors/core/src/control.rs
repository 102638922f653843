//! What control records set: model parameters and schools, as of this point of the log.
//!
//! In: control records, each at its offset. Out: what the folds look up, and rows for the views.
//! Always true: a control id is applied once; a record that cannot be applied changes nothing.
//! Parameters: a school's own table comes before the one for all schools, whichever was loaded
//! last; a skill that neither names has the defaults, under the model version `default`.
//! Not here: fetching large payloads (the runtime has them before it calls).

use std::collections::{BTreeMap, BTreeSet};

use chalkstream_schemas::control::{check_time_zone, decode_bkt};
use chalkstream_schemas::{
    BktTableError, ControlBody, ControlPayload, ControlRecord, Epoch, LogOffset, Timestamp,
};
use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::fold::Texts;
use crate::models::bkt::Parameters;
use crate::partition::StateRow;
use crate::row::{Day, Position, RowSink, table_row};
use crate::symbols::Symbol;

/// The model version before any load.
pub const DEFAULT_MODEL: &str = "default";

/// So many model versions fit into a learner's packed state.
const MODELS_MAX: u32 = 1 << 19;

const FORMAT: u8 = 1;
const KIND_APPLIED: &str = "control";
const KIND_BKT: &str = "bkt";
const KIND_SCHOOL: &str = "school";

/// Why a control record changes nothing.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum ControlError {
    /// Its parameters are not valid.
    #[error("the BKT parameters {model_version} are not valid")]
    Parameters {
        /// Their version.
        model_version: String,
        /// What is wrong.
        source: BktTableError,
    },
    /// Its time zone does not exist.
    #[error("school {school_id} cannot have the time zone {time_zone}, which does not exist")]
    TimeZone {
        /// The school.
        school_id: String,
        /// The zone.
        time_zone: String,
    },
    /// More versions than a learner's state can name.
    #[error("there are {MODELS_MAX} model versions already; fold the log again into a new epoch")]
    TooManyModels,
}

table_row! {
    /// The parameters of one skill under one model version.
    pub struct SkillParametersRow<'a> in "skill_parameters_raw" {
        /// The folding.
        epoch: Epoch,
        /// The school; the empty text for all schools.
        school_id: &'a str,
        /// The skill.
        skill_id: &'a str,
        /// The model version.
        model_version: &'a str,
        /// Known before the first answer.
        p_init: f64,
        /// Learned at an answer.
        p_learn: f64,
        /// Right though not known.
        p_guess: f64,
        /// Wrong though known.
        p_slip: f64,
        /// Forgotten at an answer.
        p_forget: f64,
        /// When they were loaded.
        loaded_at: Timestamp,
        /// Milliseconds of `loaded_at`: offsets of different partitions do not compare.
        version: u64,
    }
}

table_row! {
    /// A school's settings.
    pub struct SchoolRow<'a> in "schools_raw" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// Its name.
        name: &'a str,
        /// Its time zone.
        time_zone: &'a str,
        /// When they were set.
        updated_at: Timestamp,
        /// Milliseconds of `updated_at`: offsets of different partitions do not compare.
        version: u64,
    }
}

#[derive(Debug)]
struct Table {
    model: Symbol,
    skills: BTreeMap<Symbol, Parameters>,
    changed_by: LogOffset,
    touched: bool,
}

#[derive(Debug)]
struct School {
    zone: Tz,
    changed_by: LogOffset,
    touched: bool,
}

/// Everything that control records set.
#[derive(Debug, Default)]
pub struct ControlState {
    applied: BTreeSet<[u8; 16]>,
    applied_changed_by: LogOffset,
    applied_touched: bool,
    tables: BTreeMap<Symbol, Table>,
    schools: BTreeMap<Symbol, School>,
}

impl ControlState {
    /// The parameters of a skill in a school, and their model version among [`Texts::models`].
    pub fn bkt(&self, school: Symbol, skill: Symbol) -> (Parameters, Symbol) {
        let named = [school, Symbol::EMPTY].into_iter().find_map(|school| {
            let table = self.tables.get(&school)?;
            table.skills.get(&skill).map(|parameters| (*parameters, table.model))
        });
        // The empty text among the models stands for `default`.
        named.unwrap_or_else(|| (Parameters::default(), Symbol::EMPTY))
    }

    /// The day of a point in time where the school is; UTC until it has said otherwise.
    pub fn day(&self, school: Symbol, time: Timestamp) -> Day {
        let zone = self.schools.get(&school).map_or(Tz::UTC, |school| school.zone);
        let seconds = if zone == Tz::UTC {
            0
        } else {
            let utc = DateTime::from_timestamp_millis(time.as_ms()).unwrap_or_default();
            i64::from(zone.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc())
        };
        let days = (time.as_ms() + seconds * 1000).div_euclid(86_400_000);
        // ClickHouse's Date ends in 2149.
        Day(u16::try_from(days.max(0)).unwrap_or(u16::MAX))
    }

    pub(crate) fn apply<S: RowSink>(
        &mut self,
        epoch: Epoch,
        at: Position,
        record: &ControlRecord,
        payload: &[u8],
        texts: &mut Texts,
        rows: &mut S,
    ) -> Result<(), ControlError> {
        if self.applied.contains(record.control_id.as_bytes()) {
            return Ok(());
        }
        let version = record.issued_at.as_ms().unsigned_abs();
        match &record.body {
            ControlBody::BktParameters { school_id, model_version, table } => {
                let bytes = match table {
                    ControlPayload::Inline(bytes) => bytes,
                    ControlPayload::Blob { .. } => payload,
                };
                let skills = decode_bkt(bytes).map_err(|source| {
                    let model_version = model_version.clone();
                    ControlError::Parameters { model_version, source }
                })?;
                let model = intern_model(texts, model_version)?;
                let school_id = school_id.as_ref().map_or("", |id| id.as_str());
                let school = texts.symbols.intern(school_id);
                let mut table = BTreeMap::new();
                for skill in &skills {
                    let parameters = Parameters {
                        init: skill.p_init,
                        learn: skill.p_learn,
                        guess: skill.p_guess,
                        slip: skill.p_slip,
                        forget: skill.p_forget,
                    };
                    table.insert(texts.symbols.intern(skill.skill_id.as_str()), parameters);
                    rows.row(
                        at,
                        &SkillParametersRow {
                            epoch,
                            school_id,
                            skill_id: skill.skill_id.as_str(),
                            model_version,
                            p_init: skill.p_init,
                            p_learn: skill.p_learn,
                            p_guess: skill.p_guess,
                            p_slip: skill.p_slip,
                            p_forget: skill.p_forget,
                            loaded_at: record.issued_at,
                            version,
                        },
                    );
                }
                let table = Table { model, skills: table, changed_by: at.offset, touched: true };
                self.tables.insert(school, table);
            }
            ControlBody::SchoolSettings { school_id, name, time_zone } => {
                let zone =
                    check_time_zone(time_zone).map_err(|_unknown| ControlError::TimeZone {
                        school_id: school_id.to_string(),
                        time_zone: time_zone.clone(),
                    })?;
                let school = texts.symbols.intern(school_id.as_str());
                self.schools.insert(school, School { zone, changed_by: at.offset, touched: true });
                rows.row(
                    at,
                    &SchoolRow {
                        epoch,
                        school_id: school_id.as_str(),
                        name,
                        time_zone: zone.name(),
                        updated_at: record.issued_at,
                        version,
                    },
                );
            }
        }
        self.applied.insert(*record.control_id.as_bytes());
        self.applied_changed_by = at.offset;
        self.applied_touched = true;
        Ok(())
    }

    pub(crate) fn drain_states(&mut self, texts: &Texts, states: &mut Vec<StateRow>) {
        if std::mem::take(&mut self.applied_touched) {
            let mut out = Encoder::new(FORMAT);
            out.count(self.applied.len());
            self.applied.iter().for_each(|id| id.iter().for_each(|byte| out.byte(*byte)));
            states.push(StateRow::new(KIND_APPLIED, [], self.applied_changed_by, out.finish()));
        }
        for (school, table) in self.tables.iter_mut().filter(|(_, table)| table.touched) {
            table.touched = false;
            let key = [texts.symbols.text(*school)];
            let state = table.encode(texts);
            states.push(StateRow::new(KIND_BKT, key, table.changed_by, state));
        }
        for (symbol, school) in self.schools.iter_mut().filter(|(_, school)| school.touched) {
            school.touched = false;
            let mut out = Encoder::new(FORMAT);
            out.str(school.zone.name());
            let key = [texts.symbols.text(*symbol)];
            states.push(StateRow::new(KIND_SCHOOL, key, school.changed_by, out.finish()));
        }
    }

    /// Takes a stored state of one of these kinds; `false` if it is of none.
    pub(crate) fn restore(
        &mut self,
        row: &StateRow,
        texts: &mut Texts,
    ) -> Result<bool, DecodeError> {
        let what = "control records";
        match &*row.kind {
            KIND_APPLIED => {
                let mut input = Decoder::new(&row.state, what, FORMAT)?;
                let count = input.count()?;
                self.applied = (0..count).map(|_| input.array()).collect::<Result<_, _>>()?;
                self.applied_changed_by = row.last_offset();
                input.finish()?;
            }
            KIND_BKT => {
                let school = texts.symbols.intern(Decoder::bare(&row.key).str()?);
                self.tables.insert(school, Table::decode(row, texts)?);
            }
            KIND_SCHOOL => {
                let symbol = texts.symbols.intern(Decoder::bare(&row.key).str()?);
                let mut input = Decoder::new(&row.state, what, FORMAT)?;
                let zone = check_time_zone(input.str()?)
                    .map_err(|_unknown| DecodeError::Invalid { what: "time zone" })?;
                input.finish()?;
                let changed_by = row.last_offset();
                self.schools.insert(symbol, School { zone, changed_by, touched: false });
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// A model version's symbol; `default` is the empty one.
pub(crate) fn intern_model(texts: &mut Texts, version: &str) -> Result<Symbol, ControlError> {
    if version == DEFAULT_MODEL {
        return Ok(Symbol::EMPTY);
    }
    let model = texts.models.intern(version);
    if model.index() < MODELS_MAX { Ok(model) } else { Err(ControlError::TooManyModels) }
}

/// A model version's text.
pub(crate) fn model_text(texts: &Texts, model: Symbol) -> &str {
    if model == Symbol::EMPTY { DEFAULT_MODEL } else { texts.models.text(model) }
}

impl Table {
    fn encode(&self, texts: &Texts) -> Vec<u8> {
        let mut named: Vec<_> =
            self.skills.iter().map(|(skill, it)| (texts.symbols.text(*skill), it)).collect();
        named.sort_by_key(|(skill, _)| *skill);
        let mut out = Encoder::new(FORMAT);
        out.str(model_text(texts, self.model));
        out.count(named.len());
        for (skill, it) in named {
            out.str(skill);
            for number in [it.init, it.learn, it.guess, it.slip, it.forget] {
                out.f64(number);
            }
        }
        out.finish()
    }

    fn decode(row: &StateRow, texts: &mut Texts) -> Result<Self, DecodeError> {
        let mut input = Decoder::new(&row.state, "model parameters", FORMAT)?;
        let model = intern_model(texts, input.str()?)
            .map_err(|_too_many| DecodeError::Invalid { what: "model version" })?;
        let mut skills = BTreeMap::new();
        for _ in 0..input.count()? {
            let skill = texts.symbols.intern(input.str()?);
            let parameters = Parameters {
                init: input.f64()?,
                learn: input.f64()?,
                guess: input.f64()?,
                slip: input.f64()?,
                forget: input.f64()?,
            };
            skills.insert(skill, parameters);
        }
        input.finish()?;
        Ok(Self { model, skills, changed_by: row.last_offset(), touched: false })
    }
}
