//! The lake, its archiver, reports and datasets over a real embedded log.

mod archiver;
mod datasets;
mod delta_reader;
mod kill;
mod reports;
mod support;
