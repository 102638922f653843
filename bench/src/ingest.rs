//! `make bench-ingest`: ingest beside the floor in one run.
//!
//! Throughput by connections and by the size of batches, compressed bodies, latency of single
//! events at fixed rates, memory under idle connections. Every line is measured on the same broker;
//! ratios are medians of pairs of runs in turn.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::load::{self, Encoding, Load, Outcome, Until};
use crate::pairs::{NO_LEARNER_LIMIT, Pairs, Sides};
use crate::report::{float, say};
use crate::server::Server;
use crate::{disk, flame, idle};

/// Connections and batches of the throughput that a budget is set for.
const BUDGET_CONNECTIONS: [u64; 2] = [16, 32];
const BUDGET_BATCH: usize = 500;
const BATCHES: [usize; 4] = [1, 10, 100, 2_000];
const CONNECTIONS: [u64; 4] = [1, 4, 64, 256];
const RATES: [u64; 3] = [100, 1_000, 3_000];
/// Connections that share a rate.
const OPEN_LOOP_CONNECTIONS: u64 = 50;

/// How long everything may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pairs: u64,
    run: Duration,
    latency: Duration,
    prepared_batches: u64,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        pairs: 3,
        run: Duration::from_secs(4),
        latency: Duration::from_secs(8),
        prepared_batches: 600,
    };
    pub(crate) const QUICK: Self = Self {
        pairs: 1,
        run: Duration::from_millis(1_500),
        latency: Duration::from_secs(3),
        prepared_batches: 200,
    };
}

/// A load as fast as the server answers.
pub(crate) fn closed(connections: u64, batch: usize, until: Until) -> Load {
    Load {
        address: String::new(),
        key: String::new(),
        connections,
        batch,
        until,
        pace: Duration::ZERO,
        may_be_refused: false,
        run: 0,
        encoding: None,
        prepared: false,
    }
}

/// Single events at a fixed rate, for so long.
pub(crate) fn open(rate: u64, connections: u64, span: Duration) -> Load {
    let pace = Duration::from_secs_f64(float(connections) / float(rate));
    Load { pace, ..closed(connections, 1, Until::Elapsed(span)) }
}

pub(crate) async fn run(
    binary: &Path,
    kafka: &str,
    broker: Option<u32>,
    folder: &Path,
    effort: Effort,
) -> Result<()> {
    let mut sides = Sides::start(binary, kafka, broker, &folder.join("ingest"))?;
    let for_a_while = Until::Elapsed(effort.run);
    // Every code path once, every JVM method compiled: not measured.
    sides.pairs(&closed(16, BUDGET_BATCH, for_a_while), 1).await?;

    say("Throughput, batches of 500 (the budget: at least 0.70 of the floor)");
    for connections in BUDGET_CONNECTIONS {
        let load = closed(connections, BUDGET_BATCH, for_a_while);
        let pairs = sides.pairs(&load, effort.pairs).await?;
        say(&format!("  {connections:3} connections: {}", both(&pairs)));
    }
    for connections in CONNECTIONS {
        let load = closed(connections, BUDGET_BATCH, for_a_while);
        say(&format!("  {connections:3} connections: {}", both(&sides.pairs(&load, 1).await?)));
    }
    say("Throughput by the size of batches, 16 connections");
    for batch in BATCHES {
        let load = closed(16, batch, for_a_while);
        say(&format!("  batches of {batch:4}: {}", both(&sides.pairs(&load, 1).await?)));
    }
    say("Throughput of compressed bodies made beforehand, batches of 500, 16 connections");
    for encoding in [None, Some(Encoding::Gzip), Some(Encoding::Zstd)] {
        let batches = Until::Batches(effort.prepared_batches / 16);
        let load = Load { prepared: true, encoding, ..closed(16, BUDGET_BATCH, batches) };
        let ours = sides.ours(&load).await?;
        say(&format!(
            "  {:5} {:.0} events/s, {:.2} µs of processor time an event",
            encoding.map_or("plain", Encoding::name),
            ours.outcome.events_per_second(),
            ours.server_us
        ));
    }
    latencies(&mut sides, binary, folder, effort).await?;
    idle::measure(&sides.server).await?;
    sides.server.stop()
}

async fn latencies(sides: &mut Sides, binary: &Path, folder: &Path, effort: Effort) -> Result<()> {
    let data_dir = folder.join("embedded");
    // With everything behind it: the embedded log serves one process.
    let arguments = ["--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"];
    let embedded = Server::start(binary, "standalone", &data_dir, &arguments, &[NO_LEARNER_LIMIT])?;
    let (address, key) = (embedded.http_address()?, embedded.create_key()?);
    say(&format!(
        "Latency of single events at a fixed rate, from when each was due, {OPEN_LOOP_CONNECTIONS} connections; p50/p99/p99.9 ms\n  (budgets at 1,000/s: p99 < 20 on Kafka, < 10 embedded)"
    ));
    say(&format!("  the disk alone: {}", disk::fsync(&data_dir)?));
    for (run, rate) in (1_000..).zip(RATES) {
        let load = open(rate, OPEN_LOOP_CONNECTIONS, effort.latency);
        let floor = sides.floor(&load).await?;
        let ours = sides.ours(&load).await?;
        let here = Load { address: address.clone(), key: key.clone(), run, ..load };
        let embedded = load::run(&here).await?;
        say(&format!(
            "  {rate:5}/s: floor {}, Kafka {}, embedded {}",
            tail(&floor.outcome),
            tail(&ours.outcome),
            tail(&embedded)
        ));
    }
    embedded.stop()
}

/// Profiles Chalkstream at batches of 500 and writes a flame graph.
pub(crate) async fn flame_graph(
    binary: &Path,
    kafka: &str,
    folder: &Path,
    svg: &Path,
) -> Result<()> {
    let mut sides = Sides::start(binary, kafka, None, &folder.join("ingest"))?;
    let load = closed(16, BUDGET_BATCH, Until::Elapsed(Duration::from_secs(12)));
    let profile = flame::Profile::start(sides.server.pid(), folder, Duration::from_secs(10))?;
    sides.ours(&load).await?;
    profile.draw(svg)?;
    say(&format!("the flame graph is in {}", svg.display()));
    sides.server.stop()
}

fn tail(outcome: &Outcome) -> String {
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| outcome.percentile_ms(share));
    format!("{p50:.1}/{p99:.1}/{p999:.1}")
}

/// One line of a pair.
pub(crate) fn both(pairs: &Pairs) -> String {
    let Pairs { floor, ours, ratio } = pairs;
    let side = |measured: &crate::pairs::Measured| {
        format!(
            "{:.0} events/s, p50/p99 {:.1}/{:.1} ms, µs an event {:.2} + broker {:.2}",
            measured.outcome.events_per_second(),
            measured.outcome.percentile_ms(0.5),
            measured.outcome.percentile_ms(0.99),
            measured.server_us,
            measured.broker_us
        )
    };
    format!("ratio {ratio:.2}\n      floor       {}\n      chalkstream {}", side(floor), side(ours))
}
