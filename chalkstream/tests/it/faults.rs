//! Trouble under load, with exact books at the end of each: every acknowledged event stands once,
//! none that was rejected stands at all, what was answered with 429 or 503 and given up at most once.
//!
//! `CHALKSTREAM_SOAK` makes every trouble last longer (`make soak`).

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use chalkstream_event_log::test_support::Broker;
use rustix::process::Signal;

use crate::folders::lake_identities;
use crate::load::{EVENTS, Load, Manner, by_learner};
use crate::proxy::{Mode, Proxy};
use crate::roles_alone::{broker, on_kafka};
use crate::support::{Environment, Running, number, settings};

/// Half of the clients' refused events are given up, and nobody waits for an answer for long.
const HASTY: Manner =
    Manner { gives_up: true, pause: Duration::from_millis(10), timeout: Duration::from_secs(5) };

/// The short form's time, or the long one's.
fn lasting(short: Duration, long: Duration) -> Duration {
    if number("CHALKSTREAM_SOAK").is_some() { long } else { short }
}

/// `standalone` with its books over several troubles.
struct Pipeline {
    running: Running,
    key: String,
    events: u64,
}

impl Pipeline {
    fn start(data_dir: &Path, environment: &Environment) -> Self {
        let hasty = settings(&[
            ("archive.interval", "1s"),
            ("ingest.request_timeout", "2s"),
            ("log.breaker.slow_after", "1s"),
            // A few learners send as fast as they can: more than anybody's limit.
            ("ingest.limits.learner_events_per_minute", "0"),
        ]);
        let environment = [environment.clone(), hasty].concat();
        let running = Running::start_role("standalone", data_dir, &environment);
        let key = running.create_key("lincoln", "events:write");
        Self { running, key, events: 0 }
    }

    /// Sends while `trouble` lasts and for a while after it, then counts.
    fn under_load(&mut self, name: &str, urls: &[&str], trouble: impl FnOnce(&Load, &mut Self)) {
        let key = self.key.clone();
        let load = Load::start(name, &key, urls, HASTY, 3);
        load.go_on_for(3);
        trouble(&load, self);
        load.go_on_for(3);
        let sent = load.stop();
        self.running.wait_until_archived();
        let mut stored = by_learner(&self.running.ask(EVENTS));
        stored.retain(|learner, _| learner.starts_with(&format!("learner-{name}-")));
        sent.check(&stored, name);
        self.events += stored.values().map(|ids| ids.len() as u64).sum::<u64>();
    }

    /// Nothing but what was counted is there, in the lake either.
    fn stop(self) {
        let found = self.running.sql("SELECT count() AS events FROM events");
        assert_eq!(found[0]["events"], self.events);
        let table = self.running.data_dir.join("lake/events");
        let said = self.running.said("err");
        assert_eq!(self.running.stop(Signal::TERM).code(), Some(0), "{said}");
        assert_eq!(lake_identities(&table).len() as u64, self.events, "events in the lake");
    }
}

#[test]
fn nothing_is_lost_or_doubled_when_the_broker_stops_dies_or_hangs() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("kafka");
    let Some(started) = broker(&data, None) else { return };
    let mut broker = Some(started);
    let environment = on_kafka(broker.as_ref().unwrap());
    let mut pipeline = Pipeline::start(&folder.path().join("data"), &environment);
    let url = pipeline.running.http_url().to_owned();
    let urls = [url.as_str()];
    let mut end = |ended: fn(Broker)| {
        ended(broker.take().unwrap());
        std::thread::sleep(lasting(Duration::from_secs(2), Duration::from_secs(20)));
        broker = Some(Broker::start_on(&data, None).unwrap());
    };
    pipeline.under_load("stopped", &urls, |_, _| end(Broker::stop));
    pipeline.under_load("killed", &urls, |_, _| end(Broker::kill));
    pipeline.under_load("paused", &urls, |_, _| {
        let broker = broker.as_ref().unwrap();
        broker.signal("-STOP");
        std::thread::sleep(Duration::from_secs(30));
        broker.signal("-CONT");
    });
    pipeline.stop();
}

