//! The suite of `event-log` on both logs, and what is special to each.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "the helpers of tests may unwrap and tell as the tests do"
)]

mod embedded;
mod kafka;
mod outage;
mod redis;

use chalkstream_event_log::conformance::crash;

/// Not a test by itself: what the children of the kill -9 tests run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_that_appends() {
    let Ok(address) = std::env::var(crash::CHILD_LOG) else { return };
    let log = match address.split_once('=') {
        Some(("embedded", path)) => embedded::open(path.as_ref()),
        Some(("kafka", cluster)) => {
            let (brokers, prefix) = cluster.split_once('=').unwrap();
            kafka::open(brokers, prefix).await
        }
        other => panic!("cannot open {other:?}"),
    };
    crash::child(log).await;
}
