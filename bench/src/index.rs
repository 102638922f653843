//! The index of seen events: look-ups and commits per second, on this node and with Redis.
//!
//! As ingest asks it: 500 ids at a time, from several requests at once, first looked up (new, so
//! the filters answer), then committed, then looked up again (known).

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chalkstream_event_log::SeenIndex;
use chalkstream_event_log::seen::{LocalIndex, RedisOptions, SharedIndex};
use chalkstream_schemas::{ContentHash, EventIdentity};
use tokio::task::JoinSet;

use crate::report::{float, say};

const BATCH: u64 = 500;
const REQUESTS: usize = 16;

/// Measures both; `redis` is `host:port`, and without it Redis is left out.
pub(crate) async fn measure(folder: &Path, redis: Option<&str>) -> Result<()> {
    say("Index of seen events, 500 ids a call, 16 calls at once, events/s");
    let local = LocalIndex::open(folder.join("index-local"))?;
    run("this node alone", local, 2_000_000).await?;
    let Some(address) = redis else {
        say("  Redis: left out (no --redis)\n");
        return Ok(());
    };
    let local = LocalIndex::open(folder.join("index-redis"))?;
    let shared = SharedIndex::open(local, &RedisOptions::new(format!("redis://{address}")))?;
    run("with Redis", Arc::clone(&shared) as Arc<dyn SeenIndex>, 500_000).await?;
    let status = shared.status().shared.context("a shared index")?;
    ensure!(status.errors == 0, "Redis did not answer: {status:?}");
    say("");
    Ok(())
}

async fn run(name: &str, index: Arc<dyn SeenIndex>, events: u64) -> Result<()> {
    let new = each_batch(&index, events, Call::Look { known: false }).await?;
    let committed = each_batch(&index, events, Call::Commit).await?;
    let known = each_batch(&index, events, Call::Look { known: true }).await?;
    say(&format!(
        "  {name}: look-ups of new ids {new:.0}, commits {committed:.0}, look-ups of known ids {known:.0}"
    ));
    Ok(())
}

#[derive(Clone, Copy)]
enum Call {
    Look { known: bool },
    Commit,
}

/// Calls the index for every batch; returns events a second.
async fn each_batch(index: &Arc<dyn SeenIndex>, events: u64, call: Call) -> Result<f64> {
    let began = Instant::now();
    let mut requests = JoinSet::new();
    for request in 0..REQUESTS as u64 {
        let index = Arc::clone(index);
        requests.spawn(async move {
            for batch in (request..events / BATCH).step_by(REQUESTS) {
                let entries: Vec<_> = (batch * BATCH..(batch + 1) * BATCH).map(entry).collect();
                match call {
                    Call::Commit => index.commit(&entries).await?,
                    Call::Look { known } => {
                        let ids: Vec<_> = entries.iter().map(|(identity, _)| *identity).collect();
                        let found = index.lookup(&ids).await?;
                        ensure!(
                            found.iter().all(|found| found.is_some() == known),
                            "the index is wrong about batch {batch}"
                        );
                    }
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = requests.join_next().await {
        ended??;
    }
    Ok(float(events) / began.elapsed().as_secs_f64())
}

/// Cheap to make, and spread as hashes are.
fn entry(number: u64) -> (EventIdentity, ContentHash) {
    let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(spread.into_iter().chain(number.to_be_bytes())) {
        *to = from;
    }
    (EventIdentity::from_bytes(bytes), ContentHash::from_bytes(bytes))
}
