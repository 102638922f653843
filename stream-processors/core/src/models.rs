//! Models of learning: formulas over plain numbers, the same in the stream and in batch.

pub mod bkt;
