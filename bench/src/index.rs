//! The index of seen events: look-ups and commits per second, on this node and with Redis.
//!
//! As ingest asks it: 500 ids at a time, from several requests at once, first looked up (new, so
//! the filters answer), then committed, then looked up again (known). Once more with as many entries
//! as a busy day leaves, most of them on disk.

use std::ops::Range;
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

/// Entries of a large index.
const MANY: u64 = 40_000_000;

/// Measures both; `redis` is `host:port`, and without it Redis is left out.
pub(crate) async fn measure(folder: &Path, redis: Option<&str>) -> Result<()> {
    say("Index of seen events, 500 ids a call, 16 calls at once, events/s");
    let local: Arc<dyn SeenIndex> = LocalIndex::open(folder.join("index-local"))?;
    run("this node alone", &local, 0..2_000_000, 0..2_000_000).await?;
    each_batch(&local, 2_000_000..MANY, Call::Commit).await?;
    let name = format!("of {} million entries", MANY / 1_000_000);
    run(&name, &local, MANY..MANY + 2_000_000, MANY / 2..MANY / 2 + 500_000).await?;
    drop(local);
    let Some(address) = redis else {
        say("  Redis: left out (no --redis)\n");
        return Ok(());
    };
    let local = LocalIndex::open(folder.join("index-redis"))?;
    let shared = SharedIndex::open(local, &RedisOptions::new(format!("redis://{address}")))?;
    let index = Arc::clone(&shared) as Arc<dyn SeenIndex>;
    run("with Redis", &index, 0..500_000, 0..500_000).await?;
    let status = shared.status().shared.context("a shared index")?;
    ensure!(status.errors == 0, "Redis did not answer: {status:?}");
    say("");
    Ok(())
}

async fn run(
    name: &str,
    index: &Arc<dyn SeenIndex>,
    new: Range<u64>,
    known: Range<u64>,
) -> Result<()> {
    let looked = each_batch(index, new.clone(), Call::Look { known: false }).await?;
    let committed = each_batch(index, new, Call::Commit).await?;
    let known = each_batch(index, known, Call::Look { known: true }).await?;
    say(&format!(
        "  {name}: look-ups of new ids {looked:.0}, commits {committed:.0}, look-ups of known ids {known:.0}"
    ));
    Ok(())
}

#[derive(Clone, Copy)]
enum Call {
    Look { known: bool },
    Commit,
}

/// Calls the index for every batch of these events; returns events a second.
async fn each_batch(index: &Arc<dyn SeenIndex>, events: Range<u64>, call: Call) -> Result<f64> {
    let began = Instant::now();
    let mut requests = JoinSet::new();
    let (first, end) = (events.start / BATCH, events.end / BATCH);
    for request in 0..REQUESTS as u64 {
        let index = Arc::clone(index);
        requests.spawn(async move {
            for batch in (first + request..end).step_by(REQUESTS) {
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
    Ok(float(events.end - events.start) / began.elapsed().as_secs_f64())
}

/// Cheap to make, and spread as hashes are.
fn entry(number: u64) -> (EventIdentity, ContentHash) {
    let bytes = (u128::from(spread(number)) << 64 | u128::from(spread(!number))).to_be_bytes();
    (EventIdentity::from_bytes(bytes), ContentHash::from_bytes(bytes))
}

/// The last steps of SplitMix64 (Steele, Lea, Flood 2014).
const fn spread(number: u64) -> u64 {
    let mixed = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
