//! Numbers as JSON writes them, read without surprises.
//!
//! Always true: nothing overflows or panics; `1e400` is not finite and is refused, and floats are
//! rounded correctly (the nearest `f64`, as JavaScript and Python read them).

/// The nearest `f64` of a JSON number, or nothing where it is not finite.
pub(crate) fn finite(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().filter(|number| number.is_finite())
}

/// 2^53: up to here every whole number is a `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The whole number that a JSON number stands for: `3`, `3.0` and `3e0` are the same.
pub(crate) fn whole(text: &str) -> Option<i64> {
    text.parse::<i64>().ok().or_else(|| finite(text).and_then(whole_of))
}

/// The whole number that a `f64` stands for exactly.
pub(crate) fn whole_of(number: f64) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within 2^53")]
    (number.fract() == 0.0 && number.abs() <= EXACT).then_some(number as i64)
}
