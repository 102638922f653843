//! Standalone, from HTTP until visible to SQL: speed, rows written, memory, and bytes on disk.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::ingest::{closed, open};
use crate::load::{self, Load, Until};
use crate::report::{float, say};
use crate::server::Server;
use crate::{disk, process};

const BATCH: usize = 500;
/// All rows that the processor writes.
const ROWS_WRITTEN: [&str; 3] = [
    "processor_rows_written_total",
    "processor_states_written_total",
    "processor_rejected_rows_written_total",
];
const VISIBLE: [&str; 1] = ["processor_visible_offset"];

pub(crate) async fn run(binary: &Path, folder: &Path, events: u64) -> Result<()> {
    let data_dir = folder.join("standalone");
    let arguments = ["--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"];
    let server = Server::start(binary, "standalone", &data_dir, &arguments, &[])?;
    let (address, key) = (server.http_address()?, server.create_key()?);
    let single = open(1_000, 20, Duration::from_secs(10));
    let single = Load { address: address.clone(), key: key.clone(), run: 1_000, ..single };
    let latency = load::run(&single).await?;
    // While the engine behind writes to the same disk.
    let disk = disk::fsync(&data_dir)?;
    let before = latency.events;
    wait_until_visible(&server, before)?;

    let begun = Instant::now();
    let load = closed(8, BATCH, Until::Batches(events / 8 / 500));
    let load = Load { address, key, run: 1_001, ..load };
    let sent = load::run(&load).await?;
    wait_until_visible(&server, before + sent.events)?;
    let visible = begun.elapsed().as_secs_f64();
    let memory = process::memory_mib(server.pid(), "VmHWM")?;
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
        "  rows written per event {:.2}; peak memory {memory:.0} MiB",
        float(rows) / float(events)
    ));
    say(&format!(
        "  one event a request, 1,000/s: p50/p99 ms {:.1}/{:.1}; the disk alone: {disk}",
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