#[test]
fn nothing_is_lost_or_doubled_when_connections_are_cut_or_a_node_dies() {
    let folder = tempfile::tempdir().unwrap();
    let before_kafka = Proxy::start();
    let started = broker(&folder.path().join("kafka"), Some(before_kafka.address.port()));
    let Some(broker) = started else { return };
    before_kafka.point_to(broker.bootstrap().parse().unwrap());
    let mut environment = on_kafka(&broker);
    let through = before_kafka.address.to_string();
    for (name, value) in &mut environment {
        if name.ends_with("BROKERS") {
            value.clone_from(&through);
        }
    }
    let mut pipeline = Pipeline::start(&folder.path().join("data"), &environment);
    let first = pipeline.running.http_url().to_owned();
    let before_ingest = Proxy::start();
    before_ingest.point_to(address(&first));

    let cut = |proxy: &Proxy, requests, answers| {
        let before = proxy.cuts();
        proxy.set(Mode::Cut { requests, answers });
        let long = lasting(Duration::from_secs(3), Duration::from_secs(60));
        let deadline = Instant::now() + long + Duration::from_secs(60);
        std::thread::sleep(long);
        while proxy.cuts() < before + 5 {
            assert!(Instant::now() < deadline, "only {} cuts", proxy.cuts() - before);
            std::thread::sleep(Duration::from_millis(20));
        }
        proxy.set(Mode::Open);
    };
    let proxied = before_ingest.url();
    // A batch has about 10 KB, its answer a few hundred bytes.
    pipeline.under_load("cut-clients", &[&proxied], |_, _| cut(&before_ingest, 1..15_000, 1..300));
    pipeline.under_load("cut-kafka", &[&first], |_, _| cut(&before_kafka, 1..30_000, 1..5_000));

    // A second node; both take from all clients.
    let second_dir = folder.path().join("second");
    let mut second = Some(node(&second_dir, &environment, &pipeline.running.data_dir));
    for (name, signal) in [("node-stopped", Signal::TERM), ("node-killed", Signal::KILL)] {
        let url = second.as_ref().unwrap().http_url().to_owned();
        pipeline.under_load(name, &[&first, &url], |load, pipeline| {
            let ended = second.take().unwrap().stop(signal);
            assert_eq!(ended.success(), signal == Signal::TERM, "{name}: {ended}");
            load.go_on_for(3);
            let again = node(&second_dir, &environment, &pipeline.running.data_dir);
            load.redirect(&[&first, again.http_url()]);
            second = Some(again);
        });
    }
    drop(second);
    pipeline.stop();
}

#[test]
fn nothing_is_lost_or_doubled_when_standalone_is_stopped_under_load() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let mut pipeline = Pipeline::start(&data, &Vec::new());
    let url = pipeline.running.http_url().to_owned();
    pipeline.under_load("stop", &[&url], |load, pipeline| {
        for _ in 0..2 {
            pipeline.running.signal(Signal::TERM);
            assert_eq!(pipeline.running.wait_for_end().code(), Some(0));
            let environment = pipeline.running.environment().clone();
            pipeline.running = Running::start_role("standalone", &data, &environment);
            load.redirect(&[pipeline.running.http_url()]);
            load.go_on_for(3);
        }
    });
    pipeline.stop();
}

/// An ingest node with the keys of another.
fn node(data_dir: &Path, environment: &Environment, keys_of: &Path) -> Running {
    std::fs::create_dir_all(data_dir).unwrap();
    std::fs::copy(keys_of.join("keys.toml"), data_dir.join("keys.toml")).unwrap();
    let environment = [environment.clone(), settings(&[("ingest.keys.store", "file")])].concat();
    Running::start_role("ingest", data_dir, &environment)
}

fn address(url: &str) -> SocketAddr {
    url.trim_start_matches("http://").parse().unwrap()
}
