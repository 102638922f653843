//! Tests of what the crate promises to the others: one binary, one file a subject.

mod agreement;
mod canonical;
mod compatibility;
mod examples;
mod ids_and_times;
mod parse;
mod proto_text;
mod record;
mod schema_check;
