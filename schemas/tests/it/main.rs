//! Tests of what the crate promises to the others: one binary, one file a subject.

#![expect(clippy::result_large_err, reason = "rejections are what is tested")]

#[cfg(test)]
mod acceptance;
#[cfg(test)]
mod agreement;
#[cfg(test)]
mod canonical;
#[cfg(test)]
mod compatibility;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod ids_and_times;
#[cfg(test)]
mod parse;
#[cfg(test)]
mod proto_text;
#[cfg(test)]
mod record;
#[cfg(test)]
mod schema_check;
#[cfg(test)]
mod transcode;
