//! `make bench`: Chalkstream beside its floor, in one run, as ratios.
//!
//! - ingest on Kafka beside the floor server (hyper, parse, produce), batches of 500;
//! - one event a request at 1,000 requests/s: latency on Kafka, on the embedded log, of the floor;
//! - one key's flood at 20 times its limit: another key's latency beside its quiet value;
//! - the index of seen events, on this node and with Redis;
//! - standalone, from HTTP until visible to SQL, with the rows written and the bytes an event takes.
//!
//! Absolute figures depend on the machine, which is printed; the ratios are what to compare.

mod events;
mod flood;
mod floor;
mod index;
mod load;
mod server;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;

use crate::load::{Load, Outcome};
use crate::server::Server;

#[derive(Debug, Parser)]
struct Options {
    /// The release binary
    #[arg(long, default_value = "bin/chalkstream")]
    binary: PathBuf,
    /// Bootstrap address of a running Kafka broker; without it what needs Kafka is left out
    #[arg(long)]
    kafka: Option<String>,
    /// Address of a running Redis server; without it what needs Redis is left out
    #[arg(long)]
    redis: Option<String>,
    /// Events of each throughput run
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Pairs of runs (floor, Chalkstream) whose median ratio is reported
    #[arg(long, default_value_t = 3)]
    pairs: u64,
    /// Measure nothing but the flood; needs --kafka
    #[arg(long, requires = "kafka")]
    flood_only: bool,
}

const BATCH: usize = 500;
const CONNECTIONS: [u64; 2] = [16, 32];
/// All rows that the processor writes.
const ROWS_WRITTEN: [&str; 3] = [
    "processor_rows_written_total",
    "processor_states_written_total",
    "processor_rejected_rows_written_total",
];
const VISIBLE: [&str; 1] = ["processor_visible_offset"];

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let folder = tempfile::tempdir()?;
    machine(&options)?;
    if let Some(kafka) = &options.kafka {
        if !options.flood_only {
            ingest_on_kafka(&options, kafka, folder.path()).await?;
        }
        flood::run(&options.binary, kafka, folder.path(), options.pairs).await?;
    } else {
        say("Kafka: left out (no --kafka)");
    }
    if options.flood_only {
        return Ok(());
    }
    index::measure(folder.path(), options.redis.as_deref()).await?;
    standalone(&options, folder.path()).await
}

fn machine(options: &Options) -> Result<()> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism()?;
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let memory = memory.lines().next().unwrap_or_default();
    let version = std::process::Command::new(&options.binary).arg("--version").output()?;
    say(&format!(
        "Machine: {cores} cores{model}, {memory}\nVersion: {}\nData: generated, 14 of 20 events graded answers; client on the same cores\n",
        String::from_utf8_lossy(&version.stdout).trim()
    ));
    Ok(())
}

async fn ingest_on_kafka(options: &Options, kafka: &str, folder: &Path) -> Result<()> {
    floor::create_topic(kafka).await?;
    let floor = floor::start(kafka).await?.to_string();
    let environment = [
        ("CHALKSTREAM__LOG__KIND", "kafka"),
        ("CHALKSTREAM__LOG__BROKERS", kafka),
        // 10,000 learners send for a million: each is counted, and nobody refused.
        ("CHALKSTREAM__INGEST__LIMITS__LEARNER_EVENTS_PER_MINUTE", "1000000"),
    ];
    let data_dir = folder.join("ingest");
    let server = Server::start(
        &options.binary,
        "ingest",
        &data_dir,
        &["--listen", "127.0.0.1:0"],
        &environment,
    )?;
    let (address, key) = (server.http_address()?, server.create_key()?);
    let mut run = 0;
    say("Ingest on Kafka, batches of 500, events/s (median ratio of pairs in turn)");
    for connections in CONNECTIONS {
        let mut ratios = Vec::new();
        let mut last = None;
        for _ in 0..options.pairs {
            run += 2;
            let load = |address: &str, run| Load {
                address: address.to_owned(),
                key: key.clone(),
                connections,
                batch: BATCH,
                batches: options.events / connections / 500,
                pace: Duration::ZERO,
                may_be_refused: false,
                run,
            };
            let base = load::run(&load(&floor, run)).await?;
            let ours = load::run(&load(&address, run + 1)).await?;
            ratios.push(ours.events_per_second() / base.events_per_second());
            last = Some((base, ours));
        }
        ratios.sort_by(f64::total_cmp);
        let (base, ours) = last.context("at least one pair")?;
        say(&format!(
            "  {connections} connections: floor {:.0}, chalkstream {:.0}, ratio {:.2}; request p50/p99 ms floor {:.1}/{:.1}, chalkstream {:.1}/{:.1}",
            base.events_per_second(),
            ours.events_per_second(),
            ratios[ratios.len() / 2],
            base.percentile_ms(0.5),
            base.percentile_ms(0.99),
            ours.percentile_ms(0.5),
            ours.percentile_ms(0.99),
        ));
    }
    let base = single_events(&floor, &key, run + 2).await?;
    let ours = single_events(&address, &key, run + 3).await?;
    say(&format!(
        "  one event a request, 1,000/s: p50/p99 ms floor {:.1}/{:.1}, chalkstream {:.1}/{:.1}\n",
        base.percentile_ms(0.5),
        base.percentile_ms(0.99),
        ours.percentile_ms(0.5),
        ours.percentile_ms(0.99),
    ));
    server.stop()
}

