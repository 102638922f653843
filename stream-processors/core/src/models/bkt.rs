//! Bayesian Knowledge Tracing: the probability that a learner knows a skill, answer by answer.
//!
//! In: parameters, the probability before the answer, and whether it was right.
//! Out: the probability after it. Where Bayes' rule would divide by zero (the model holds the
//! answer for impossible), the answer teaches nothing about the past: p' = p, then the learning
//! step.
//! Always true: with parameters in 0..=1 every result is in 0..=1. Operations run in the order
//! written here, so that a recomputation gives the same bits.
//! As long as parameters are well-conditioned, p alone is computed, as the formulas are written.
//! Where slips are so rare that Bayes' rule magnifies the rounding of p near 1 ([`MAGNIFIES`]), p
//! and 1 - p are computed side by side: with p alone the exact tables are missed by up to 6e-11,
//! with both by less than 1e-15.

/// The parameters of one skill, each a probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Known before the first answer.
    pub init: f64,
    /// Learned at an answer.
    pub learn: f64,
    /// Right though not known.
    pub guess: f64,
    /// Wrong though known.
    pub slip: f64,
    /// Forgotten at an answer.
    pub forget: f64,
}

impl Default for Parameters {
    /// What holds until parameters are loaded.
    fn default() -> Self {
        Self { init: 0.3, learn: 0.1, guess: 0.2, slip: 0.1, forget: 0.0 }
    }
}

/// From this probability on a skill counts as mastered.
pub const MASTERED: f64 = 0.95;

/// A wrong answer multiplies the odds against knowing, and what was rounded in them, by
/// (1 - guess) / slip. From this factor on 1 - p is computed beside p instead of from it.
pub const MAGNIFIES: f64 = 32.0;

/// How probable it is that a skill is known: the smaller of p and 1 - p is kept exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known(f64);

impl Known {
    /// From a probability.
    pub fn new(p: f64) -> Self {
        Self::from_both(p, 1.0 - p)
    }

    fn from_both(p: f64, not_p: f64) -> Self {
        // The sign bit tells which of the two it is.
        if p <= 0.5 { Self(p.abs()) } else { Self(-not_p.abs()) }
    }

    /// P(known).
    pub fn p(self) -> f64 {
        if self.0.is_sign_negative() { 1.0 + self.0 } else { self.0 }
    }

    /// P(not known).
    pub fn not_p(self) -> f64 {
        if self.0.is_sign_negative() { -self.0 } else { 1.0 - self.0 }
    }

    /// The bits to store.
    pub const fn to_bits(self) -> u64 {
        self.0.to_bits()
    }

    /// Takes stored bits.
    pub const fn from_bits(bits: u64) -> Self {
        Self(f64::from_bits(bits))
    }
}

impl Parameters {
    /// What is known before the first answer.
    pub fn start(&self) -> Known {
        Known::new(self.init)
    }

    /// The probability of a right answer: p(1-s) + (1-p)g.
    pub fn predicted_correct(&self, known: Known) -> f64 {
        known.p() * (1.0 - self.slip) + known.not_p() * self.guess
    }

    /// What was known, given the answer: p and 1 - p.
    fn both_given(&self, known: Known, correct: bool) -> (f64, f64) {
        let (if_known, if_not) =
            if correct { (1.0 - self.slip, self.guess) } else { (self.slip, 1.0 - self.guess) };
        let (joint, joint_not) = (known.p() * if_known, known.not_p() * if_not);
        let evidence = joint + joint_not;
        if evidence == 0.0 {
            (known.p(), known.not_p())
        } else {
            (joint / evidence, joint_not / evidence)
        }
    }

    /// What was known, given the answer.
    pub fn posterior(&self, known: Known, correct: bool) -> Known {
        let (p, not_p) = self.both_given(known, correct);
        Known::from_both(p, not_p)
    }

    /// What is known after the answer and what it taught: p'(1-f) + (1-p')t.
    pub fn after(&self, known: Known, correct: bool) -> Known {
        let (p, not_p) = self.both_given(known, correct);
        if 1.0 - self.guess < MAGNIFIES * self.slip {
            return Known::new(p * (1.0 - self.forget) + (1.0 - p) * self.learn);
        }
        Known::from_both(
            p * (1.0 - self.forget) + not_p * self.learn,
            not_p * (1.0 - self.learn) + p * self.forget,
        )
    }
}

#[cfg(test)]
mod tests;
