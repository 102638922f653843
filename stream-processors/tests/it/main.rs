//! The processors with the real embedded log and the real ClickHouse library.
//!
//! ClickHouse as a library runs once a process, so every test starts this binary again as a child
//! that runs [`child::entry`]; the parent fills the log before and compares what the children left.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy knows test functions as tests, but not the helpers beside them"
)]

mod child;
mod crashes;
mod events;
mod faults;
mod folds_through_views;
mod pipeline;
mod proxy;
mod support;
