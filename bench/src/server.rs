//! The binary under measurement: a role of `bin/chalkstream` on free ports in a folder of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const READY_DEADLINE: Duration = Duration::from_secs(120);

/// A running role; killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    binary: PathBuf,
    data_dir: PathBuf,
    process: Child,
    runtime: Value,
}

impl Server {
    /// Starts `binary role` with `arguments` and waits until it is ready.
    pub(crate) fn start(
        binary: &Path,
        role: &str,
        data_dir: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        std::fs::create_dir_all(data_dir)?;
        let log = std::fs::File::create(data_dir.with_extension("log"))?;
        let mut process = Command::new(binary)
            .arg(role)
            .args(arguments)
            .arg("--data-dir")
            .arg(data_dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}", binary.display()))?;
        let deadline = Instant::now() + READY_DEADLINE;
        let runtime = loop {
            if let Ok(text) = std::fs::read_to_string(data_dir.join("runtime.json")) {
                break serde_json::from_str(&text).context("runtime.json")?;
            }
            if let Some(status) = process.try_wait()? {
                let log = std::fs::read_to_string(data_dir.with_extension("log"))?;
                bail!("{role} stopped with {status}:\n{log}");
            }
            if Instant::now() > deadline {
                bail!("{role} was not ready after {} s", READY_DEADLINE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let (binary, data_dir) = (binary.to_owned(), data_dir.to_owned());
        Ok(Self { binary, data_dir, process, runtime })
    }

    /// `127.0.0.1:port` of the ingest endpoint.
    pub(crate) fn http_address(&self) -> Result<String> {
        let url = self.runtime["http_url"].as_str().context("runtime.json has no http_url")?;
        Ok(url.trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    /// `127.0.0.1:port` of ClickHouse's HTTP interface.
    pub(crate) fn sql_address(&self) -> Result<String> {
        let url = self.runtime["clickhouse_url"].as_str();
        let url = url.context("runtime.json has no clickhouse_url")?;
        Ok(url.trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    /// Runs a command of the binary on this folder; its JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = Command::new(&self.binary)
            .args(arguments)
            .args(["--json", "--data-dir"])
            .arg(&self.data_dir)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("{}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        serde_json::from_slice(&output.stdout).context("the command printed no JSON")
    }

    /// A write key of the school `bench`.
    pub(crate) fn create_key(&self) -> Result<String> {
        let created = self.json(&["keys", "create", "--school", "bench"])?;
        Ok(created["key"].as_str().context("keys create prints a key")?.to_owned())
    }

    /// One number out of one query.
    pub(crate) fn number(&self, query: &str) -> Result<u64> {
        let row = self.json(&["sql", query])?;
        let value = row.as_object().and_then(|row| row.values().next());
        value.and_then(Value::as_u64).with_context(|| format!("{query} gave {row}"))
    }

    /// Sum of the Prometheus samples of these metrics, whatever their labels. Costs the server
    /// next to nothing, so it may be asked while it is measured.
    pub(crate) fn metric(&self, names: &[&str]) -> Result<u64> {
        let mut tcp = TcpStream::connect(self.http_address()?)?;
        tcp.write_all(b"GET /metrics HTTP/1.0\r\nhost: bench\r\n\r\n")?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        let samples = answer.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            names.contains(&name).then(|| value.parse::<u64>())
        });
        let values = samples.collect::<Result<Vec<_>, _>>()?;
        anyhow::ensure!(!values.is_empty(), "/metrics has none of {}", names.join(", "));
        Ok(values.iter().sum())
    }

    /// The process, for `/proc` and profilers.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Stops it cleanly, so that everything is on disk.
    pub(crate) fn stop(mut self) -> Result<()> {
        let status = Command::new("kill").arg(self.process.id().to_string()).status()?;
        anyhow::ensure!(status.success(), "could not stop the server");
        let status = self.process.wait()?;
        anyhow::ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) && self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}