/// 1,000 requests/s of one event for ten seconds, on 20 connections.
async fn single_events(address: &str, key: &str, run: u64) -> Result<Outcome> {
    let load = Load {
        address: address.to_owned(),
        key: key.to_owned(),
        connections: 20,
        batch: 1,
        batches: 500,
        pace: Duration::from_millis(20),
        may_be_refused: false,
        run,
    };
    load::run(&load).await
}

async fn standalone(options: &Options, folder: &Path) -> Result<()> {
    let data_dir = folder.join("standalone");
    let arguments = ["--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"];
    let server = Server::start(&options.binary, "standalone", &data_dir, &arguments, &[])?;
    let (address, key) = (server.http_address()?, server.create_key()?);
    let latency = single_events(&address, &key, 1_000).await?;
    let before = latency.events;
    wait_until_visible(&server, before)?;

    let begun = Instant::now();
    let load = Load {
        address,
        key,
        connections: 8,
        batch: BATCH,
        batches: options.events / 8 / 500,
        pace: Duration::ZERO,
        may_be_refused: false,
        run: 1_001,
    };
    let sent = load::run(&load).await?;
    wait_until_visible(&server, before + sent.events)?;
    let visible = begun.elapsed().as_secs_f64();
    let memory = server.peak_memory_mib()?;
    let rows = server.metric(&ROWS_WRITTEN)?;
    server.stop()?;

    let events = before + sent.events;
    say("Standalone (embedded log, ClickHouse as a library, lake), all of it on these cores");
    say(&format!(
        "  {} events, batches of 500, 8 connections: acknowledged {:.0} events/s, visible to SQL {:.0} events/s",
        sent.events,
        sent.events_per_second(),
        float(sent.events) / visible,
    ));
    say(&format!(
        "  rows written per event {:.2}; peak memory {memory} MiB",
        float(rows) / float(events)
    ));
    say(&format!(
        "  one event a request, 1,000/s: p50/p99 ms {:.1}/{:.1}",
        latency.percentile_ms(0.5),
        latency.percentile_ms(0.99)
    ));
    let per_event = |part: &str| -> Result<f64> {
        Ok(float(bytes_below(&data_dir.join(part))?) / float(events))
    };
    say(&format!(
        "  bytes per event on disk: log {:.0}, ClickHouse {:.0}, lake {:.0}",
        per_event("log")?,
        per_event("clickhouse")?,
        per_event("lake")?
    ));
    Ok(())
}

fn wait_until_visible(server: &Server, events: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(600);
    // The views count, but asking them takes the cores that are measured: not before it is near.
    while server.metric(&VISIBLE)? < events {
        anyhow::ensure!(Instant::now() < deadline, "events were not visible after 600 s");
        std::thread::sleep(Duration::from_millis(20));
    }
    while server.number("SELECT count() AS n FROM events")? < events {
        anyhow::ensure!(Instant::now() < deadline, "events were not visible after 600 s");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Bytes of all files below a folder.
fn bytes_below(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        bytes += if entry.file_type()?.is_dir() {
            bytes_below(&entry.path())?
        } else {
            entry.metadata()?.len()
        };
    }
    Ok(bytes)
}

#[expect(clippy::print_stdout, reason = "a benchmark prints its figures")]
fn say(line: &str) {
    println!("{line}");
}

#[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^53")]
pub(crate) fn float(count: u64) -> f64 {
    count as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a non-negative index far below 2^53"
)]
pub(crate) fn round(value: f64) -> usize {
    value.round() as usize
}
