//! What holds for the crate as a whole: its dependencies, its tables, its memory and its speed.
#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "helpers of tests; clippy's allowance covers only the functions marked as tests"
)]

mod dependencies;
mod memory;
mod modules;
mod tables;
