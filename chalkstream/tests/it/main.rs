//! The built `chalkstream` as its users meet it: a command line, HTTP addresses, a data folder.

mod cli;
mod lifecycle;
mod pipeline;
mod support;
