//! `skill_mastery`: what a learner knows, skill by skill, by Bayesian Knowledge Tracing.
//!
//! In: graded answers of learners, in the order of arrival; each skill of an answer is practised
//! once. Out: one row per skill touched, and the mastery columns of `attempts`.
//! Always true: an answer without a skill is counted under the skill '', which has no mastery and
//! no row; `last_practised_at` never goes back, and a late answer has elapsed 0 s.
//! Memory: 32 bytes a skill. Counts stop at 16,777,215 (24 bits).

use chalkstream_schemas::{Epoch, PartitionId, RowVersion, Timestamp};

use crate::codec::{DecodeError, Decoder, Encoder};
use crate::control::{intern_model, model_text};
use crate::entries::Entries;
use crate::fold::{AttemptDraft, Input, LearnerFold, MasteryStep, Owner, Texts, graded_answer};
use crate::models::bkt::{Known, MASTERED, Parameters};
use crate::row::{RowSink, table_row};
use crate::symbols::Symbol;

table_row! {
    /// One learner and skill.
    pub struct SkillMasteryRow<'a> in "skill_mastery_state" {
        /// The folding.
        epoch: Epoch,
        /// The school.
        school_id: &'a str,
        /// The learner.
        user_id: &'a str,
        /// The skill.
        skill_id: &'a str,
        /// The learner's partition.
        log_partition: PartitionId,
        /// P(known).
        p_known: f64,
        /// Whether it is 0.95 or more.
        mastered: bool,
        /// Graded answers.
        attempts: u32,
        /// The right ones among them.
        correct_count: u32,
        /// Right answers since the last wrong one.
        current_streak: u32,
        /// The longest such run.
        longest_streak: u32,
        /// The latest event time of an answer.
        last_practised_at: Timestamp,
        /// The parameters used last.
        model_version: &'a str,
        /// Version of the row.
        version: RowVersion,
    }
}

/// What a learner knows of each skill.
#[derive(Debug, Default)]
pub struct SkillMastery {
    skills: Entries<Symbol, Packed>,
}

/// One skill, unpacked.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Skill {
    known: Known,
    last_practised_at: Timestamp,
    model: Symbol,
    touched: bool,
    attempts: u32,
    correct_count: u32,
    current_streak: u32,
    longest_streak: u32,
}

/// One skill in 28 bytes: with its symbol 32, half of what the plain struct takes.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Low and high half of the bits: an array of `u32` is aligned to 4.
    known: [u32; 2],
    /// 44 bits of milliseconds, 19 of the model version, 1 of "touched".
    moment: [u32; 2],
    /// Four numbers of 24 bits.
    counts: [[u8; 3]; 4],
}

const TIME_BITS: u32 = 44;
const MODEL_BITS: u32 = 19;
const TOUCHED: u64 = 1 << 63;
const COUNT_MAX: u32 = (1 << 24) - 1;

#[expect(clippy::cast_possible_truncation, reason = "the two halves of 64 bits")]
const fn halves(bits: u64) -> [u32; 2] {
    [bits as u32, (bits >> 32) as u32]
}

const fn whole([low, high]: [u32; 2]) -> u64 {
    (high as u64) << 32 | low as u64
}

impl Skill {
    fn new(bkt: &Parameters) -> Self {
        Self {
            known: bkt.start(),
            last_practised_at: Timestamp::MIN,
            model: Symbol::EMPTY,
            touched: false,
            attempts: 0,
            correct_count: 0,
            current_streak: 0,
            longest_streak: 0,
        }
    }

    fn pack(&self) -> Packed {
        let time = self.last_practised_at.as_ms().unsigned_abs();
        let model = u64::from(self.model.index()) << TIME_BITS;
        let counts = [self.attempts, self.correct_count, self.current_streak, self.longest_streak];
        Packed {
            known: halves(self.known.to_bits()),
            moment: halves(time | model | if self.touched { TOUCHED } else { 0 }),
            counts: counts.map(|count| {
                let [a, b, c, _] = count.min(COUNT_MAX).to_le_bytes();
                [a, b, c]
            }),
        }
    }

    fn unpack(packed: &Packed) -> Self {
        let moment = whole(packed.moment);
        let time = moment & ((1 << TIME_BITS) - 1);
        let model = moment >> TIME_BITS & ((1 << MODEL_BITS) - 1);
        let [attempts, correct_count, current_streak, longest_streak] =
            packed.counts.map(|[a, b, c]| u32::from_le_bytes([a, b, c, 0]));
        Self {
            known: Known::from_bits(whole(packed.known)),
            last_practised_at: Timestamp::from_ms(i64::try_from(time).unwrap_or(0)),
            model: Symbol::from_index(u32::try_from(model).unwrap_or(0)),
            touched: moment & TOUCHED != 0,
            attempts,
            correct_count,
            current_streak,
            longest_streak,
        }
    }

