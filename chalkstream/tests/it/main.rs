//! The built `chalkstream` as its users meet it: a command line, HTTP addresses, a data folder.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stdout, reason = "tests say their seeds and what was skipped")]

mod architecture;
mod cli;
mod clickhouse;
mod credentials;
mod data;
mod faults;
mod folders;
mod kill9;
mod lifecycle;
mod load;
mod object_store;
mod outage;
mod pipeline;
mod proxy;
mod real_data;
mod rebalance;
mod rejected;
mod reload;
mod roles_alone;
mod secrets;
mod support;
mod telemetry;
