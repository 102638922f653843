//! Integration tests over the real libchdb. One server for all of them: a process runs one folder.
#![expect(
    clippy::panic,
    clippy::print_stdout,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "helpers of tests, which may fail by panicking and speak on standard output"
)]

mod budget;
mod clients;
mod durable;
mod http;
mod migrate;
mod parallel;
mod process;
mod reader;
mod server;
