//! `make bench` and `make bench-ingest`: Chalkstream beside its floor, in one run, as ratios.
//!
//! - `all`: ingest on Kafka beside the floor server (hyper, parse, produce), single events, one
//!   key's flood beside another key's latency, the index of seen events on this node and with Redis,
//!   standalone from HTTP until visible to SQL, with the rows written and the bytes an event takes, and
//!   what heavy readers of SQL cost ingest there;
//! - `ingest`: ingest alone, by connections, sizes of batches, compression and rates; `--flamegraph`
//!   profiles it instead.
//!
//! Absolute figures depend on the machine, which is printed; the ratios are what to compare.

mod disk;
mod events;
mod flame;
mod flood;
mod floor;
mod idle;
mod index;
mod ingest;
mod load;
mod pairs;
mod process;
mod readers;
mod report;
mod server;
mod standalone;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::ingest::{Effort, both, closed, open};
use crate::load::Until;
use crate::pairs::Sides;
use crate::report::say;

#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// Ingest beside the floor, and standalone
    All {
        #[command(flatten)]
        parts: Parts,
        /// Address of a running Redis server; without it what needs Redis is left out
        #[arg(long)]
        redis: Option<String>,
        /// Events of each throughput run
        #[arg(long, default_value_t = 1_000_000)]
        events: u64,
        /// Pairs of runs (floor, Chalkstream) whose median ratio is reported
        #[arg(long, default_value_t = 3)]
        pairs: u64,
    },
    /// Ingest alone, in many shapes of load
    Ingest {
        #[command(flatten)]
        parts: Parts,
        /// Shorter runs, one pair each
        #[arg(long)]
        quick: bool,
        /// Profile ingest at batches of 500 instead, and write a flame graph here
        #[arg(long, value_name = "SVG")]
        flamegraph: Option<PathBuf>,
    },
    /// What one key's flood costs another
    Flood {
        #[command(flatten)]
        parts: Parts,
        /// Pairs of runs (quiet, flood) whose median ratio is reported
        #[arg(long, default_value_t = 3)]
        pairs: u64,
    },
    /// What eight heavy readers of SQL cost ingest in `standalone`
    Readers {
        /// The release binary
        #[arg(long, default_value = "bin/chalkstream")]
        binary: PathBuf,
        /// Pairs of runs (quiet, with readers) whose median ratio is reported
        #[arg(long, default_value_t = 3)]
        pairs: u64,
    },
    /// The index of seen events alone
    Index {
        /// A Redis server, to measure the index that nodes share
        #[arg(long, value_name = "HOST:PORT")]
        redis: Option<String>,
    },
    /// The floor server itself; prints its address
    #[command(hide = true)]
    Floor {
        #[arg(long)]
        kafka: String,
    },
}

#[derive(Args, Debug)]
struct Parts {
    /// The release binary
    #[arg(long, default_value = "bin/chalkstream")]
    binary: PathBuf,
    /// Bootstrap address of a running Kafka broker
    #[arg(long)]
    kafka: String,
    /// The broker's process, to report the processor time that it takes
    #[arg(long, value_name = "PID")]
    broker: Option<u32>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir()?;
    match Options::parse().suite {
        Suite::Floor { kafka } => floor::serve(&kafka).await,
        Suite::All { parts, redis, events, pairs } => {
            report::machine(&parts.binary)?;
            let Parts { binary, kafka, broker } = &parts;
            let mut sides = Sides::start(binary, kafka, *broker, &folder.path().join("ingest"))?;
            say("Ingest on Kafka, batches of 500 (median ratio of pairs in turn)");
            for connections in [16, 32] {
                let load = closed(connections, 500, Until::Batches(events / connections / 500));
                let measured = sides.pairs(&load, pairs).await?;
                say(&format!("  {connections} connections: {}", both(&measured)));
            }
            let single = open(1_000, 20, std::time::Duration::from_secs(10));
            say(&format!(
                "  one event a request, 1,000/s: {}",
                both(&sides.pairs(&single, 1).await?)
            ));
            sides.server.stop()?;
            flood::run(binary, kafka, folder.path(), pairs).await?;
            index::measure(folder.path(), redis.as_deref()).await?;
            standalone::run(binary, folder.path(), events).await?;
            readers::run(binary, folder.path(), pairs).await
        }
        Suite::Readers { binary, pairs } => {
            report::machine(&binary)?;
            readers::run(&binary, folder.path(), pairs).await
        }
        Suite::Flood { parts, pairs } => {
            report::machine(&parts.binary)?;
            flood::run(&parts.binary, &parts.kafka, folder.path(), pairs).await
        }
        Suite::Index { redis } => index::measure(folder.path(), redis.as_deref()).await,
        Suite::Ingest { parts, quick, flamegraph } => {
            report::machine(&parts.binary)?;
            let Parts { binary, kafka, broker } = &parts;
            if let Some(svg) = flamegraph {
                return ingest::flame_graph(binary, kafka, folder.path(), &svg).await;
            }
            let effort = if quick { Effort::QUICK } else { Effort::FULL };
            ingest::run(binary, kafka, *broker, folder.path(), effort).await
        }
    }
}
