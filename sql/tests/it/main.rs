//! Integration tests over the real libchdb. One server for all of them: a process runs one folder.

mod clients;
mod http;
mod migrate;
mod parallel;
mod reader;
mod server;
