//! The text form that pyKT trains on: six lines a learner, and the learners' folds.
//!
//! ```text
//! uid,length        4f0c…,3
//! questions         i1,i2,i1
//! concepts          algebra_geometry,NA,algebra
//! responses         1,0,1
//! timestamps (ms)   1767225600000,1767225601000,1767225602000
//! use times (ms)    2100,NA,900
//! ```
//!
//! Each of the last five lines has exactly `length` values between commas; several concepts of one
//! answer are joined by `_`; `NA` stands where the log does not know.
//! pyKT takes a line for unknown as a whole if `NA` stands anywhere in it, and strips white space
//! at its ends, so ids are written in an escaped form ([`escape`]) that never holds either.
//! Always true: different ids have different escaped forms, and [`escape`] can be undone by
//! reading `%` and two hexadecimal digits as one byte.
//! Not here: which answers there are and in what order ([`super`]).

use std::fmt::Write as _;
use std::io::{self, Write};

/// What the log does not know.
pub(crate) const UNKNOWN: &str = "NA";

/// One graded answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) item_id: String,
    pub(crate) skill_ids: Vec<String>,
    pub(crate) correct: bool,
    pub(crate) event_time_ms: i64,
    pub(crate) time_taken_ms: Option<u64>,
}

/// What an id is in the file, which decides about `_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdKind {
    /// Stands alone between commas.
    Question,
    /// May be joined to others by `_`.
    Concept,
}

/// An id as the file has it: `%`, `,`, white space, in concepts `_`, and the `N` of every `NA` are
/// written as `%` and two upper-case hexadecimal digits per byte of their UTF-8.
pub(crate) fn escape(id: &str, kind: IdKind) -> String {
    let mut escaped = String::with_capacity(id.len());
    let mut rest = id.chars().peekable();
    while let Some(c) = rest.next() {
        let special = match c {
            '%' | ',' => true,
            '_' => kind == IdKind::Concept,
            'N' => rest.peek() == Some(&'A'),
            other => other.is_whitespace() || other.is_control(),
        };
        if special {
            let mut utf8 = [0; 4];
            for byte in c.encode_utf8(&mut utf8).bytes() {
                // Writing to a String cannot fail.
                if write!(escaped, "%{byte:02X}").is_err() {
                    unreachable!("a String takes every write");
                }
            }
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Writes learners in pyKT's form, one at a time.
#[derive(Debug)]
pub(crate) struct LearnerWriter<W> {
    out: W,
    /// Answers of the learner being written.
    answers: Vec<Answer>,
    pub(crate) counts: Counts,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) learners: u64,
    pub(crate) answers: u64,
    pub(crate) unknown_concepts: u64,
    pub(crate) unknown_use_times: u64,
}

impl<W: Write> LearnerWriter<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, answers: Vec::new(), counts: Counts::default() }
    }

    /// Adds an answer to the learner being written.
    pub(crate) fn answer(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    /// Writes the learner's six lines, if there is an answer.
    pub(crate) fn finish_learner(&mut self, uid: &str) -> io::Result<()> {
        if self.answers.is_empty() {
            return Ok(());
        }
        let answers = std::mem::take(&mut self.answers);
        writeln!(self.out, "{uid},{}", answers.len())?;
        self.line(&answers, |answer| escape(&answer.item_id, IdKind::Question))?;
        self.line(&answers, |answer| concepts(&answer.skill_ids))?;
        self.line(&answers, |answer| if answer.correct { "1" } else { "0" }.to_owned())?;
        self.line(&answers, |answer| answer.event_time_ms.to_string())?;
        self.line(&answers, |answer| {
            answer.time_taken_ms.map_or_else(|| UNKNOWN.to_owned(), |ms| ms.to_string())
        })?;
        let counts = &mut self.counts;
        counts.learners += 1;
        for answer in &answers {
            counts.answers += 1;
            counts.unknown_concepts += u64::from(answer.skill_ids.is_empty());
            counts.unknown_use_times += u64::from(answer.time_taken_ms.is_none());
        }
        self.answers = answers;
        self.answers.clear();
        Ok(())
    }

    fn line(&mut self, answers: &[Answer], value: impl Fn(&Answer) -> String) -> io::Result<()> {
        for (index, answer) in answers.iter().enumerate() {
            if index > 0 {
                self.out.write_all(b",")?;
            }
            self.out.write_all(value(answer).as_bytes())?;
        }
        self.out.write_all(b"\n")
    }

    /// Ends the file.
    pub(crate) fn into_inner(mut self) -> io::Result<(W, Counts)> {
        self.out.flush()?;
        Ok((self.out, self.counts))
    }
}

