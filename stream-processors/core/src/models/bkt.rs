//! Bayesian Knowledge Tracing: the probability that a learner knows a skill, answer by answer.
//!
//! In: parameters, the probability before the answer, and whether it was right.
//! Out: the probability after it. Where Bayes' rule would divide by zero (the model holds the
//! answer for impossible), the answer teaches nothing about the past: p' = p, then the learning
//! step.
//! Always true: with parameters and p in 0..=1 every result is in 0..=1; operations run in the
//! order written here, so that a recomputation in any language gives the same bits.

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

impl Parameters {
    /// The probability of a right answer: p(1-s) + (1-p)g.
    pub fn predicted_correct(&self, known: f64) -> f64 {
        known * (1.0 - self.slip) + (1.0 - known) * self.guess
    }

    /// The probability that the skill was known, given the answer.
    pub fn posterior(&self, known: f64, correct: bool) -> f64 {
        let (if_known, if_not) =
            if correct { (1.0 - self.slip, self.guess) } else { (self.slip, 1.0 - self.guess) };
        let joint = known * if_known;
        let evidence = joint + (1.0 - known) * if_not;
        if evidence == 0.0 { known } else { joint / evidence }
    }

    /// The probability that the skill is known after the answer and what it taught.
    pub fn after(&self, known: f64, correct: bool) -> f64 {
        let posterior = self.posterior(known, correct);
        let after = posterior * (1.0 - self.forget) + (1.0 - posterior) * self.learn;
        // Rounding can leave the range by one bit.
        after.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests;