    const fn count(&mut self, correct: bool) {
        const fn up(count: u32) -> u32 {
            if count < COUNT_MAX { count + 1 } else { count }
        }
        self.attempts = up(self.attempts);
        if correct {
            self.correct_count = up(self.correct_count);
            self.current_streak = up(self.current_streak);
            if self.longest_streak < self.current_streak {
                self.longest_streak = self.current_streak;
            }
        } else {
            self.current_streak = 0;
        }
    }
}

impl LearnerFold for SkillMastery {
    const FORMAT: u8 = 1;
    const NAME: &'static str = "skill mastery";

    fn apply<S: RowSink>(
        &mut self,
        input: &mut Input<'_>,
        attempts: &mut [AttemptDraft],
        _rows: &mut S,
    ) {
        let Some((_, correct)) = graded_answer(input.event) else { return };
        let time = input.event.event_time;
        for draft in attempts {
            let (bkt, model) = input.control.bkt(input.school, draft.skill);
            let packed = self.skills.entry(draft.skill, || Skill::new(&bkt).pack());
            let mut skill = Skill::unpack(packed);
            if skill.attempts > 0 {
                draft.elapsed_ms =
                    Some(time.ms_since(skill.last_practised_at).max(0).unsigned_abs());
            }
            skill.last_practised_at = skill.last_practised_at.max(time);
            skill.touched = true;
            skill.count(correct);
            draft.opportunity = skill.attempts;
            if draft.skill != Symbol::EMPTY {
                let after = bkt.after(skill.known, correct);
                draft.mastery = Some(MasteryStep {
                    predicted_correct: bkt.predicted_correct(skill.known),
                    before: skill.known.p(),
                    after: after.p(),
                });
                draft.model = model;
                skill.known = after;
                skill.model = model;
            }
            *packed = skill.pack();
        }
    }

    fn drain<S: RowSink>(&mut self, owner: &Owner<'_>, rows: &mut S) {
        for (symbol, packed) in self.skills.iter_mut() {
            if whole(packed.moment) & TOUCHED == 0 {
                continue;
            }
            let skill = Skill { touched: false, ..Skill::unpack(packed) };
            *packed = skill.pack();
            if symbol == Symbol::EMPTY {
                continue;
            }
            rows.row(
                owner.at,
                &SkillMasteryRow {
                    epoch: owner.epoch,
                    school_id: owner.school_id,
                    user_id: owner.id,
                    skill_id: owner.texts.symbols.text(symbol),
                    log_partition: owner.at.partition,
                    p_known: skill.known.p(),
                    mastered: skill.known.p() >= MASTERED,
                    attempts: skill.attempts,
                    correct_count: skill.correct_count,
                    current_streak: skill.current_streak,
                    longest_streak: skill.longest_streak,
                    last_practised_at: skill.last_practised_at,
                    model_version: model_text(owner.texts, skill.model),
                    version: owner.version(),
                },
            );
        }
    }

    fn encode(&self, texts: &Texts, out: &mut Encoder) {
        let skills = self.skills.by_name(|symbol| texts.symbols.text(symbol));
        // Few versions, many skills: the versions' names stand once, in front.
        let mut models: Vec<&str> = Vec::new();
        for (_, packed) in &skills {
            let model = model_text(texts, Skill::unpack(packed).model);
            if !models.contains(&model) {
                models.push(model);
            }
        }
        out.count(models.len());
        models.iter().for_each(|model| out.str(model));
        out.count(skills.len());
        for (name, packed) in skills {
            let skill = Skill::unpack(packed);
            let model = model_text(texts, skill.model);
            out.str(name);
            out.bits(skill.known.to_bits());
            out.time(skill.last_practised_at);
            out.count(models.iter().position(|it| *it == model).unwrap_or(0));
            out.u32(skill.attempts);
            out.u32(skill.correct_count);
            out.u32(skill.current_streak);
            out.u32(skill.longest_streak);
        }
    }

    fn decode(input: &mut Decoder<'_>, texts: &mut Texts) -> Result<Self, DecodeError> {
        let invalid_model = DecodeError::Invalid { what: "model version" };
        let mut models = Vec::new();
        for _ in 0..input.count()? {
            let model = intern_model(texts, input.str()?);
            models.push(model.map_err(|_too_many| invalid_model.clone())?);
        }
        let count = input.count()?;
        let mut skills = Vec::with_capacity(count);
        for _ in 0..count {
            let symbol = texts.symbols.intern(input.str()?);
            let (known, last_practised_at) = (Known::from_bits(input.bits()?), input.time()?);
            let model = usize::try_from(input.u64()?).ok().and_then(|at| models.get(at));
            let skill = Skill {
                known,
                last_practised_at,
                model: *model.ok_or_else(|| invalid_model.clone())?,
                touched: false,
                attempts: input.u32()?,
                correct_count: input.u32()?,
                current_streak: input.u32()?,
                longest_streak: input.u32()?,
            };
            skills.push((symbol, skill.pack()));
        }
        Ok(Self { skills: Entries::from_unsorted(skills) })
    }
}

#[cfg(test)]
mod tests;
