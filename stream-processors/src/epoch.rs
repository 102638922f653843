//! The epoch: one complete folding of the log. Views show the active one.

use chalkstream_schemas::Epoch;

/// The epoch that a new installation folds.
pub const FIRST: Epoch = Epoch::new(1);
