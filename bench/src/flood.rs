//! One key floods at 20 times its limit: what do the requests of another key take meanwhile?
//!
//! Both keys have the same limit. The other key sends one event a request, at half of the limit;
//! the flood sends batches, of which all but the limit are refused. Quiet and flood are measured in
//! turn, and the median ratio of their p99 is reported: it should stay below 2.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::ingest;
use crate::load::{self, Load, Outcome, Until};
use crate::report::{round, say};
use crate::server::Server;

const LIMIT_PER_SECOND: u64 = 100;
const TIMES: u64 = 20;
const SECONDS: u64 = 10;
const OTHER_CONNECTIONS: u64 = 10;
const FLOOD_CONNECTIONS: u64 = 40;
const FLOOD_BATCH: usize = 10;

pub(crate) async fn run(binary: &Path, kafka: &str, folder: &Path, pairs: u64) -> Result<()> {
    let limit = LIMIT_PER_SECOND.to_string();
    let environment = [
        ("CHALKSTREAM__LOG__KIND", "kafka"),
        ("CHALKSTREAM__LOG__BROKERS", kafka),
        ("CHALKSTREAM__INGEST__LIMITS__CREDENTIAL_REQUESTS_PER_SECOND", &limit),
        ("CHALKSTREAM__INGEST__LIMITS__CREDENTIAL_BURST", "1s"),
    ];
    let arguments = ["--listen", "127.0.0.1:0"];
    let data_dir = folder.join("flood");
    let server = Server::start(binary, "ingest", &data_dir, &arguments, &environment)?;
    let address = server.http_address()?;
    let (other, flood) = (server.create_key()?, server.create_key()?);
    // Open loop: so many requests a second, whatever becomes of them.
    let at_rate = |key: &str, per_second: u64, connections: u64, batch: usize, run: u64| Load {
        address: address.clone(),
        key: key.to_owned(),
        pace: Duration::from_secs(connections) / u32::try_from(per_second).unwrap_or(u32::MAX),
        may_be_refused: key == flood,
        run,
        ..ingest::closed(connections, batch, Until::Batches(per_second * SECONDS / connections))
    };
    let others = |run| at_rate(&other, LIMIT_PER_SECOND / 2, OTHER_CONNECTIONS, 1, run);
    // Connections, the producer and the index are warm before anything counts.
    load::run(&others(2_000)).await?;
    let mut ratios = Vec::new();
    let mut last = None;
    for pair in 0..pairs {
        let run = 2_001 + 3 * pair;
        let quiet = load::run(&others(run)).await?;
        let flooding =
            at_rate(&flood, TIMES * LIMIT_PER_SECOND, FLOOD_CONNECTIONS, FLOOD_BATCH, run + 1);
        let meanwhile = others(run + 2);
        let (flooded, during) = tokio::join!(load::run(&flooding), load::run(&meanwhile));
        let (flooded, during) = (flooded?, during?);
        ensure!(
            flooded.requests - flooded.refused
                <= LIMIT_PER_SECOND * (flooded_seconds(&flooded) + 2),
            "the flood got more than its limit: {} of {} requests were refused",
            flooded.refused,
            flooded.requests
        );
        ratios.push(during.percentile_ms(0.99) / quiet.percentile_ms(0.99));
        last = Some((quiet, during, flooded));
    }
    ratios.sort_by(f64::total_cmp);
    if let (Some((quiet, during, flooded)), Some(ratio)) = (last, ratios.get(ratios.len() / 2)) {
        say(&format!(
            "Flood from one key at {TIMES} times its limit of {LIMIT_PER_SECOND} requests/s, another key at half of its own\n  \
             other key p50/p99 ms: quiet {:.1}/{:.1}, flood {:.1}/{:.1}, median ratio of p99 {ratio:.2}\n  \
             flood: {} requests in {:.1} s, {} refused with 429, p50/p99 ms {:.1}/{:.1}\n",
            quiet.percentile_ms(0.5),
            quiet.percentile_ms(0.99),
            during.percentile_ms(0.5),
            during.percentile_ms(0.99),
            flooded.requests,
            flooded.seconds,
            flooded.refused,
            flooded.percentile_ms(0.5),
            flooded.percentile_ms(0.99),
        ));
    }
    server.stop()
}

/// How long the flood lasted, in whole seconds.
fn flooded_seconds(flooded: &Outcome) -> u64 {
    round(flooded.seconds) as u64
}
