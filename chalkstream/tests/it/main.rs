//! The built `chalkstream` as its users meet it: a command line, HTTP addresses, a data folder.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "tests say their seeds and what was skipped")]

mod cli;
mod clickhouse;
mod faults;
mod folders;
mod kill9;
mod lifecycle;
mod load;
mod object_store;
mod pipeline;
mod proxy;
mod real_data;
mod rebalance;
mod roles_alone;
mod support;
