//! The floor and Chalkstream in turn, on the same broker, with the processor time that an event
//! costs each.

use std::path::Path;

use anyhow::{Context, Result};

use crate::floor::Floor;
use crate::load::{self, Load, Outcome};
use crate::process::cpu_seconds;
use crate::report::float;
use crate::server::Server;

/// 10,000 learners send for a million: each is counted, and nobody refused.
pub(crate) const NO_LEARNER_LIMIT: (&str, &str) =
    ("CHALKSTREAM__INGEST__LIMITS__LEARNER_EVENTS_PER_MINUTE", "1000000");

/// Both servers, and the broker behind them.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) floor: Floor,
    pub(crate) server: Server,
    pub(crate) key: String,
    broker: Option<u32>,
    address: String,
    runs: u64,
}

/// One run, and the microseconds of processor time that an event took.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) outcome: Outcome,
    pub(crate) server_us: f64,
    pub(crate) broker_us: f64,
}

/// Several pairs of runs.
#[derive(Debug)]
pub(crate) struct Pairs {
    /// The last pair.
    pub(crate) floor: Measured,
    pub(crate) ours: Measured,
    /// Median of Chalkstream's throughput over the floor's.
    pub(crate) ratio: f64,
}

impl Sides {
    pub(crate) fn start(
        binary: &Path,
        kafka: &str,
        broker: Option<u32>,
        folder: &Path,
    ) -> Result<Self> {
        let floor = Floor::start(kafka)?;
        let environment = [
            ("CHALKSTREAM__LOG__KIND", "kafka"),
            ("CHALKSTREAM__LOG__BROKERS", kafka),
            NO_LEARNER_LIMIT,
        ];
        let arguments = ["--listen", "127.0.0.1:0"];
        let server = Server::start(binary, "ingest", folder, &arguments, &environment)?;
        let (address, key) = (server.http_address()?, server.create_key()?);
        Ok(Self { floor, server, key, broker, address, runs: 0 })
    }

    /// Runs `load` against the floor; address, key and ids are filled in.
    pub(crate) async fn floor(&mut self, load: &Load) -> Result<Measured> {
        let (address, pid) = (self.floor.address.clone(), self.floor.pid());
        self.measure(load, address, pid).await
    }

    /// Runs `load` against Chalkstream; address, key and ids are filled in.
    pub(crate) async fn ours(&mut self, load: &Load) -> Result<Measured> {
        let (address, pid) = (self.address.clone(), self.server.pid());
        self.measure(load, address, pid).await
    }

    /// Runs `load` against both in turn, `pairs` times.
    pub(crate) async fn pairs(&mut self, load: &Load, pairs: u64) -> Result<Pairs> {
        let mut ratios = Vec::new();
        let mut last = None;
        for _ in 0..pairs {
            let floor = self.floor(load).await?;
            let ours = self.ours(load).await?;
            ratios.push(ours.outcome.events_per_second() / floor.outcome.events_per_second());
            last = Some((floor, ours));
        }
        ratios.sort_by(f64::total_cmp);
        let ratio = load::percentile(&ratios, 0.5);
        let (floor, ours) = last.context("at least one pair")?;
        Ok(Pairs { floor, ours, ratio })
    }

    async fn measure(&mut self, load: &Load, address: String, pid: u32) -> Result<Measured> {
        self.runs += 1;
        let load = Load { address, key: self.key.clone(), run: self.runs, ..load.clone() };
        let broker = |()| self.broker.map_or(Ok(0.0), cpu_seconds);
        let before = (cpu_seconds(pid)?, broker(())?);
        let outcome = load::run(&load).await?;
        let per_event = |seconds: f64| seconds * 1e6 / float(outcome.events);
        let server_us = per_event(cpu_seconds(pid)? - before.0);
        let broker_us = per_event(broker(())? - before.1);
        Ok(Measured { outcome, server_us, broker_us })
    }
}