fn concepts(skill_ids: &[String]) -> String {
    if skill_ids.is_empty() {
        return UNKNOWN.to_owned();
    }
    let escaped: Vec<_> = skill_ids.iter().map(|id| escape(id, IdKind::Concept)).collect();
    escaped.join("_")
}

/// Key of everything random in a dataset, from its seed.
#[derive(Clone, Debug)]
pub(crate) struct Seed([u8; 32]);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(blake3::derive_key("chalkstream 2026 dataset seed", &seed.to_le_bytes()))
    }

    /// The learner's name in the dataset: 16 hexadecimal digits, the same for the same seed.
    pub(crate) fn pseudonym(&self, school_id: &str, user_id: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        for text in [school_id, user_id] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        let hex = hasher.finalize().to_hex();
        hex.chars().take(16).collect()
    }

    /// Folds of the learners, in their order: a shuffle by the seed, cut into equal parts.
    pub(crate) fn folds(&self, uids: &[String], folds: usize) -> Vec<usize> {
        let mut shuffled: Vec<_> = uids
            .iter()
            .enumerate()
            .map(|(index, uid)| {
                let mut hasher = blake3::Hasher::new_keyed(&self.0);
                hasher.update(b"fold");
                hasher.update(uid.as_bytes());
                (*hasher.finalize().as_bytes(), index)
            })
            .collect();
        shuffled.sort_unstable();
        let mut fold_of = vec![0; uids.len()];
        for (rank, (_, index)) in shuffled.into_iter().enumerate() {
            if let Some(fold) = fold_of.get_mut(index) {
                *fold = rank % folds.max(1);
            }
        }
        fold_of
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_escape(id: &str, question: &str, concept: &str) {
        assert_eq!(escape(id, IdKind::Question), question);
        assert_eq!(escape(id, IdKind::Concept), concept);
    }

    #[test]
    fn an_id_cannot_break_the_lines_of_the_file() {
        check_escape("plain-1", "plain-1", "plain-1");
        check_escape("a_b,c", "a_b%2Cc", "a%5Fb%2Cc");
        check_escape("100%", "100%25", "100%25");
        check_escape("DNA NA", "D%4EA%20%4EA", "D%4EA%20%4EA");
        check_escape("N_A", "N_A", "N%5FA");
        check_escape("\u{a0}é", "%C2%A0é", "%C2%A0é");
        check_escape("%2C", "%252C", "%252C");
    }

    #[test]
    fn a_learner_has_six_lines_of_equal_length() {
        let mut writer = LearnerWriter::new(Vec::new());
        writer.answer(Answer {
            item_id: "i,1".to_owned(),
            skill_ids: vec!["a_b".to_owned(), "c".to_owned()],
            correct: true,
            event_time_ms: 5,
            time_taken_ms: Some(7),
        });
        writer.answer(Answer {
            item_id: "i2".to_owned(),
            skill_ids: Vec::new(),
            correct: false,
            event_time_ms: 4,
            time_taken_ms: None,
        });
        writer.finish_learner("u").unwrap();
        writer.finish_learner("nobody").unwrap();
        let (bytes, counts) = writer.into_inner().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "u,2\ni%2C1,i2\na%5Fb_c,NA\n1,0\n5,4\n7,NA\n");
        let expected =
            Counts { learners: 1, answers: 2, unknown_concepts: 1, unknown_use_times: 1 };
        assert_eq!(counts, expected);
    }

    #[test]
    fn folds_are_of_equal_size_and_follow_the_seed() {
        let uids: Vec<_> = (0..103).map(|n| format!("learner-{n}")).collect();
        let folds = Seed::new(7).folds(&uids, 5);
        assert_eq!(folds, Seed::new(7).folds(&uids, 5));
        assert_ne!(folds, Seed::new(8).folds(&uids, 5));
        for fold in 0..5 {
            let size = folds.iter().filter(|of| **of == fold).count();
            assert!((20..=21).contains(&size), "fold {fold} has {size}");
        }
    }

    #[test]
    fn a_pseudonym_depends_on_seed_school_and_user_and_on_where_they_end() {
        let seed = Seed::new(7);
        let name = seed.pseudonym("lincoln", "amy");
        assert_eq!(name.len(), 16);
        assert_eq!(name, Seed::new(7).pseudonym("lincoln", "amy"));
        for other in [
            Seed::new(8).pseudonym("lincoln", "amy"),
            seed.pseudonym("lincol", "namy"),
            seed.pseudonym("lincoln", "amx"),
        ] {
            assert_ne!(name, other);
        }
    }
}
