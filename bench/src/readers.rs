//! Eight heavy readers of SQL beside ingest, all in `standalone`: what does an event take meanwhile?
//!
//! Events come one a request, 500 a second. Each reader asks for what never ends, and asks again when
//! its time is over. Quiet and beside readers are measured in turn, and the median ratio of p99 is
//! reported: it should stay below 2.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::ingest::open;
use crate::load::{self, Load};
use crate::process;
use crate::report::say;
use crate::server::Server;

const READERS: usize = 8;
const SPAN: Duration = Duration::from_secs(15);
/// A reader's query ends by itself after so long.
const QUERY: &str = "10s";
const HEAVY: &str = "SELECT count() FROM system.numbers";

pub(crate) async fn run(binary: &Path, folder: &Path, pairs: u64) -> Result<()> {
    let arguments = ["--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"];
    let environment = [("CHALKSTREAM__CLICKHOUSE__READER_TIMEOUT", QUERY)];
    let data_dir = folder.join("readers");
    let server = Server::start(binary, "standalone", &data_dir, &arguments, &environment)?;
    let (address, key) = (server.http_address()?, server.create_key()?);
    let single =
        |run| Load { address: address.clone(), key: key.clone(), run, ..open(500, 20, SPAN) };
    // Everything is warm before anything counts.
    load::run(&single(3_000)).await?;
    let mut ratios = Vec::new();
    let mut last = None;
    for pair in 0..pairs {
        let quiet = load::run(&single(3_001 + 2 * pair)).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (address, stop) = (server.sql_address(), Arc::clone(&stop));
                std::thread::spawn(move || read_on(&address?, &stop))
            })
            .collect();
        let beside = load::run(&single(3_002 + 2 * pair)).await;
        let ninth = Instant::now();
        let answer = ask(&server.sql_address()?, "SELECT 1");
        let ninth = ninth.elapsed();
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().ok().context("a reader's thread died")??;
        }
        let beside = beside?;
        ratios.push(beside.percentile_ms(0.99) / quiet.percentile_ms(0.99));
        last = Some((quiet, beside, answer?, ninth));
    }
    ratios.sort_by(f64::total_cmp);
    let memory = process::memory_mib(server.pid(), "VmHWM")?;
    server.stop()?;
    if let (Some((quiet, beside, answer, ninth)), Some(ratio)) =
        (last, ratios.get(ratios.len() / 2))
    {
        say(&format!(
            "{READERS} readers of `{HEAVY}` beside one event a request, 500/s, in standalone\n  \
             p50/p99 ms: quiet {:.1}/{:.1}, beside readers {:.1}/{:.1}, median ratio of p99 {ratio:.2}\n  \
             a ninth reader: {answer} after {:.1} s; peak memory {memory:.0} MiB\n",
            quiet.percentile_ms(0.5),
            quiet.percentile_ms(0.99),
            beside.percentile_ms(0.5),
            beside.percentile_ms(0.99),
            ninth.as_secs_f64(),
        ));
    }
    Ok(())
}

fn read_on(address: &str, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        ask(address, HEAVY)?;
    }
    Ok(())
}

/// The first line of the answer to a query.
fn ask(address: &str, query: &str) -> Result<String> {
    let mut tcp = TcpStream::connect(address)?;
    let length = query.len();
    write!(tcp, "POST / HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-length: {length}\r\n\r\n{query}")?;
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}
