//! A running `chalkstream standalone` in a folder of its own, driven by its command line alone.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(60);

/// The process is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Pipeline {
    binary: PathBuf,
    data_dir: PathBuf,
    process: Child,
    pub(crate) http_url: String,
}

impl Pipeline {
    /// Starts the pipeline on free ports and waits until it is ready.
    pub(crate) fn start(binary: &Path, data_dir: &Path) -> Result<Self> {
        let log = std::fs::File::create(data_dir.with_extension("log"))
            .context("could not make the server's log file")?;
        let process = Command::new(binary)
            .args(["standalone", "--listen", "127.0.0.1:0", "--clickhouse-listen", "127.0.0.1:0"])
            .arg("--data-dir")
            .arg(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("could not start {}; run `make build`", binary.display()))?;
        let mut pipeline = Self {
            binary: binary.to_owned(),
            data_dir: data_dir.to_owned(),
            process,
            http_url: String::new(),
        };
        pipeline.http_url = pipeline.wait_until_ready()?;
        Ok(pipeline)
    }

    fn wait_until_ready(&mut self) -> Result<String> {
        let deadline = Instant::now() + START_DEADLINE;
        let runtime = self.data_dir.join("runtime.json");
        loop {
            if let Ok(text) = std::fs::read_to_string(&runtime) {
                let value: Value = serde_json::from_str(&text).context("runtime.json")?;
                return Ok(value["http_url"].as_str().context("http_url")?.to_owned());
            }
            if let Some(status) = self.process.try_wait()? {
                bail!("the pipeline stopped with {status}; see {}", self.log_path().display());
            }
            if Instant::now() > deadline {
                bail!("the pipeline was not ready after {} s", START_DEADLINE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where the server's log lines go.
    pub(crate) fn log_path(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// Runs a command whose standard output is one JSON value a line.
    pub(crate) fn json(&self, args: &[&str]) -> Result<Vec<Value>> {
        let text = self.run(args, &["--json"])?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("not JSON: {line}")))
            .collect()
    }

    /// Runs a command for people and returns what it prints.
    pub(crate) fn text(&self, args: &[&str]) -> Result<String> {
        self.run(args, &[])
    }

    fn run(&self, args: &[&str], more: &[&str]) -> Result<String> {
        let output = Command::new(&self.binary)
            .args(args)
            .args(more)
            .arg("--data-dir")
            .arg(&self.data_dir)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .output()
            .with_context(|| format!("could not run chalkstream {}", args.join(" ")))?;
        // `send` answers 1 where events were rejected: that is the demo's intention.
        let sent_with_rejects = args.first() == Some(&"send") && output.status.code() == Some(1);
        if !output.status.success() && !sent_with_rejects {
            bail!(
                "chalkstream {} failed with {}:\n{}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        String::from_utf8(output.stdout).context("the output is not UTF-8")
    }

    /// One number out of one query.
    pub(crate) fn number(&self, query: &str) -> Result<f64> {
        let rows = self.json(&["sql", query])?;
        let row = rows.first().and_then(Value::as_object).context("the query gave no row")?;
        let value = row.values().next().context("the query gave no column")?;
        value.as_f64().with_context(|| format!("{query} gave {value}, not a number"))
    }

    /// Asks it to stop and waits: everything is flushed when this returns.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate()?;
        let deadline = Instant::now() + STOP_DEADLINE;
        while Instant::now() < deadline {
            if let Some(status) = self.process.try_wait()? {
                if status.success() {
                    return Ok(());
                }
                bail!("the pipeline ended with {status}; see {}", self.log_path().display());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("the pipeline did not stop within {} s", STOP_DEADLINE.as_secs())
    }

    fn terminate(&self) -> Result<()> {
        let pid = i32::try_from(self.process.id()).context("process id")?;
        let pid = rustix::process::Pid::from_raw(pid).context("process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("could not stop the pipeline")
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        if matches!(self.process.try_wait(), Ok(None)) && self.process.kill().is_ok() {
            drop(self.process.wait());
        }
    }
}
